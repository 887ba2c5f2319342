"""A panel's steps become a labeller: logistic regressions on hashed features, calibrated across folds.

Thoughts with the steps that a panel gave them enter; a `Labeller` leaves, and for every thought what a labeller says of
it that has not learned from its question (`held_out`): what is reported of a labeller comes from these alone. Questions
go into folds whole, by a digest of their ids. scikit-learn (mralign[discovery]) is needed here and nowhere else: what
is learned is used with NumPy alone.

Axes: N steps of all thoughts, L labels, H = L + 1 heads, C columns of features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any
from zlib import crc32

import numpy as np

from mralign.annotation.label_sets import Calibration, fit_calibration, set_numbers
from mralign.annotation.labeller import Labeller, PredictedSteps
from mralign.annotation.segment_encoder import SegmentEncoder
from mralign.annotation.segment_features import (
    BEFORE,
    BEHIND,
    BLOCKS,
    OWN,
    columns_of,
    place_columns,
    segment_features,
    vector_columns,
)
from mralign.annotation.step_labels import StepLabels
from mralign.run.placement import NotInstalled

FOLDS = 5
LEAST_QUESTIONS = 20  # of which a labeller is learned
_INVERSE_PENALTY = 30.0  # of the regressions
_TOLERANCE = 1e-3  # of their gradients


@dataclass(frozen=True)
class LabelledThought:
    """A thought as the panel labelled it."""

    question_id: str
    segments: tuple[str, ...]
    steps: tuple[StepLabels, ...]


@dataclass(frozen=True)
class FittedLabeller:
    """A labeller of all lessons, and of each lesson what a labeller without its question predicts."""

    labeller: Labeller
    held_out: tuple[PredictedSteps, ...]


@dataclass(frozen=True)
class _Design:
    """Features and truth of a list of (thought, step)."""

    features: Any  # scipy.sparse, (N, C)
    has_NL: np.ndarray
    lesson_N: np.ndarray
    begins: Any  # the same of every segment but the first of a thought, for the head of beginnings
    begins_N: np.ndarray
    begins_lesson_N: np.ndarray


def check_installed() -> None:
    """Raise NotInstalled, a ValueError, where scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise NotInstalled(
            "a labeller is learned with scikit-learn, which is not installed: pip install 'mralign[discovery]'"
        )


def fit(
    lessons: Sequence[LabelledThought], *, labels: tuple[str, ...], encoder: SegmentEncoder | None = None
) -> FittedLabeller:
    """Learn a labeller; ValueError for fewer than LEAST_QUESTIONS questions.

    `encoder`: its vectors of the segments count beside the hashed words.
    The calibration of the labeller is fitted on scores across the folds; that of each fold on those of the others.
    """
    check_installed()
    questions = len({lesson.question_id for lesson in lessons})
    if questions < LEAST_QUESTIONS:
        raise ValueError(
            f"{questions} annotated questions are left to learn from; a labeller needs at least {LEAST_QUESTIONS}: "
            f"annotate more thoughts"
        )
    fold = np.array([crc32(lesson.question_id.encode()) % FOLDS for lesson in lessons])
    design = _design(lessons, labels=labels, encoder=encoder)
    set_N = set_numbers([np.flatnonzero(row).tolist() for row in design.has_NL], L=len(labels))
    fold_N = fold[design.lesson_N]
    score_NL = np.zeros(design.has_NL.shape)
    partial: dict[int, Labeller] = {}
    for number in np.unique(fold).tolist():
        partial[number] = _learned(design, kept=fold != number, labels=labels, encoder=encoder)
        held = fold_N == number
        score_NL[held] = _applied(partial[number], design.features[held])[:, :-1]
    for number, labeller in partial.items():
        others = fold_N != number
        calibration = fit_calibration(score_NL[others], set_N=set_N[others])
        partial[number] = replace(labeller, calibration=calibration)
    held_out = [partial[number].predict(lesson.segments) for number, lesson in zip(fold.tolist(), lessons, strict=True)]
    whole = _learned(design, kept=np.ones(len(lessons), dtype=bool), labels=labels, encoder=encoder)
    calibration = fit_calibration(score_NL, set_N=set_N)
    return FittedLabeller(replace(whole, calibration=calibration), tuple(held_out))


def _learned(design: _Design, *, kept: np.ndarray, labels: tuple[str, ...], encoder: SegmentEncoder | None) -> Labeller:
    """The heads learned from the lessons of the mask, not calibrated."""
    steps, begins = kept[design.lesson_N], kept[design.begins_lesson_N]
    heads = [_head(design.features[steps], has_N=has_N) for has_N in design.has_NL[steps].T]
    heads.append(_head(design.begins[begins], has_N=design.begins_N[begins]))
    weight_CH = np.stack([weight_C for weight_C, _ in heads], axis=1).astype(np.float32)
    intercept_H = np.array([intercept for _, intercept in heads], dtype=np.float32)
    return Labeller(labels, weight_CH, intercept_H, Calibration(), encoder)


