"""The page of the rounds on small worlds, drawn from the rows that are kept: tables and one picture.

Rows of the table of rounds enter; `rounds.md` and `rounds.svg` leave. Nothing is measured here. The unit is the world:
seeds of a world are averaged first, intervals are Student's over worlds.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from mralign.comparison.chart import Dot, Panel, draw
from mralign.comparison.differences import effect
from mralign.comparison.round_rows import ARMS, FIRST, FIXED, MOVING, OLD, START, RoundRow
from mralign.report.sheets import Cell, Sheet, to_markdown

MEASURES = {
    "acc": "Acc",
    "mis": "Mis",
    "em_thought": "gold in the thought",
    "thought_tokens": "thought tokens",
    "unclosed": "not judged",
    "answers_differ": "answers differ",
    "thoughts_differ": "thoughts differ",
    "kl": "log-ratio to the base",
    "positives": "candidates +",
    "negatives": "candidates −",
}
DRAWN = ("acc", "mis", "answers_differ", "negatives")
COMPARED = ("acc", "mis", "em_thought", "thought_tokens", "unclosed", "answers_differ", "thoughts_differ")
CONTRASTS = ((FIXED, OLD), (MOVING, OLD), (MOVING, FIXED))
Key = tuple[str, int]  # world and seed


def write_rounds_page(rows: Sequence[RoundRow], *, out: Path, text: str = "") -> str:
    """Write the tables behind the `text` that stands in `rounds.md` above MARK; returns the page.

    Raises ValueError where there is no row.
    """
    if not rows:
        raise ValueError("there are no rows of rounds; run python -m mralign.comparison.world_rounds first")
    out.mkdir(parents=True, exist_ok=True)
    place = out / "rounds.md"
    written = text or (place.read_text(encoding="utf-8").partition(MARK)[0] if place.exists() else "")
    parts = [written.rstrip(), "", MARK, ""]
    for share in sorted({row.share for row in rows}, reverse=True):
        parts += _section([row for row in rows if row.share == share], share=share)
    panels = _panels([row for row in rows if row.share == 1.0])
    (out / "rounds.svg").write_text(draw(panels, title="Rounds on small worlds", zero=False))
    page = "\n".join([*parts, "![rounds](rounds.svg)", ""]).lstrip("\n")
    place.write_text(page, encoding="utf-8")
    return page


MARK = "<!-- What follows is drawn from rounds.csv. -->"


def _section(rows: Sequence[RoundRow], *, share: float) -> list[str]:
    worlds, chains = {row.world for row in rows}, {(row.world, row.seed) for row in rows}
    rates = sorted({f"{row.rate:g}" for row in rows}, key=float)
    lead = (
        f"{len(worlds)} worlds, {len(chains)} chains of rounds, learning rates {', '.join(rates)}. Means over worlds "
        "(± half of the 95 % interval of Student's t), each row over the chains that came to that round."
    )
    title = "## At the rate that is best for one round" if share == 1 else f"## At {share:g} of that rate"
    paid = "After the round minus after round 1, over the chains that have both (mean and 95 % interval over worlds):"
    return [
        *(title, "", lead, "", to_markdown(level_sheet(rows))),
        *(paid, "", to_markdown(change_sheet(rows))),
        *("One way minus another, over the chains that have both:", "", to_markdown(contrast_sheet(rows))),
        *("What the rule of `run.round_gain=0` would have done:", "", to_markdown(rule_sheet(rows))),
    ]


def _steps(rows: Sequence[RoundRow]) -> list[tuple[str, int]]:
    """Ways and rounds in the order of the tables, as far as there are rows."""
    there = {(row.arm, row.round) for row in rows}
    last = max(row.round for row in rows)
    later = [(arm, number) for arm, number in product(ARMS, range(2, last + 1)) if (arm, number) in there]
    return [(START, 0), (FIRST, 1), *later]


def _by_world(pairs: Sequence[tuple[str, float]]) -> list[np.ndarray]:
    found: dict[str, list[float]] = defaultdict(list)
    for world, value in pairs:
        found[world].append(value)
    return [np.array(values) for _, values in sorted(found.items())]


def values_after(rows: Sequence[RoundRow], *, step: tuple[str, int], measure: str) -> list[np.ndarray]:
    """A measure after a round of a way: its values by world, None left out."""
    chosen = [row for row in rows if (row.arm, row.round) == step]
    return _by_world([(row.world, value) for row in chosen if (value := getattr(row, measure)) is not None])


def level_sheet(rows: Sequence[RoundRow]) -> Sheet:
    """Every measure after every round."""
    lines = []
    for step in _steps(rows):
        chains = sum((row.arm, row.round) == step for row in rows)
        cells = [_level(values_after(rows, step=step, measure=name), measure=name) for name in MEASURES]
        lines.append((Cell(f"{step[0]}, round {step[1]}"), Cell(str(chains)), *cells))
    return Sheet(("reference, round", "chains", *MEASURES.values()), (tuple(lines),))


def _level(values: Sequence[np.ndarray], *, measure: str) -> Cell:
    if not values:
        return Cell("–")
    one = effect(values)
    digits = 1 if measure in ("thought_tokens", "positives", "negatives", "kl") else 3
    small = "" if math.isnan(one.low) else f"± {one.high - one.mean:.{digits}f}"
    return Cell(f"{one.mean:.{digits}f}", small)


def changes_since_first(rows: Sequence[RoundRow], *, step: tuple[str, int], measure: str) -> list[np.ndarray]:
    """The measure after a round of a way minus that after round 1 of the same chain, by world."""
    first: dict[Key, RoundRow] = {(row.world, row.seed): row for row in rows if row.arm == FIRST}
    pairs = []
    for row in rows:
        if (row.arm, row.round) == step:
            now, before = getattr(row, measure), getattr(first[row.world, row.seed], measure)
            if now is not None and before is not None:
                pairs.append((row.world, now - before))
    return _by_world(pairs)


def change_sheet(rows: Sequence[RoundRow]) -> Sheet:
    """What later rounds have changed."""
    lines = []
    for step in _steps(rows)[2:]:
        cells = []
        for name in COMPARED:
            values = changes_since_first(rows, step=step, measure=name)
            cells.append(_change(values) if values else Cell("–"))
        chains = sum((row.arm, row.round) == step for row in rows)
        lines.append((Cell(f"{step[0]}, round {step[1]}"), Cell(str(chains)), *cells))
    return Sheet(("reference, round", "chains", *(MEASURES[name] for name in COMPARED)), (tuple(lines),))


def _change(values: Sequence[np.ndarray]) -> Cell:
    one = effect(values)
    interval = "one world" if math.isnan(one.low) else f"[{one.low:+.3f}, {one.high:+.3f}]"
    return Cell(f"{one.mean:+.3f}", interval)


def contrast_sheet(rows: Sequence[RoundRow]) -> Sheet:
    """Each way after a round minus another one after the same round of the same chain."""
    there = {(row.world, row.seed, row.arm, row.round): row for row in rows}
    lines = []
    for number, (one, other) in product(range(2, max(row.round for row in rows) + 1), CONTRASTS):
        pairs = []
        for row in rows:
            against = there.get((row.world, row.seed, other, number))
            if (row.arm, row.round) == (one, number) and against is not None:
                pairs.append((row, against))
        if pairs:
            cells = []
            for name in ("acc", "mis"):
                found = [(row.world, getattr(row, name) - getattr(against, name)) for row, against in pairs]
                cells.append(_change(_by_world(found)))
            lines.append((Cell(f"{one} − {other}, round {number}"), Cell(str(len(pairs))), *cells))
    return Sheet(("difference", "chains", "Acc", "Mis"), (tuple(lines),))


def rule_sheet(rows: Sequence[RoundRow]) -> Sheet:
    """Rounds whose dev gain the rule accepts, and what the policies of these and of the others did on test."""
    test = {(row.world, row.seed, row.arm, row.round): row.acc for row in rows}
    lines = []
    for step in _steps(rows)[1:]:
        own = [row for row in rows if (row.arm, row.round) == step and row.dev_low is not None]
        accepted = [row for row in own if row.dev_low is not None and row.dev_low > 1e-9]
        rest = [row for row in own if row not in accepted]
        cells = [_mean_gain(chosen, test=test) for chosen in (accepted, rest)]
        lines.append((Cell(f"{step[0]}, round {step[1]}"), Cell(f"{len(accepted)} of {len(own)}"), *map(Cell, cells)))
    head = ("reference, round", "accepted", "their change of Acc on test", "that of the others")
    return Sheet(head, (tuple(lines),))


def _mean_gain(rows: Sequence[RoundRow], *, test: dict[tuple[str, int, str, int], float]) -> str:
    """Mean over chains of Acc on test after the round minus before it."""
    if not rows:
        return "–"
    gains = [row.acc - test[row.world, row.seed, _before(row), row.round - 1] for row in rows]
    return f"{float(np.mean(gains)):+.3f}"


def _before(row: RoundRow) -> str:
    """The way to which the round before belongs."""
    return {1: START, 2: FIRST}.get(row.round, row.arm)


def _panels(rows: Sequence[RoundRow]) -> list[Panel]:
    """A panel a measure, a series a way; counts are drawn as shares of the largest one."""
    last = max(row.round for row in rows)
    names = tuple(f"round {number}" for number in range(last + 1))
    return [Panel(_panel_title(measure), names, _series(rows, measure, last=last)) for measure in DRAWN]


def _panel_title(measure: str) -> str:
    return f"{MEASURES[measure]}, / 100" if measure == "negatives" else MEASURES[measure]


def _series(rows: Sequence[RoundRow], measure: str, *, last: int) -> dict[str, tuple[Dot | None, ...]]:
    scale: Callable[[float], float] = (lambda value: value / 100) if measure == "negatives" else (lambda value: value)
    series = {}
    for arm in ARMS:
        dots = []
        for number in range(last + 1):
            values = values_after(rows, step=({0: START, 1: FIRST}.get(number, arm), number), measure=measure)
            one = effect(values) if values else None
            dots.append(None if one is None else Dot(scale(one.mean), scale(one.low), scale(one.high)))
        series[arm] = tuple(dots)
    return series
