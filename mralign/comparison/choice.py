"""Which settings a method is judged with, and the table of the judgement.

Results, one a trained checkpoint (world, method, learning rate, epochs, split, metrics), enter; every method's choice
on dev and the table over worlds leave. Pure functions on dictionaries: Ray and the engines are in `stage.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# What each method changes in the preset's configuration.
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"training": {"method": "sft"}},
    "kto": {"training": {"method": "kto"}},
    "mralign": {"training": {"method": "mralign"}},
    "mralign-opposite": {"weights": {"anchor": "opposite"}},
    "mralign-shuffle": {"weights": {"control": "shuffle"}},
    "mralign-mean": {"weights": {"control": "mean"}},
}


@dataclass(frozen=True)
class Point:
    """One training run of the grid."""

    world: int
    method: str
    learning_rate: float
    epochs: int

    @property
    def key(self) -> str:
        return f"{self.world}/{self.method}/{self.learning_rate:g}/{self.epochs}"


def grid(
    worlds: Sequence[int], *, methods: Sequence[str], rates: Sequence[float], epochs: Sequence[int]
) -> list[Point]:
    """Every combination, one world after the other."""
    return [Point(w, m, lr, e) for w in worlds for m in methods for lr in rates for e in epochs]


def choose(results: Sequence[Mapping[str, Any]]) -> dict[tuple[int, str], Mapping[str, Any]]:
    """The dev result of each (world, method) with the highest Acc; ties: lower Mis, fewer epochs, lower rate."""
    best: dict[tuple[int, str], Mapping[str, Any]] = {}
    for row in results:
        key = (row["world"], row["method"])
        if key not in best or _rank(row) > _rank(best[key]):
            best[key] = row
    return best


def _rank(row: Mapping[str, Any]) -> tuple[float, float, float, float]:
    return (row["metrics"]["acc"], -(row["metrics"]["mis"] or 0.0), -row["epochs"], -row["learning_rate"])


def summarize(test: Sequence[Mapping[str, Any]], *, reference: str = "mralign") -> str:
    """Every world, mean and sd, and paired differences of `reference` against every other method, as text."""
    worlds = sorted({row["world"] for row in test})
    names = list(dict.fromkeys(row["method"] for row in test))
    value = {(r["world"], r["method"], k): r["metrics"][k] for r in test for k in ("acc", "mis")}
    width = max(map(len, names))
    lines = [
        f"{'':{width}}  {'Acc by world':{7 * len(worlds)}} mean ± sd       {'Mis by world':{7 * len(worlds)}} mean ± sd"
    ]
    for name in names:
        cells = []
        for key in ("acc", "mis"):
            column = [value.get((w, name, key)) for w in worlds]
            known = [v for v in column if v is not None]
            shown = "".join(f"{'-' if v is None else f'{v:.3f}':7}" for v in column)
            cells.append(f"{shown} {_mean_sd(known):15}")
        lines.append(f"{name:{width}}  {' '.join(cells)}".rstrip())
    if reference not in names:
        return "\n".join(lines)
    lines += ["", f"paired differences in Acc, {reference} minus ... (mean ± standard error; by world)"]
    for name in names:
        if name == reference:
            continue
        both = [w for w in worlds if (w, reference, "acc") in value and (w, name, "acc") in value]
        pairs = [value[w, reference, "acc"] - value[w, name, "acc"] for w in both]
        if not pairs:
            continue
        error = np.std(pairs, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else float("nan")
        lines.append(f"{name:{width}}  {np.mean(pairs):+.3f} ± {error:.3f}   {' '.join(f'{p:+.3f}' for p in pairs)}")
    return "\n".join(lines)


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The results written so far; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
