"""Which settings a method is judged with: those with the best accuracy on dev, world by world."""

from __future__ import annotations

from collections.abc import Iterable

from mralign.comparison.run_rows import RunRow


def choose(rows: Iterable[RunRow]) -> dict[tuple[str, str], RunRow]:
    """The dev row of each (world, method) with the highest Acc; ties: lower Mis, fewer epochs, lower rate."""
    best: dict[tuple[str, str], RunRow] = {}
    for row in rows:
        key = (row.world, row.method)
        if key not in best or _rank(row) > _rank(best[key]):
            best[key] = row
    return best


def _rank(row: RunRow) -> tuple[float, float, float, float]:
    return (row.acc, -row.mis, -row.epochs, -row.learning_rate)
