"""How far a labeller can be trusted, on trajectories that it has not learned from.

The panel's annotation and held-out predictions enter; figures with 95 % intervals leave: agreement with the panel
beside that of the annotators with one another, the distance of the matrices, what becomes of the weights, whether
probabilities mean what they say. Intervals are of a bootstrap over questions: percentiles for shares and kappas,
standard deviations for distances.

Axes: N trajectories, S steps, B replicates, G distinct pairs of label sets; lists by R = 1 + B begin with the corpus.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.annotation.agreement import LabelSet, agreement_of
from mralign.annotation.consensus import align, by_segment
from mralign.annotation.label_sets import label_probabilities
from mralign.annotation.labeller import Labeller, PredictedSteps, chosen_steps
from mralign.distillation.panel import PanelWork
from mralign.distillation.weight_change import Matrices, WeightSettings, matrices_of, mean_l1s, weigh, weight_change
from mralign.rows.schema import ANNOTATIONS
from mralign.transitions.draws import poisson, row_keys

REPLICATES = 200
LEAST_COUNT = 10  # of a transition whose weight is looked at for the largest change
_FIGURES = ("strict", "entail", "kappa_strict", "kappa_entail")
_ANNOTATORS = (("labels_a", "labels_b"), ("labels_a", "labels"), ("labels_b", "labels"))
_BINS = 10  # of probabilities, for the calibration error
Pair = tuple[LabelSet, LabelSet]
Interval = list[float]  # the figure and both ends of its interval


@dataclass(frozen=True)
class HeldOutWork:
    """What the figures are made from: the panel's work, held-out predictions in its order, what labels_a, labels_b and
    labels are called, and how matrices and weights are made."""

    work: PanelWork
    predictions: tuple[PredictedSteps, ...]
    names: Mapping[str, str]
    by: WeightSettings
    seed: int = 0


def report(evidence: HeldOutWork) -> dict[str, Any]:
    """All figures, for JSON."""
    work, predictions = evidence.work, evidence.predictions
    panel, labelled = panel_table(work), labelled_table(work, predictions)
    fields = ("labels", "labels_a", "labels_b")
    matrices = {field: _matrices(panel, evidence=evidence, field=field) for field in fields}
    matrices["labeller"] = _matrices(labelled, evidence=evidence)
    names = {"labeller": "labeller", **evidence.names}
    agreement = []
    for x, y in (("labeller", "labels"), *_ANNOTATORS):
        pairs_R = _replicated(_pairs(evidence, x=x, y=y), evidence=evidence)
        found = _intervals(pairs_R)
        if "all" in matrices[x] and "all" in matrices[y]:
            found["mean_l1"] = distance_interval(mean_l1s(matrices[x], other=matrices[y]))
        agreement.append({"pair": [names[x], names[y]], "steps": sum(pairs_R[0].values()), **found})
    return {
        "questions": len({row["question_id"] for row in work.rows}),
        "trajectories": len(work.rows),
        "segments": sum(len(lesson.segments) for lesson in work.lessons),
        "panel_steps": sum(len(lesson.steps) for lesson in work.lessons),
        "labeller_steps": sum(prediction.first_N.size for prediction in predictions),
        "agreement": agreement,
        "weights": _changes(panel, of=matrices["labels"], other=matrices["labeller"], by=evidence.by),
        "calibration_error": calibration_error(work, predictions),
    }


def thoughts_per_second(labeller: Labeller, *, work: PanelWork) -> int:
    """How fast the labeller labels, by the time of one core."""
    began = time.process_time()
    for lesson in work.lessons:
        labeller.annotate(lesson.segments)
    return round(len(work.lessons) / (time.process_time() - began))


def panel_table(work: PanelWork) -> pa.Table:
    """The panel's rows as a table of schema ANNOTATIONS."""
    return pa.Table.from_pylist(list(work.rows), schema=ANNOTATIONS)


def labelled_table(work: PanelWork, predictions: Sequence[PredictedSteps]) -> pa.Table:
    """The panel's rows with the steps of the predictions, as a table of schema ANNOTATIONS."""
    rows = []
    for row, prediction in zip(work.rows, predictions, strict=True):
        steps = [asdict(step) for step in chosen_steps(prediction, labels=work.labels)]
        rows.append({name: row[name] for name in ("row_id", "question_id", "dataset", "polarity")} | {"steps": steps})
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS)


def interval(values: Sequence[float]) -> Interval:
    """The first value, and the 95 % percentile interval of the others."""
    low, high = np.quantile(np.array(values[1:]), [0.025, 0.975])
    return [float(values[0]), float(low), float(high)]


