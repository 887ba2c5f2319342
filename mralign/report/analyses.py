"""What stands in the page about thoughts: where they hold the answer, where training gained, how their ways changed.

Finished evaluations and two transition matrices enter; blocks of the page leave (method.md §6, Fig. 1 and 4).

Axes: K states of the chain (row: from, column: to), B bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mralign.evaluation.benchmarks import measures
from mralign.report.blocks import Arc, BinCounts, Block, Graph, Grid, Histogram, Text
from mralign.report.findings import Act, Chain, finished, read_chain, read_macros, read_positions, read_strata
from mralign.report.maps import grouped, square
from mralign.report.wording import DASH, number, signed
from mralign.rows.subjects import Subject
from mralign.run.store import Manifest

CHANGE_STAGES = tuple(subject.stage("thoughts_matrices") for subject in Subject)
VERDICTS = ("right", "wrong")
_STRATA = {"both_correct": "both correct", "both_wrong": "both wrong", "inconsistent": "inconsistent"}
_SHOWN = 10  # edges at either end of the differences [paper: top 10]
_MIN_VISITS = 5.0  # expected visits to a state, in both models, below which its row of P is mostly prior
_POSITIONS_LEAD = (
    "Where in its thought a gold answer stands for the first and for the last time, under right and under wrong "
    "answers: tokens before it, as a share of all tokens of the thought, words as the matching sees them (no articles, "
    "no punctuation). Dashed: means. Draws that cannot be judged are not counted."
)
_STRATA_LEAD = (
    "The trained model minus the untrained one, thinking, in points, by what the untrained one did in all its draws: "
    "thought and answer both right, both wrong, or neither of these. The strata are made from the answers that the "
    "gain is counted from: the untrained model asked again would also lose in the first and win in the second. Compare "
    "methods within a stratum."
)


@dataclass(frozen=True)
class Change:
    """P after minus P before, (K, K); nan in the rows of states that one of the models hardly visits.

    `error_KK`: its standard error over trajectories, nan without a bootstrap; `support_KK`: expected count of the
    transition in both models together.
    """

    states: tuple[str, ...]
    difference_KK: np.ndarray
    error_KK: np.ndarray
    support_KK: np.ndarray


def change_of(before: Chain, after: Chain, *, min_visits: float = _MIN_VISITS) -> Change:
    """The change between two chains of the same states.

    Replicate b of either chain gives a question the same weight, so the spread of their differences is the error of a
    paired comparison: what both models share of a question's difficulty cancels.
    """
    assert before.states == after.states, (before.states, after.states)
    seen_K = np.minimum(before.support_KK.sum(axis=1), after.support_KK.sum(axis=1)) >= min_visits
    difference_KK = np.where(seen_K[:, None], after.P_KK - before.P_KK, np.nan)
    drawn_BKK = after.replicates_BKK - before.replicates_BKK
    error_KK = drawn_BKK.std(axis=0, ddof=1) if len(drawn_BKK) > 1 else np.full(difference_KK.shape, np.nan)
    return Change(before.states, difference_KK, error_KK, before.support_KK + after.support_KK)


def top_edges(found: Change, *, count: int = _SHOWN) -> tuple[list[Arc], list[Arc]]:
    """The edges that became more probable, and those that became less, at most `count` each, the largest change first;
    without a bootstrap they have no error."""
    order = np.argsort(np.nan_to_num(found.difference_KK).ravel(), kind="stable")
    edges = [_arc(found, int(place)) for place in order]
    more = [edge for edge in reversed(edges) if edge.difference > 0]
    less = [edge for edge in edges if edge.difference < 0]
    return more[:count], less[:count]


def _arc(found: Change, place: int) -> Arc:
    K = len(found.states)
    difference, error, support = (
        float(values.flat[place]) for values in (found.difference_KK, found.error_KK, found.support_KK)
    )
    kept = 0.0 if math.isnan(difference) else difference  # of a row that is left out
    source, target = found.states[place // K], found.states[place % K]
    return Arc(source, target, kept, None if math.isnan(error) else error, support)


def change(acts: Mapping[str, Act]) -> list[Block]:
    """Both stages of `CHANGE_STAGES` are finished."""
    before, after = (finished(acts, name) for name in CHANGE_STAGES)
    assert before is not None and after is not None
    found = change_of(read_chain(before), read_chain(after))
    shown = grouped(found.states, macro=read_macros(acts))
    largest = float(np.nanmax(np.abs(found.difference_KK), initial=0.0)) or 1.0
    more, less = top_edges(found)
    picture = square(
        found.difference_KK,
        support_KK=found.support_KK,
        shown=shown,
        title="P after minus P before",
        scale="difference",
        bounds=(-largest, largest),
        errors_KK=found.error_KK,
    )
    graphs = [
        Graph(f"{word} often than before", shown.states, shown.groups, edges)
        for word, edges in (("More", more), ("Less", less))
        if edges
    ]
    tables = [Grid(graph.title, ("From", "To", "Difference"), [*map(_edge, graph.edges)]) for graph in graphs]
    return [Text(_change_lead(acts)), *graphs, *tables, picture]


def _change_lead(acts: Mapping[str, Act]) -> str:
    thoughts = _thoughts(acts)
    counted = ""
    if len(thoughts) == len(Subject):
        counted = f" ({thoughts[0].rows_out} thoughts before, {thoughts[1].rows_out} after)"
    return (
        "Transition probabilities of the trained model's thoughts minus those of the untrained model's, on the same "
        f"held-out questions{counted}, labelled by this run's annotators. Rows of states with fewer than "
        f"{_MIN_VISITS:g} expected visits in either model stay empty. ± is the standard error over trajectories, a "
        "question weighing the same before and after; these are the largest of many differences, so some stand here by "
        "chance."
    )


def _thoughts(acts: Mapping[str, Act]) -> list[Manifest]:
    """The manifests of the thoughts that were labelled anew, the untrained model's first."""
    found = [acts[name].manifest for name in map(_thoughts_stage, Subject) if name in acts]
    return [manifest for manifest in found if manifest is not None]


