"""The closed set of meta-reasoning strategies, and the states of the transition matrix they give (METHOD.md §2, §3).

A YAML file or nothing enters, a `Taxonomy` leaves. `PAPER` holds the paper's 15 labels in 4 macro-strategies; a file
written by the discovery stage (METHOD.md §2b) can stand in its place, so no code may assume a number of labels: K is
always `taxonomy.K`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

START = "<start>"
STOP = "<stop>"
MAX_LABELS = 64


@dataclass(frozen=True)
class Taxonomy:
    """Labels in order, and the macro-strategy of each.

    Raises ValueError if there are none or more than 64 labels, a label repeats, is blank or reserved, or `macro` does
    not name exactly the labels.
    """

    labels: tuple[str, ...]
    macro: Mapping[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.labels) <= MAX_LABELS:
            raise ValueError(
                f"a taxonomy of {len(self.labels)} labels; allowed are 1 to {MAX_LABELS}: join or split labels"
            )
        repeated = sorted({label for label in self.labels if self.labels.count(label) > 1})
        if repeated:
            raise ValueError(f"labels {repeated} occur more than once; allowed is once each: delete the repetitions")
        bad = [label for label in self.labels if label in (START, STOP) or not label or label != label.strip()]
        if bad:
            raise ValueError(
                f"labels {bad} cannot be used; allowed is any name without outer blanks except {START} and {STOP}, "
                f"which are states of their own: rename them"
            )
        if set(self.macro) != set(self.labels):
            odd = sorted(set(self.macro) ^ set(self.labels))
            raise ValueError(f"`macro` must name exactly the labels; they differ in {odd}: give each label its macro")

    @property
    def states(self) -> tuple[str, ...]:
        """States of the chain: s0 = <start>, the labels in order, s(K-1) = <stop> (METHOD.md §3)."""
        return (START, *self.labels, STOP)

    @property
    def K(self) -> int:
        """Number of states: labels + 2."""
        return len(self.labels) + 2

    def index(self, label: str) -> int:
        """Place of a label (or <start>, <stop>) in `states`; ValueError if it is unknown."""
        try:
            return self.states.index(label)
        except ValueError:
            raise ValueError(
                f"label {label!r} is not in the taxonomy; allowed are {list(self.labels)}: mend the label or load the "
                f"taxonomy it belongs to"
            ) from None


_PAPER_MACROS = {
    "Meta-cognitive Regulation": ("framing", "backtracking", "self_verification", "evaluation"),
    "Problem-Solving Operations": ("decomposition", "chaining"),
    "Knowledge Operations": (
        "causal_reasoning",
        "retrieval",
        "analogy",
        "synthesis",
        "comparison",
        "categorization",
        "case_analysis",
    ),
    "Explanatory & Communication": ("explanation", "summarization"),
}

PAPER = Taxonomy(
    labels=tuple(label for labels in _PAPER_MACROS.values() for label in labels),
    macro={label: macro for macro, labels in _PAPER_MACROS.items() for label in labels},
)


def load_taxonomy(path: str) -> Taxonomy:
    """Read a taxonomy: `labels`, a list of {label, macro} in order.

    Raises ValueError naming the file, the entry (counted from 1), what is allowed and what to do.
    """
    with open(path, encoding="utf-8") as file:
        try:
            raw = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not YAML: {error}; mend the file") from error
    if not isinstance(raw, dict) or set(raw) != {"labels"} or not isinstance(raw["labels"], list):
        raise ValueError(f"{path}: a taxonomy has exactly one key, `labels`, with a list of {{label, macro}}; mend it")
    pairs = [_entry(item, where=f"{path}: label {number}") for number, item in enumerate(raw["labels"], start=1)]
    try:
        return Taxonomy(labels=tuple(label for label, _ in pairs), macro=dict(pairs))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _entry(item: Any, *, where: str) -> tuple[str, str]:
    """(label, macro) of one entry of the file; ValueError beginning with `where`."""
    if not isinstance(item, dict) or set(item) != {"label", "macro"}:
        raise ValueError(f"{where} is {item!r}; allowed are exactly the keys label and macro; mend the entry")
    label, macro = item["label"], item["macro"]
    if not isinstance(label, str) or not isinstance(macro, str) or not macro.strip():
        raise ValueError(f"{where} is {item!r}; label and macro must be texts that are not empty: quote them")
    return label, macro