def distance_interval(values: Sequence[float]) -> Interval:
    """The first value, and 1.96 standard deviations of the others around it, not below 0. Percentiles would lie above a
    distance: what resampling adds at random to both sides never brings them nearer to each other."""
    reach = 1.96 * float(np.std(values[1:], ddof=1))
    return [float(values[0]), max(0.0, values[0] - reach), values[0] + reach]


def _matrices(table: pa.Table, *, evidence: HeldOutWork, field: str = "labels") -> Matrices:
    return matrices_of(table, by=evidence.by, replicates=REPLICATES, seed=evidence.seed, field=field)


def _pairs(evidence: HeldOutWork, *, x: str, y: str) -> list[list[Pair]]:
    """The pairs of label sets at the steps of each trajectory. The labeller's steps are its own: they are compared
    wherever its or the panel's steps have a boundary (method.md §2c)."""
    if x != "labeller":
        return [_both(row, x=x, y=y) for row in evidence.work.rows]
    found = []
    for lesson, prediction in zip(evidence.work.lessons, evidence.predictions, strict=True):
        steps = chosen_steps(prediction, labels=evidence.work.labels)
        both = align(steps, lesson.steps, segments=len(lesson.segments))
        found.append([(frozenset(own.labels), frozenset(panel.labels)) for own, panel in both])
    return found


def _both(row: Mapping[str, Any], *, x: str, y: str) -> list[Pair]:
    return [(frozenset(step[x]), frozenset(step[y])) for step in row["steps"]]


def _replicated(pairs: Sequence[Sequence[Pair]], *, evidence: HeldOutWork) -> list[dict[Pair, int]]:
    """Counted pairs of the corpus, then of each replicate."""
    questions = pa.array([row["question_id"] for row in evidence.work.rows], pa.string())
    weight_NB = poisson(row_keys(questions, seed=evidence.seed, purpose="bootstrap"), replicates=REPLICATES)
    flat = list(chain.from_iterable(pairs))
    number = {pair: place for place, pair in enumerate(dict.fromkeys(flat))}
    pair_S = np.array([number[pair] for pair in flat])
    row_S = np.repeat(np.arange(len(pairs)), [len(found) for found in pairs])
    weights = [np.ones(row_S.size), *weight_NB[row_S].T]
    counts = (np.bincount(pair_S, weights=weight_S, minlength=len(number)) for weight_S in weights)
    found = []
    for n_G in counts:
        times = zip(number, n_G.tolist(), strict=True)
        found.append({pair: int(n) for pair, n in times if n})
    return found


def _intervals(pairs_R: Sequence[Mapping[Pair, int]]) -> dict[str, Interval]:
    """Each figure of the agreement with its interval."""
    found = [asdict(agreement_of(pairs)) for pairs in pairs_R]
    values = {}
    for name in _FIGURES:
        values[name] = interval([one[name] for one in found])
    return values


def _changes(panel: pa.Table, *, of: Matrices, other: Matrices, by: WeightSettings) -> dict[str, Any]:
    """Mean and largest change of a log-weight between the panel's and the labeller's matrices."""
    counts = weigh(panel, by=by)
    changes = [
        weight_change(counts, of=of, other=other, by=by, replicate=place, least=LEAST_COUNT)
        for place in range(1 + REPLICATES)
    ]
    largest = [change.largest for change in changes if change.largest is not None]  # in all, or in none
    return {
        "mean_change": distance_interval([change.mean for change in changes]),
        "largest_change": distance_interval(largest) if largest else None,
        "least_count": LEAST_COUNT,
    }


def calibration_error(work: PanelWork, predictions: Sequence[PredictedSteps]) -> float:
    """The expected calibration error of the labels of segments: how far the share of those that the panel gave lies
    from the mean probability, in the mean over ten bins of probability."""
    probabilities, given = [], []
    for lesson, prediction in zip(work.lessons, predictions, strict=True):
        found_NL = label_probabilities(prediction.probability_NM, L=len(work.labels))
        probabilities.append(np.repeat(found_NL, prediction.last_N - prediction.first_N + 1, axis=0))
        given += [np.isin(work.labels, [*step.labels, ""]) for step in by_segment(lesson.steps)]
    probability, truth = np.concatenate(probabilities).ravel(), np.array(given).ravel()
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    off = np.bincount(bins, weights=probability - truth, minlength=_BINS)
    return float(np.abs(off).sum() / probability.size)
