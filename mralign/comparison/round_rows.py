"""The table of rounds: one row a policy after a round, kept in one CSV file.

Figures are shares, tokens or nats of the test questions, rounded to five digits; those of dev are named so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

START, FIRST = "base", "first"  # the model before any round, and what every way to go on has in common
FIXED, MOVING, OLD = "fixed", "moving", "old"
ARMS = (FIXED, MOVING, OLD)


@dataclass(frozen=True)
class RoundRow:
    """What was measured of the policy after a round. `arm`: how it went on from the first round."""

    world: str
    arm: str
    seed: int  # of the trainings
    round: int
    share: float  # of the rate that was the best of the grid for one round, on dev
    rate: float
    acc: float
    mis: float
    em_thought: float
    thought_tokens: float
    unclosed: float  # share of completions that could not be judged
    answers_differ: float | None  # see rollouts/diversity.py; of three draws a question
    thoughts_differ: float | None
    kl: float  # log pi of the policy - that of the base, on its own completions, nats each
    dev_gain: float | None = None  # Acc on dev minus that of the policy with which the round began, paired
    dev_low: float | None = None  # 95 % interval of it, by a bootstrap over questions
    dev_high: float | None = None
    positives: int | None = None  # candidates among the policy's own answers to the training questions
    negatives: int | None = None
    examples: int | None = None  # that the round was trained on


NAMES = [field.name for field in fields(RoundRow)]
_TEXT, _WHOLE = {"world", "arm"}, {"seed", "round", "positives", "negatives", "examples"}


def read_rounds(path: Path) -> list[RoundRow]:
    """The rows of a file, none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as stream:
        return [RoundRow(**{name: _value(name, values[name]) for name in NAMES}) for values in csv.DictReader(stream)]


def append_rounds(path: Path, rows: Iterable[RoundRow]) -> None:
    """Write all rows of a chain behind those of the file, at once: a file cut short by a kill is as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = [*read_rounds(path), *rows]
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, NAMES, lineterminator="\n")
        writer.writeheader()
        writer.writerows(_cells(row) for row in whole)
    unfinished.replace(path)


def _cells(row: RoundRow) -> dict[str, Any]:
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in asdict(row).items()}


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    if text == "":
        return None
    return int(text) if name in _WHOLE else float(text)
