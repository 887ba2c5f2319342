"""The table of runs as tables to read: every method by world, its differences from another, what else it changed.

Rows of the table of runs enter, sheets leave, for the terminal of `compare` and the page of a study alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mralign.comparison.differences import Effect, effect, paired_values, tested, values_of
from mralign.comparison.methods import ORDER
from mralign.comparison.run_rows import BASE, RunRow
from mralign.evaluation.paired import holm
from mralign.report.sheets import Cell, Sheet

SIDE = {  # what a method may cost, beside accuracy: column -> title
    "mis": "Mis",
    "em_thought": "gold in the thought",
    "thought_tokens": "thought tokens",
    "unclosed": "not judged",
    "off_acc": "Acc, thinking off",
    "other_acc": "Acc, other relations",
    "kl": "log-ratio to the base",
    "ece": "calibration error",
}


def methods_of(rows: Sequence[RunRow]) -> list[str]:
    """Methods with test rows: the base, then as tables show them."""
    there = dict.fromkeys(row.method for row in rows if row.split == "test")
    known = [name for name in (BASE, *ORDER) if name in there]
    return known + [name for name in there if name not in known]


def by_world(rows: Sequence[RunRow], *, measure: str) -> Sheet:
    """A measure of every method: each world (its seeds averaged), mean and sd over worlds."""
    worlds = sorted({row.world for row in rows if row.split == "test"})
    lines = []
    for method in methods_of(rows):
        of_world = tested(rows, method=method)
        values = [_world_mean(of_world.get(world, {}).values(), measure=measure) for world in worlds]
        known = [value for value in values if not math.isnan(value)]
        spread = f"± {np.std(known, ddof=1):.3f}" if len(known) > 1 else ""
        cells = [Cell(_number(value)) for value in [*values, float(np.mean(known)) if known else math.nan]]
        lines.append((Cell(method), *cells[:-1], Cell(cells[-1].text, spread)))
    return Sheet(("method", *worlds, "mean ± sd"), (tuple(lines),))


def _world_mean(rows: object, *, measure: str) -> float:
    values = [getattr(row, measure) for row in rows]  # type: ignore[attr-defined]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else math.nan


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def differences(
    rows: Sequence[RunRow], *, method: str, references: Sequence[str], measure: str = "acc"
) -> dict[str, Effect]:
    """`method` minus each of the others, over the worlds and seeds that both have."""
    found = {}
    for reference in references:
        values = paired_values(rows, method=method, reference=reference, measure=measure)
        if values:
            found[reference] = effect(values)
    return found


def difference_sheet(found: dict[str, Effect], *, method: str) -> Sheet:
    """Differences with their intervals and p-values, adjusted over this table by Holm's method."""
    adjusted = holm([one.p for one in found.values()])
    lines = []
    for (reference, one), p_holm in zip(found.items(), adjusted, strict=True):
        interval = f"[{one.low:+.3f}, {one.high:+.3f}]" if one.worlds > 1 else "one world"
        low, high = one.bootstrap
        cells = (f"{one.mean:+.3f}", interval, f"[{low:+.3f}, {high:+.3f}]", f"{one.p:.3f}", f"{p_holm:.3f}")
        said = verdict(one.low, one.high, p_holm=p_holm)
        lines.append((Cell(f"{method} − {reference}"), *map(Cell, cells), Cell(str(one.worlds)), Cell(said)))
    head = ("difference in Acc", "mean", "95 % interval", "hierarchical bootstrap", "p", "p (Holm)", "worlds", "it")
    return Sheet(head, (tuple(lines),))


def verdict(low: float, high: float, *, p_holm: float = 0.0) -> str:
    """What an interval says of an accuracy, and no more."""
    if p_holm > 0.05 or not (low > 0 or high < 0):
        return "cannot be told from 0"
    return "pays" if low > 0 else "costs"


def cost_sheet(rows: Sequence[RunRow], *, method: str, references: Sequence[str]) -> Sheet:
    """`method` minus the others in everything beside accuracy, with 95 % intervals over worlds."""
    lines = []
    for name, title in SIDE.items():
        cells = []
        for reference in references:
            values = paired_values(rows, method=method, reference=reference, measure=name)
            one = effect(values) if values else None
            small = f"[{one.low:+.3f}, {one.high:+.3f}]" if one and one.worlds > 1 else ""
            cells.append(Cell("–" if one is None else f"{one.mean:+.3f}", small))
        lines.append((Cell(title), *cells))
    return Sheet((f"{method} −", *references), (tuple(lines),))


def side_sheet(rows: Sequence[RunRow]) -> Sheet:
    """What every method did besides: means over worlds, with the half-width of the 95 % interval."""
    there = [name for name in SIDE if values_of(rows, method=BASE, measure=name)]
    lines = []
    for method in methods_of(rows):
        cells = []
        for name in there:
            values = values_of(rows, method=method, measure=name)
            one = effect(values) if values else None
            small = f"± {one.high - one.mean:.3f}" if one and one.worlds > 1 else ""
            cells.append(Cell("–" if one is None else f"{one.mean:.3f}", small))
        lines.append((Cell(method), *cells))
    return Sheet(("method", *(SIDE[name] for name in there)), (tuple(lines),))


def choice_sheet(chosen: Sequence[RunRow]) -> Sheet:
    """The learning rate and epochs that each method was given on dev, by world."""
    worlds = sorted({row.world for row in chosen})
    by_key = {(row.world, row.method): row for row in chosen}
    lines = []
    for method in dict.fromkeys(row.method for row in chosen):
        cells = []
        for world in worlds:
            row = by_key.get((world, method))
            cells.append(Cell("–" if row is None else f"{row.learning_rate:g}, {row.epochs}"))
        lines.append((Cell(method), *cells))
    return Sheet(("chosen on dev: rate, epochs", *worlds), (tuple(lines),))
