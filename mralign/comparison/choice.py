"""Which settings a method is judged with, and which of several candidates is tested: the best on other questions or
worlds than those of the test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from mralign.comparison.differences import tested
from mralign.comparison.run_rows import RunRow


def choose(rows: Iterable[RunRow]) -> dict[tuple[str, str], RunRow]:
    """The dev row of each (world, method) with the highest Acc; ties: lower Mis, fewer epochs, lower rate."""
    best: dict[tuple[str, str], RunRow] = {}
    for row in rows:
        key = (row.world, row.method)
        if key not in best or _rank(row) > _rank(best[key]):
            best[key] = row
    return best


def _mean_acc(rows: Iterable[RunRow]) -> float:
    return float(np.mean([row.acc for row in rows]))


def choose_method(rows: Sequence[RunRow], *, candidates: Sequence[str]) -> str:
    """The candidate with the highest Acc on test in the worlds of the rows: seeds of a world are averaged first, then
    worlds. Ties: the first of the list. Raises ValueError where a candidate lacks a world that another one has."""
    worlds_of = {name: tested(rows, method=name) for name in candidates}
    if len({frozenset(worlds) for worlds in worlds_of.values()}) != 1 or not all(worlds_of.values()):
        counts = {name: len(worlds) for name, worlds in worlds_of.items()}
        raise ValueError(f"the candidates have been tested on {counts} worlds; run the study until all have the same")
    means = {}
    for name, worlds in worlds_of.items():
        means[name] = float(np.mean([_mean_acc(seeds.values()) for seeds in worlds.values()]))
    return max(candidates, key=lambda name: means[name])


def _rank(row: RunRow) -> tuple[float, float, float, float]:
    return (row.acc, -row.mis, -row.epochs, -row.learning_rate)
