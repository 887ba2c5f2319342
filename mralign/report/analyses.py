"""What stands in the page about thoughts: where they hold the answer, where training gained, how their ways changed.

Finished evaluations and two transition matrices enter; texts and drawings leave, for the macros positions, strata and
change in `page.html.j2` (method.md §6, Fig. 1 and 4).

Axes: K states of the chain (row: from, column: to), B bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from mralign.evaluation.benchmarks import measures
from mralign.report import figures as draw
from mralign.report.findings import Act, Chain, finished, read_chain, read_positions, read_strata
from mralign.report.wording import DASH, number, signed
from mralign.rows.subjects import Subject
from mralign.run.store import Manifest

CHANGE_STAGES = tuple(subject.stage("thoughts_matrices") for subject in Subject)
_VERDICTS = {"right": draw.TEAL, "wrong": draw.RUST}
_STRATA = {"both_correct": "both correct", "both_wrong": "both wrong", "inconsistent": "inconsistent"}
_SHOWN = 10  # edges at either end of the differences [paper: top 10]
_MIN_VISITS = 5.0  # expected visits to a state, in both models, below which its row of P is mostly prior


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


def top_edges(found: Change, *, count: int = _SHOWN) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The edges that became more probable, and those that became less, at most `count` each, the largest change first:
    {source, target, difference, error (None without a bootstrap)}."""
    order = np.argsort(np.nan_to_num(found.difference_KK).ravel(), kind="stable")
    K = len(found.states)
    edges = [
        {
            "source": found.states[place // K],
            "target": found.states[place % K],
            "difference": float(found.difference_KK.flat[place]),
            "error": None if math.isnan(found.error_KK.flat[place]) else float(found.error_KK.flat[place]),
        }
        for place in order
    ]
    more = [edge for edge in reversed(edges) if edge["difference"] > 0]
    less = [edge for edge in edges if edge["difference"] < 0]
    return more[:count], less[:count]


def change(acts: Mapping[str, Act]) -> dict[str, Any]:
    """Both stages of `CHANGE_STAGES` are finished."""
    before, after = (finished(acts, name) for name in CHANGE_STAGES)
    assert before is not None and after is not None
    found = change_of(read_chain(before), read_chain(after))
    largest = float(np.nanmax(np.abs(found.difference_KK), initial=0.0)) or 1.0
    picture = draw.heat_map(
        found.difference_KK,
        support_KK=found.support_KK,
        states=found.states,
        title="P after minus P before",
        bounds=(-largest, largest),
        ratios=False,
        errors_KK=found.error_KK,
    )
    more, less = top_edges(found)
    return {
        "map": Markup(picture),
        "edges": [("More", [_edge(edge) for edge in more]), ("Less", [_edge(edge) for edge in less])],
        "min_visits": f"{_MIN_VISITS:g}",
        "thoughts": _thoughts(acts),
    }


def _thoughts(acts: Mapping[str, Act]) -> list[Manifest]:
    """The manifests of the thoughts that were labelled anew, the untrained model's first."""
    found = [acts[name].manifest for name in map(_thoughts_stage, Subject) if name in acts]
    return [manifest for manifest in found if manifest is not None]


def _thoughts_stage(subject: Subject) -> str:
    return subject.stage("thoughts")


def _edge(edge: Mapping[str, Any]) -> tuple[str, str, str]:
    shown = f"{edge['difference']:+.3f}".replace("-", "−")
    return edge["source"], edge["target"], shown + ("" if edge["error"] is None else f" ± {edge['error']:.3f}")


def positions(acts: Mapping[str, Act]) -> dict[str, Any] | None:
    """None where no method of a finished evaluation was asked to think on a benchmark with gold answers."""
    rows, pictures = [], []
    for dataset, methods in read_positions(acts).items():
        for method, found in methods.items():
            rows += [(dataset, method, verdict, *_position_cells(found[verdict])) for verdict in _VERDICTS]
            for end in ("first", "last"):
                svg = _histogram(found, end=end, title=f"{end} hit, {method}, {dataset}")
                if svg:
                    pictures.append((f"{dataset}, {method}: {end} hit", Markup(svg)))
    return {"rows": rows, "pictures": pictures} if rows else None


def _position_cells(side: Mapping[str, Any]) -> tuple[str, ...]:
    means = (side[end]["mean"] for end in ("first", "last"))
    counts = (number(side["thoughts"]), number(side["without_hit"]))
    return (*counts, *(DASH if mean is None else f"{mean:.3f}" for mean in means))


def _histogram(found: Mapping[str, Any], *, end: str, title: str) -> str:
    series = {name: (found[name][end]["histogram"], found[name][end]["mean"], tone) for name, tone in _VERDICTS.items()}
    return draw.histogram(series, title=title)


def strata(acts: Mapping[str, Act]) -> dict[str, Any] | None:
    """None where there is no gain by stratum: no trained model, or an untrained one that was not asked to think."""
    told = [measure for measure in measures().values() if measure.gain]
    rows = []
    for dataset, found in read_strata(acts).items():
        for method, gains in found["methods"].items():
            for name, gain in gains.items():
                cells = [_gain(gain, measure.key) for measure in told]
                rows.append((dataset, method, _STRATA[name], number(gain["n"]), *cells))
    return {"titles": [measure.title for measure in told], "rows": rows} if rows else None


def _gain(gain: Mapping[str, Any], key: str) -> str:
    if gain[key] is None:
        return DASH
    low, high = gain[f"{key}_ci"]
    return f"{signed(100 * gain[key])} [{signed(100 * low)}, {signed(100 * high)}]"