def _head(features: Any, *, has_N: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and intercept of one head. What is always so or never has no weights."""
    from sklearn.linear_model import LogisticRegression

    count = int(has_N.sum())
    if count in (0, has_N.size):
        return np.zeros(features.shape[1]), float(np.log((count + 0.5) / (has_N.size - count + 0.5)))
    used = np.flatnonzero(np.bincount(features.indices) > 1)  # what stands in one step alone says nothing of others
    found = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1000, tol=_TOLERANCE).fit(features[:, used], has_N)
    weight_C = np.zeros(features.shape[1])
    weight_C[used] = found.coef_[0]
    return weight_C, float(found.intercept_[0])


def _applied(labeller: Labeller, features: Any) -> np.ndarray:
    scores: np.ndarray = features @ labeller.weight_CH.astype(np.float64) + labeller.intercept_H
    return scores


def _design(lessons: Sequence[LabelledThought], *, labels: tuple[str, ...], encoder: SegmentEncoder | None) -> _Design:
    number = {label: place for place, label in enumerate(labels)}
    rows: list[_Row] = []
    begins: list[_Row] = []
    has, begins_has, lesson_N, begins_lesson_N = [], [], [], []
    for place, lesson in enumerate(lessons):
        thought = _Thought(lesson.segments, encoder=encoder)
        for step in lesson.steps:
            rows.append(thought.row(step.first_segment, step.last_segment))
            has.append([number[label] for label in step.labels])
            lesson_N.append(place)
        starts = {step.first_segment for step in lesson.steps}
        for segment in range(1, len(lesson.segments)):
            begins.append(thought.row(segment, segment))
            begins_has.append(segment in starts)
            begins_lesson_N.append(place)
    has_NL = np.zeros((len(rows), len(labels)), dtype=bool)
    for step_number, found in enumerate(has):
        has_NL[step_number, found] = True
    C = columns_of(encoder.dimensions if encoder else 0)
    features, begins_features = _sparse(rows, C=C), _sparse(begins, C=C)
    return _Design(
        features, has_NL, np.array(lesson_N), begins_features, np.array(begins_has), np.array(begins_lesson_N)
    )


_Row = tuple[np.ndarray, np.ndarray]  # columns and their values


class _Thought:
    """The features of one thought, for rows of its steps as `Labeller._scores` has them."""

    def __init__(self, segments: Sequence[str], *, encoder: SegmentEncoder | None) -> None:
        features = segment_features(segments)
        self.vector_SD = encoder.encode(segments) if encoder else np.zeros((len(segments), 0), np.float32)
        self.slots = np.split(features.slot_F, features.begin_S[1:])
        self.values = np.split(features.value_F, features.begin_S[1:])

    def row(self, first: int, last: int) -> _Row:
        S, length = len(self.slots), last + 1 - first
        columns = [self.slots[place] * BLOCKS + OWN for place in range(first, last + 1)]
        values = [self.values[place] / length for place in range(first, last + 1)]
        for block, place in ((BEFORE, first - 1), (BEHIND, last + 1)):
            if 0 <= place < S:
                columns.append(self.slots[place] * BLOCKS + block)
                values.append(self.values[place])
        for block, mean_D in self._vectors(first, last):
            columns.append(vector_columns(block, dimensions=mean_D.size))
            values.append(mean_D)
        columns.append(place_columns(np.array([first]), last=np.array([last]), segments=S)[0])
        values.append(np.ones(2, np.float32))
        return np.concatenate(columns), np.concatenate(values)

    def _vectors(self, first: int, last: int) -> Iterator[tuple[int, np.ndarray]]:
        """The mean vector of a step, and those of the segments before and behind it."""
        yield OWN, self.vector_SD[first : last + 1].mean(axis=0)
        if first:
            yield BEFORE, self.vector_SD[first - 1]
        if last + 1 < len(self.vector_SD):
            yield BEHIND, self.vector_SD[last + 1]


def _sparse(rows: Sequence[_Row], *, C: int) -> Any:
    from scipy.sparse import csr_array

    lengths = [columns.size for columns, _ in rows]
    begin = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    columns = np.concatenate([np.zeros(0, np.int64), *(columns for columns, _ in rows)])
    values = np.concatenate([np.zeros(0), *(values for _, values in rows)])
    matrix = csr_array((values, columns, begin), shape=(len(rows), C))
    matrix.sum_duplicates()
    return matrix
