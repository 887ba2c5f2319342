"""What stands in each section of the page.

Finished stages enter; one dictionary of texts and drawings a section leaves, for the macro of its name in
`page.html.j2`. Each function may rely on its stage being finished: `page.py` asks before.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from mralign.config import RunConfig
from mralign.report import annotator_rows, results, wording
from mralign.report import figures as draw
from mralign.report.findings import (
    Act,
    Labelling,
    Matrices,
    Trace,
    figures,
    finished,
    read_edges,
    read_history,
    read_labelling,
    read_matrices,
    sample_traces,
    square,
)
from mralign.report.results import Figures, Metrics
from mralign.rows.schema import EDGES

Content = dict[str, Any]

_SHOWN = 5  # edges at either end of the ratios
_MIN_SUPPORT = 1.0  # expected count below which a ratio of two probabilities says more of the prior than of the data


def evaluated(config: RunConfig) -> list[str]:
    """Names of the data sets of the evaluation split."""
    return [source.name for source in getattr(config.questions, config.evaluation.split)]


def result(config: RunConfig, *, metrics: Metrics) -> Content:
    shown = results.by_benchmark(metrics)
    return {
        "blocks": [
            (block, _intervals(block.benchmark, shown[block.benchmark], quiet=f"{config.evaluation.label}_"))
            for block in results.blocks(metrics)
        ],
        "explanations": results.explanations(metrics, settings=config.evaluation),
        "level": f"{100 * config.evaluation.level:g}",
        "published": results.published_tables(evaluated(config)),
    }


def _intervals(name: str, methods: Mapping[str, Figures], *, quiet: str) -> list[tuple[str, str, Markup]]:
    """(title, which way is better, drawing) of each main figure; methods whose names begin with `quiet` are pale."""
    pictures = []
    for measure, points in results.drawn(name, methods):
        picture = draw.intervals(points, title=f"{measure.title}, percent", quiet=quiet)
        pictures.append((measure.title, "lower" if measure.better < 0 else "higher", Markup(picture)))
    return pictures


def questions(acts: Mapping[str, Act]) -> Content:
    return {"rows": wording.source_rows(figures(acts, "questions").get("funnel", []))}


def candidates(acts: Mapping[str, Act]) -> Content:
    funnel = figures(acts, "candidates").get("funnel", [])
    names = dict.fromkeys(row["dataset"] for row in funnel)
    pictures = []
    for name in names:
        steps = wording.funnel_steps(funnel, dataset=name)
        rows = [(label, float(n), wording.number(n), draw.TONE[polarity]) for label, n, polarity in steps]
        pictures.append((name, Markup(draw.bars(rows, title=f"Funnel of {name}"))))
    rows_shown = [{**row, "polarity": wording.polarity_name(row["polarity"])} for row in funnel]
    return {"pictures": pictures, "rows": rows_shown}


def annotation(acts: Mapping[str, Act]) -> Content:
    out = finished(acts, "annotation")
    assert out is not None
    found = read_labelling(out)
    order = wording.label_order(found.labels)
    polarities = [p for p in (1, -1, 0) if p in found.labels]
    totals = {p: sum(found.labels[p].values()) or 1 for p in polarities}
    top = max((count / totals[p] for p in polarities for count in found.labels[p].values()), default=1)
    pictures = []
    for polarity in polarities:
        name = wording.polarity_name(polarity)
        shares = [(label, found.labels[polarity].get(label, 0) / totals[polarity]) for label in order]
        rows = [(label, share, f"{wording.percent(share)} %", draw.TONE[polarity]) for label, share in shares]
        svg = Markup(draw.bars(rows, title=f"Labels, {name}", top=top))
        pictures.append((name, found.trajectories[polarity], svg))
    return {
        "polarities": [wording.polarity_name(p) for p in polarities],
        "pictures": pictures,
        "labels": [(label, _counts(found, label, polarities=polarities)) for label in order],
        "rules": wording.rule_rows(found.rules),
        **_annotators(figures(acts, "annotation")),
    }


def _counts(found: Labelling, label: str, *, polarities: Sequence[int]) -> list[int]:
    return [found.labels[polarity].get(label, 0) for polarity in polarities]


def _annotators(written: Mapping[str, Any]) -> Content:
    """What the annotators did, as far as the stage has written it."""
    adjudicated = written.get("adjudicated")
    return {
        "annotators": annotator_rows.annotator_rows(written.get("annotators", {})),
        "adjudicated": None if adjudicated is None else wording.percent(adjudicated),
        "by_label": annotator_rows.label_rows(written.get("by_label", {})),
    }


def agreement(acts: Mapping[str, Act]) -> Content:
    """Every pair of annotators; `human` is (trajectories in use, trajectories given), None without a human's labels."""
    act = acts.get("human_labels")
    return {
        "rows": annotator_rows.agreement_rows(figures(acts, "agreement")["pairs"]),
        "human": (act.manifest.rows_out, act.manifest.rows_in) if act is not None and act.manifest else None,
        "published": annotator_rows.PUBLISHED,
    }


