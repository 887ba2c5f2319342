"""The table of runs: one row a checkpoint that was measured, kept in one CSV file that `compare` and `study` share.

A row is appended when its measurement is done, and what stands in the file is not measured again. A line that a kill
cut short is left out. Figures are shares, tokens or nats, rounded to five digits.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

BASE = "base"  # the method of rows of the model before training


@dataclass(frozen=True)
class Point:
    """One training: its world, method, settings and seed. For the base the rate is 0 and there are no epochs."""

    world: str
    method: str
    learning_rate: float
    epochs: int
    seed: int


@dataclass(frozen=True)
class RunRow:
    """What was measured of a checkpoint on a split. `mark` names all that the result stands on besides the point."""

    world: str
    method: str
    learning_rate: float
    epochs: int
    seed: int
    split: str  # dev | test
    mark: str
    acc: float
    mis: float
    em_thought: float
    thought_tokens: float
    unclosed: float  # share of completions that could not be judged
    off_acc: float | None = None  # thinking off
    other_acc: float | None = None  # questions of relations that were not trained on
    kl: float | None = None  # log pi - log pi_ref of its own completions, nats each
    ece: float | None = None  # expected calibration error of the answer's probability
    steps: int | None = None
    seconds: float | None = None

    @property
    def point(self) -> Point:
        return Point(self.world, self.method, self.learning_rate, self.epochs, self.seed)

    @property
    def key(self) -> tuple[Point, str, str]:
        """What a row is of: the point, the split, the mark."""
        return self.point, self.split, self.mark


NAMES = [field.name for field in fields(RunRow)]
_TEXT, _WHOLE = {"world", "method", "split", "mark"}, {"epochs", "seed", "steps"}
FIGURES = ("acc", "mis", "em_thought", "thought_tokens", "unclosed", "off_acc", "other_acc", "kl", "ece")


def read_rows(path: Path) -> list[RunRow]:
    """The rows of a file, none where there is no file; the last one of equal keys counts."""
    if not path.exists():
        return []
    whole = path.read_text(encoding="utf-8")
    lines = whole.splitlines() if whole.endswith("\n") else whole.splitlines()[:-1]
    found = [_row(values) for values in csv.DictReader(lines)]
    return list({row.key: row for row in found}.values())


def append(path: Path, rows: Iterable[RunRow]) -> None:
    """Write rows behind those of the file; a line cut short by a kill is taken away first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        whole = path.read_bytes()
        if not whole.endswith(b"\n"):
            path.write_bytes(whole[: whole.rfind(b"\n") + 1])
    begun = path.exists() and path.stat().st_size > 0
    with path.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, NAMES, lineterminator="\n")
        if not begun:
            writer.writeheader()
        writer.writerows(_cells(row) for row in rows)


def _cells(row: RunRow) -> dict[str, Any]:
    return {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in asdict(row).items()}


def _row(values: dict[str, str]) -> RunRow:
    return RunRow(**{name: _value(name, values[name]) for name in NAMES})


def _value(name: str, text: str) -> Any:
    if name in _TEXT:
        return text
    if text == "":
        return None
    return int(text) if name in _WHOLE else float(text)
