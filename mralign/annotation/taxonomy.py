"""The closed set of meta-reasoning strategies, and the states of the transition matrix they give (method.md §2, §3).

A YAML file or nothing enters, a `Taxonomy` leaves. `PAPER` holds the paper's 15 labels in 4 macro-strategies; a file
written by the discovery stage (method.md §2b) can stand in its place, so no code may assume a number of labels: K is
always `taxonomy.K`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
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
    meaning: Mapping[str, str] = field(default_factory=dict, hash=False)  # one sentence a label, for the instruction

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
        if not set(self.meaning) <= set(self.labels):
            raise ValueError(f"`meaning` names {sorted(set(self.meaning) - set(self.labels))}, which are no labels")

    @property
    def states(self) -> tuple[str, ...]:
        """States of the chain: s0 = <start>, the labels in order, s(K-1) = <stop> (method.md §3)."""
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


# The paper names the labels and groups them; the sentences that say what they mean are ours.
_PAPER = {
    "Meta-cognitive Regulation": {
        "framing": "says what is asked, what kind of answer is wanted, or how to go about it, before going about it",
        "backtracking": "gives up an earlier claim, candidate or line of thought and goes back",
        "self_verification": "checks an own earlier claim: recalls it again, looks for a contradiction, tests it",
        "evaluation": "judges how good, certain, relevant or complete a claim, a source or the own knowledge is",
    },
    "Problem-Solving Operations": {
        "decomposition": "splits the question into parts or sub-questions",
        "chaining": "takes the result of the step before and draws the next one from it, one after another",
    },
    "Knowledge Operations": {
        "causal_reasoning": "explains something by its cause, or infers an effect from a cause",
        "retrieval": "brings up a fact, name, date or definition from memory",
        "analogy": "carries something over from a similar case",
        "synthesis": "joins several pieces of knowledge into one claim",
        "comparison": "sets two or more candidates, facts or options against each other",
        "categorization": "says to which kind or class something belongs",
        "case_analysis": "goes through the possible cases one by one",
    },
    "Explanatory & Communication": {
        "explanation": "makes clear to a reader why or how something is so",
        "summarization": "states again in short what was found, or states the conclusion",
    },
}


def _paper() -> Taxonomy:
    macro: dict[str, str] = {}
    meaning: dict[str, str] = {}
    for group, meanings in _PAPER.items():
        macro |= dict.fromkeys(meanings, group)
        meaning |= meanings
    return Taxonomy(labels=tuple(macro), macro=macro, meaning=meaning)


PAPER = _paper()


def load_taxonomy(path: str) -> Taxonomy:
    """Read a taxonomy: `labels`, a list of {label, macro, meaning} in order; the meaning may be left out.

    Raises ValueError naming the file, the entry (counted from 1), what is allowed and what to do.
    """
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"annotation file: {path} does not exist; correct annotation.taxonomy") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}; mend the file") from error
    if not isinstance(raw, dict) or set(raw) != {"labels"} or not isinstance(raw["labels"], list):
        raise ValueError(f"{path}: a taxonomy has exactly one key, `labels`, with a list of {{label, macro}}; mend it")
    entries = [_entry(item, where=f"{path}: label {number}") for number, item in enumerate(raw["labels"], start=1)]
    try:
        return Taxonomy(
            labels=tuple(label for label, _, _ in entries),
            macro={label: macro for label, macro, _ in entries},
            meaning={label: meaning for label, _, meaning in entries if meaning},
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _entry(item: Any, *, where: str) -> tuple[str, str, str]:
    """(label, macro, meaning or "") of one entry of the file; ValueError beginning with `where`."""
    if not isinstance(item, dict) or not {"label", "macro"} <= set(item) <= {"label", "macro", "meaning"}:
        raise ValueError(
            f"{where} is {item!r}; allowed are exactly the keys label and macro, and meaning where wanted; mend it"
        )
    label, macro, meaning = item["label"], item["macro"], item.get("meaning", "")
    if not isinstance(label, str) or not isinstance(macro, str) or not macro.strip() or not isinstance(meaning, str):
        raise ValueError(f"{where} is {item!r}; label and macro must be texts that are not empty: quote them")
    return label, macro, meaning
