"""Which settings a method is judged with, and the table of the judgement.

Results, one a trained checkpoint (world, method, learning rate, epochs, split, metrics), enter; every method's choice
on dev and the table over worlds leave. Pure functions on dictionaries: Ray and the engines are in `stage.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
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
    return [Point(*values) for values in product(worlds, methods, rates, epochs)]


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
    methods = list(dict.fromkeys(row["method"] for row in test))
    acc = _by_world(test, measure="acc")
    mis = _by_world(test, measure="mis")
    width = max(map(len, methods))
    columns = [f"{f'{name} by world':{7 * len(worlds)}} mean ± sd      " for name in ("Acc", "Mis")]
    lines = [f"{'':{width}}  {' '.join(columns)}".rstrip()]
    for method in methods:
        cells = [_cells(values[method], worlds=worlds) for values in (acc, mis)]
        lines.append(f"{method:{width}}  {' '.join(cells)}".rstrip())
    if reference in methods:
        lines += ["", f"paired differences in Acc, {reference} minus ... (mean ± standard error; by world)"]
        for method in methods:
            pairs = _differences(acc[reference], acc[method])
            if method != reference and pairs:
                lines.append(f"{method:{width}}  {_mean_error(pairs)}   {' '.join(f'{pair:+.3f}' for pair in pairs)}")
    return "\n".join(lines)


def _by_world(test: Sequence[Mapping[str, Any]], *, measure: str) -> dict[str, dict[int, float | None]]:
    """One measure of each method: method -> world -> value."""
    values: dict[str, dict[int, float | None]] = {}
    for row in test:
        values.setdefault(row["method"], {})[row["world"]] = row["metrics"][measure]
    return values


def _cells(by_world: Mapping[int, float | None], *, worlds: Sequence[int]) -> str:
    """The value of each world, then mean and sd of those that are known."""
    column = [by_world.get(world) for world in worlds]
    shown = ["-" if value is None else f"{value:.3f}" for value in column]
    known = [value for value in column if value is not None]
    return f"{''.join(f'{text:7}' for text in shown)} {_mean_sd(known):15}"


def _mean_sd(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def _differences(first: Mapping[int, float | None], second: Mapping[int, float | None]) -> list[float]:
    """First minus second in every world that both have, in the order of the worlds."""
    pairs = []
    for world in sorted(first.keys() & second.keys()):
        one, other = first[world], second[world]
        assert one is not None and other is not None, "every result has an Acc"
        pairs.append(one - other)
    return pairs


def _mean_error(pairs: Sequence[float]) -> str:
    error = np.std(pairs, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else float("nan")
    return f"{np.mean(pairs):+.3f} ± {error:.3f}"


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