def transitions(config: RunConfig, *, acts: Mapping[str, Act]) -> Content:
    out, weighed = finished(acts, "matrices"), finished(acts, "weights")
    assert out is not None
    found, edges = read_matrices(out), read_edges(weighed) if weighed else EDGES.empty_table()
    names = (("all", "P, all"), ("positive", "P⁺, thinking helped"), ("negative", "P⁻, thinking hurt"))
    maps = [(title, _map(found, name, found.probability[name], title=title)) for name, title in names]
    bounds = _bounds(config)
    for sign, name, other in (("⁺", "positive", "negative"), ("⁻", "negative", "positive")):
        anchor = "all" if config.weights.anchor == "global" else other
        under = {"all": "P", "positive": "P⁺", "negative": "P⁻"}[anchor]
        title = f"Weight map P{sign} / {under}"
        ratio = log_ratios(found, name, anchor=anchor, bounds=bounds)
        polarity = 1 if name == "positive" else -1
        single = edges.filter((pc.field("level") == "states") & (pc.field("polarity") == polarity))
        maps.append((title, _map(found, name, ratio, title=title, bounds=bounds, edges=single)))
    fits = [(title, figures(acts, "matrices").get(name)) for name, title in names]
    banded = bool(edges.num_rows)
    return {"maps": maps, "fits": [fit for fit in fits if fit[1]], "min_support": _MIN_SUPPORT, "banded": banded}


def log_ratios(found: Matrices, name: str, *, anchor: str, bounds: tuple[float, float]) -> np.ndarray:
    """log2 of P_name / P_anchor between the bounds, (K, K); nan where the support is below `_MIN_SUPPORT`."""
    own, base = found.probability[name], found.probability[anchor]
    known = (own > 0) & (base > 0) & (found.support[name] >= _MIN_SUPPORT)
    ratio_KK = np.full(own.shape, np.nan)
    ratio_KK[known] = np.clip(np.log2(own[known] / base[known]), *bounds)
    return ratio_KK


def _map(
    found: Matrices,
    name: str,
    values_KK: np.ndarray,
    *,
    title: str,
    bounds: tuple[float, float] | None = None,
    edges: pa.Table | None = None,
) -> Markup:
    """A heat map of probabilities, or with `edges` of their ratios, with the standard errors of either."""
    errors_KK, bands_KK = found.error[name], None
    if edges is not None:
        errors_KK = square(edges, column="ratio_standard_error", states=found.states, missing=math.nan)
        bands_KK = square(edges, column="band", states=found.states, missing="none")
    return Markup(
        draw.heat_map(
            values_KK,
            support_KK=found.support[name],
            states=found.states,
            title=title,
            bounds=bounds,
            errors_KK=errors_KK,
            bands_KK=bands_KK,
        )
    )


def _bounds(config: RunConfig) -> tuple[float, float]:
    return math.log2(config.weights.clip_min), math.log2(config.weights.clip_max)


def weights(config: RunConfig, *, acts: Mapping[str, Act]) -> Content:
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
    ends = (("Raised most", "high", "descending"), ("Lowered most", "low", "ascending"))
    shown = []
    for title, band, order in ends:
        rows = edges.filter(pc.field("band") == band).sort_by([("ratio", order)]).slice(0, _SHOWN).to_pylist()
        shown.append((title, [_edge(edge) for edge in rows]))
    return {"sides": sides, "edges": shown, "control": config.weights.control, "method": config.training.method}


def _edge(edge: Mapping[str, Any]) -> dict[str, Any]:
    error = edge["ratio_standard_error"]
    return {
        **{name: edge[name] for name in ("source", "target")},
        "polarity": wording.polarity_name(edge["polarity"]),
        "count": f"{edge['count']:.0f}",
        "ratio": f"{edge['ratio']:.2f}" + ("" if error is None else f" ± {error:.2f}"),
    }


def training(acts: Mapping[str, Act]) -> Content:
    out = finished(acts, "training")
    assert out is not None
    history = read_history(out)

    def chart(title: str, **colours: str) -> tuple[str, Markup]:
        series = {}
        for name, colour in colours.items():
            rows = [row for row in history if name in row]  # a batch without a class has no reward of it
            if rows:
                steps, values = [row["step"] for row in rows], [row[name] for row in rows]
                series[name.replace("_", " ")] = (steps, values, colour)
        return title, Markup(draw.lines(series, title=title))

    charts = [
        chart("Loss", loss=draw.INK),
        chart("Rewards", reward_chosen=draw.TEAL, reward_rejected=draw.RUST),
        chart("Margin and z0", margin=draw.TEAL, z0=draw.SLATE),
        chart("Gradient norm", grad_norm=draw.INK),
        chart("Learning rate", learning_rate=draw.INK),
    ]
    last = {key: wording.figure(value) for key, value in (history[-1] if history else {}).items()}
    return {"charts": [(title, svg) for title, svg in charts if svg], "last": last, "steps": len(history)}


def trajectories(config: RunConfig, *, acts: Mapping[str, Act]) -> Content:
    traces = sample_traces(acts, closing=config.model.thought_tags[1])
    return {"traces": [_trace(trace, bounds=_bounds(config)) for trace in traces]}


def _trace(trace: Trace, *, bounds: tuple[float, float]) -> dict[str, Any]:
    steps = [
        {
            "step": step,
            "weight": wording.DASH if step.weight is None else f"{step.weight:.2f}",
            "tint": "#ffffff"
            if step.weight is None
            else draw.diverging(math.log2(step.weight), bounds=bounds, depth=0.4),
        }
        for step in trace.steps
    ]
    return {"trace": trace, "side": wording.polarity_name(trace.polarity), "steps": steps}


def rejects(acts: Mapping[str, Act]) -> Content:
    """Reasons by stage. No share for candidates: they drop questions out of generations, and that is their purpose."""
    rows = []
    for act in acts.values():
        rejects, rows_in = (act.manifest.rejects, act.manifest.rows_in) if act.manifest else ({}, 0)
        for reason, count in rejects.items():
            share = count / rows_in if rows_in and act.name != "candidates" else None
            rows.append((act.name, reason, count, wording.percent(share)))
    return {"rows": rows}
