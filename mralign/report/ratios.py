"""What stands in the page about transitions and the weights that follow from them.

Matrices and weighed edges enter; blocks of the page leave (method.md §3, §4, Fig. 7).

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig
from mralign.report import findings, wording
from mralign.report.blocks import Block, Grid, Square, Text
from mralign.report.findings import Act, Matrices, figures, finished, read_edges, read_macros, read_matrices
from mralign.report.maps import GroupedStates, grouped, square
from mralign.rows.schema import EDGES

_SHOWN = 10  # edges at either end of the ratios [paper: top 10]
_MIN_SUPPORT = 1.0  # expected count below which a ratio of two probabilities says more of the prior than of the data
_SIGNS = {"all": "P", "positive": "P⁺", "negative": "P⁻"}
_NAMES = (("all", "P, all"), ("positive", "P⁺, thinking helped"), ("negative", "P⁻, thinking hurt"))


def transitions(config: RunConfig, *, acts: Mapping[str, Act]) -> list[Block]:
    out, weighed = finished(acts, "matrices"), finished(acts, "weights")
    assert out is not None
    found, edges = read_matrices(out), read_edges(weighed) if weighed else EDGES.empty_table()
    shown = grouped(found.states, macro=read_macros(acts))
    maps = [_probabilities(found, name, title=title, shown=shown) for name, title in _NAMES]
    for sign, name, other in (("⁺", "positive", "negative"), ("⁻", "negative", "positive")):
        anchor = "all" if config.weights.anchor == "global" else other
        title = f"Weight map P{sign} / {_SIGNS[anchor]}"
        ratio_KK = log_ratios(found, name, anchor=anchor, bounds=log_bounds(config))
        polarity = 1 if name == "positive" else -1
        single = edges.filter((pc.field("level") == "states") & (pc.field("polarity") == polarity))
        maps.append(_ratios(found, name, ratio_KK, edges=single, title=title, shown=shown, bounds=log_bounds(config)))
    return [Text(_lead(banded=bool(edges.num_rows))), *maps, *_fits(acts)]


def _lead(*, banded: bool) -> str:
    framed = (
        " Framed: the 15 % with the highest ratio (solid) and with the lowest (dashed), of those with a support of "
        "five or more that do not lead into <stop>."
    )
    return (
        "Rows: from; columns: to; states stand by macro-strategy. Shading follows the square root of the probability. "
        "In the weight maps, transitions that weigh more than 1 have the colour of “more”, those that weigh less that "
        f"of “less”, clipped as in training; transitions with an expected count below {_MIN_SUPPORT} stay empty."
        f"{framed if banded else ''} Point at a cell, or go to it with the arrow keys, for its value, ± its standard "
        "error over trajectories, and its support."
    )


def _fits(acts: Mapping[str, Act]) -> list[Block]:
    rows = []
    for name, title in _NAMES:
        fit = figures(acts, "matrices").get(name)
        if fit:
            likelihood = f"{fit['log_likelihood'][-1]:.1f}" if fit["log_likelihood"] else wording.DASH
            converged = "yes" if fit["converged"] else "no"
            rows.append((title, fit["transitions"], fit["iterations"], converged, likelihood))
    head = ("Matrix", "Transitions", "Iterations", "Converged", "Log-likelihood")
    return [Grid("Estimation", head, rows)] if rows else []


def log_ratios(found: Matrices, name: str, *, anchor: str, bounds: tuple[float, float]) -> np.ndarray:
    """log2 of P_name / P_anchor between the bounds, (K, K); nan where the support is below `_MIN_SUPPORT`."""
    own, base = found.probability[name], found.probability[anchor]
    known = (own > 0) & (base > 0) & (found.support[name] >= _MIN_SUPPORT)
    ratio_KK = np.full(own.shape, np.nan)
    ratio_KK[known] = np.clip(np.log2(own[known] / base[known]), *bounds)
    return ratio_KK


def _probabilities(found: Matrices, name: str, *, title: str, shown: GroupedStates) -> Square:
    return square(
        found.probability[name],
        support_KK=found.support[name],
        shown=shown,
        title=title,
        scale="share",
        errors_KK=found.error[name],
    )


def _ratios(
    found: Matrices,
    name: str,
    ratio_KK: np.ndarray,
    *,
    edges: pa.Table,
    title: str,
    shown: GroupedStates,
    bounds: tuple[float, float],
) -> Square:
    """A weight map with the errors of its ratios, the highest and lowest of them framed."""
    return square(
        ratio_KK,
        support_KK=found.support[name],
        shown=shown,
        title=title,
        scale="ratio",
        bounds=bounds,
        errors_KK=findings.square(edges, column="ratio_standard_error", states=found.states, missing=math.nan),
        bands_KK=findings.square(edges, column="band", states=found.states, missing="none"),
    )


def log_bounds(config: RunConfig) -> tuple[float, float]:
    """Where weights are clipped, as log2."""
    return math.log2(config.weights.clip_min), math.log2(config.weights.clip_max)


def weights(config: RunConfig, *, acts: Mapping[str, Act]) -> list[Block]:
    """What the stage itself says of its weights before any control; keys are polarities as JSON wrote them."""
    summary = figures(acts, "weights").get("summary", {})
    sides = [
        (name, summary["steps"][key], f"{summary['mean'][key]:.3f}", wording.percent(summary["clipped"][key]))
        for key, name in (("1", "positive"), ("-1", "negative"))
        if key in summary.get("steps", {})
    ]
    out = finished(acts, "weights")
    assert out is not None
    edges = read_edges(out).filter(pc.field("level") == "sets")
    blocks: list[Block] = [
        Text(_weights_lead(config)),
        Grid("Weights by polarity", ("Polarity", "Steps", "Mean weight", "Clipped %"), sides),
    ]
    for title, band, order in (("Raised most", "high", "descending"), ("Lowered most", "low", "ascending")):
        rows = edges.filter(pc.field("band") == band).sort_by([("ratio", order)]).slice(0, _SHOWN).to_pylist()
        if rows:
            blocks.append(Grid(title, ("From", "To", "Polarity", "Count", "Ratio"), [*map(_edge_row, rows)]))
    return blocks


def _weights_lead(config: RunConfig) -> str:
    control, method = config.weights.control, config.training.method
    changes = [] if config.weights.rule == "paper" else [f"rule “{config.weights.rule}”"]
    changes += [] if control == "none" else [f"control “{control}”"]
    before = f", before the {' and the '.join(changes)}" if changes else ""
    unused = "" if method == "mralign" else f" Training by {method} does not use them."
    return (
        f"Weights of the labelled steps as the ratio of matrices gives them{before}.{unused} Shown are transitions "
        "that occur five times or more, each ratio ± its standard error over trajectories where one was drawn: one "
        "that may as well be 1 is noise, and the error of a rare transition is itself too small. All transitions, with "
        "counts, weights and errors: weights/…/edges."
    )


def _edge_row(edge: Mapping[str, Any]) -> tuple[str, ...]:
    error = edge["ratio_standard_error"]
    ratio = f"{edge['ratio']:.2f}" + ("" if error is None else f" ± {error:.2f}")
    return edge["source"], edge["target"], wording.polarity_name(edge["polarity"]), f"{edge['count']:.0f}", ratio