def _thoughts_stage(subject: Subject) -> str:
    return subject.stage("thoughts")


def _edge(edge: Arc) -> tuple[str, str, str]:
    shown = f"{edge.difference:+.3f}".replace("-", "−")
    return edge.source, edge.target, shown + ("" if edge.error is None else f" ± {edge.error:.3f}")


def positions(acts: Mapping[str, Act]) -> list[Block] | None:
    """None where no method of a finished evaluation was asked to think on a benchmark with gold answers."""
    rows: list[tuple[str, ...]] = []
    pictures: list[Block] = []
    for dataset, methods in read_positions(acts).items():
        for method, found in methods.items():
            rows += [(dataset, method, verdict, *_position_cells(found[verdict])) for verdict in VERDICTS]
            for end in ("first", "last"):
                pictures += _histogram(found, end=end, title=f"{dataset}, {method}: {end} hit")
    if not rows:
        return None
    head = ("Data set", "Method", "Answer", "Thoughts", "Without a hit", "First, mean", "Last, mean")
    return [Text(_POSITIONS_LEAD), Grid("Where the gold answer stands", head, rows), *pictures]


def _position_cells(side: Mapping[str, Any]) -> tuple[str, ...]:
    means = (side[end]["mean"] for end in ("first", "last"))
    counts = (number(side["thoughts"]), number(side["without_hit"]))
    return (*counts, *(DASH if mean is None else f"{mean:.3f}" for mean in means))


def _histogram(found: Mapping[str, Any], *, end: str, title: str) -> list[Block]:
    """The histogram of the verdicts that have a hit; none where none has."""
    series = []
    for verdict in VERDICTS:
        place = found[verdict][end]
        if sum(place["histogram"]):
            series.append(BinCounts(verdict, place["histogram"], place["mean"], verdict))
    return [Histogram(title, "Tokens before the hit, as a share of the thought", series)] if series else []


def strata(acts: Mapping[str, Act]) -> list[Block] | None:
    """None where there is no gain by stratum: no trained model, or an untrained one that was not asked to think."""
    told = [measure for measure in measures().values() if measure.gain]
    rows = []
    for dataset, found in read_strata(acts).items():
        for method, gains in found["methods"].items():
            for name, gain in gains.items():
                cells = [_gain(gain, measure.key) for measure in told]
                rows.append((dataset, method, _STRATA[name], number(gain["n"]), *cells))
    if not rows:
        return None
    head = ("Data set", "Method", "Stratum", "Questions", *(measure.title for measure in told))
    return [Text(_STRATA_LEAD), Grid("Gain by stratum, points", head, rows)]


def _gain(gain: Mapping[str, Any], key: str) -> str:
    if gain.get(key) is None:
        return DASH
    low, high = gain[f"{key}_ci"]
    return f"{signed(100 * gain[key])} [{signed(100 * low)}, {signed(100 * high)}]"
