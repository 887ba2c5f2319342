"""A labeller of one's own: a small linear model that labels thoughts as a panel did, in a fraction of a millisecond.

The segments of a thought enter; its steps leave, each with the probability of every label set (label_sets.py). One head
says where a step begins, one head a label what is in it. It is an annotator (`engine: distilled`), or it labels what a
cascade does not put to the panel (cascade.py). It is learned by labeller_fit.py and kept by labeller_file.py.

Axes: S segments, N steps, L labels, H = L + 1 heads (the labels, then the beginning of a step), M label sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mralign.annotation.label_sets import Calibration, label_probabilities, members, set_probabilities
from mralign.annotation.replies import Opinion
from mralign.annotation.segment_encoder import SegmentEncoder
from mralign.annotation.segment_features import (
    BEFORE,
    BEHIND,
    BLOCKS,
    COLUMNS,
    OWN,
    SLOTS,
    place_columns,
    segment_features,
)
from mralign.annotation.step_labels import StepLabels


@dataclass(frozen=True)
class PredictedSteps:
    """The steps of one thought and what is thought of each."""

    first_N: np.ndarray  # first segment
    last_N: np.ndarray  # last segment, inclusive
    probability_NM: np.ndarray  # of every label set


@dataclass(frozen=True, eq=False)
class Labeller:
    """Weights of the heads, and what they mean."""

    labels: tuple[str, ...]
    weight_CH: np.ndarray  # float32, C = segment_features.columns_of(D)
    intercept_H: np.ndarray  # float32
    calibration: Calibration
    encoder: SegmentEncoder | None = None  # of D dimensions; None: D = 0
    digest: str = ""  # of the file that it was read from
    report: Mapping[str, Any] = field(default_factory=dict)  # see labeller_report.figures_of

    def predict(self, segments: Sequence[str]) -> PredictedSteps:
        """Steps and label sets of a thought of at least one segment."""
        block_SBH = self._blocks(segments)
        each = np.arange(len(segments))
        begins_S = self._scores(block_SBH, first_N=each, last_N=each)[:, -1] > 0
        begins_S[0] = True
        first_N = np.flatnonzero(begins_S)
        last_N = np.append(first_N[1:], len(segments)) - 1
        return self._predicted(block_SBH, first_N=first_N, last_N=last_N)

    def predict_steps(self, segments: Sequence[str], *, spans: Sequence[tuple[int, int]]) -> PredictedSteps:
        """Label sets of given steps (first and last segment) of a thought."""
        first_N, last_N = np.array(spans, dtype=np.int64).T
        return self._predicted(self._blocks(segments), first_N=first_N, last_N=last_N)

    def _predicted(self, block_SBH: np.ndarray, *, first_N: np.ndarray, last_N: np.ndarray) -> PredictedSteps:
        score_NL = self._scores(block_SBH, first_N=first_N, last_N=last_N)[:, :-1]
        return PredictedSteps(first_N, last_N, set_probabilities(score_NL, calibration=self.calibration))

    def _blocks(self, segments: Sequence[str]) -> np.ndarray:
        """What each segment adds to the scores of a step that it is in, stands before, or stands behind, (S, B, H)."""
        features = segment_features(segments)
        table = self.weight_CH[: BLOCKS * SLOTS].reshape(SLOTS, -1)
        added = table[features.slot_F] * features.value_F[:, None]
        block_SW = np.add.reduceat(added, features.begin_S, axis=0)  # W = BLOCKS * H
        if self.encoder is not None:
            vector_SD = self.encoder.encode(segments)
            block_SW += vector_SD @ self.weight_CH[COLUMNS:].reshape(self.encoder.dimensions, -1)
        return block_SW.reshape(len(segments), BLOCKS, -1)

    def _scores(self, block_SBH: np.ndarray, *, first_N: np.ndarray, last_N: np.ndarray) -> np.ndarray:
        """The scores of steps, (N, H)."""
        S, _, H = block_SBH.shape
        until = np.concatenate([np.zeros((1, H)), np.cumsum(block_SBH[:, OWN], axis=0, dtype=np.float64)])
        score_NH = (until[last_N + 1] - until[first_N]) / (last_N + 1 - first_N)[:, None]
        around = np.concatenate([block_SBH, np.zeros((1, BLOCKS, H))])  # the last one, also -1: nothing stands there
        score_NH += around[first_N - 1, BEFORE] + around[last_N + 1, BEHIND]
        place_N2 = place_columns(first_N, last=last_N, segments=S)
        scored: np.ndarray = score_NH + self.weight_CH[place_N2].sum(axis=1) + self.intercept_H
        return scored

    def annotate(self, segments: Sequence[str]) -> Opinion:
        """The likeliest label set of every step; a label's confidence is ten times its probability, that in the whole
        ten times the mean probability of the sets."""
        found = self.predict(segments)
        steps = chosen_steps(found, labels=self.labels)
        return Opinion(tuple(steps), round(10 * float(found.probability_NM.max(axis=1).mean()), 3))

    def adjudicate(self, segments: Sequence[str], *, spans: Sequence[tuple[int, int]]) -> list[StepLabels]:
        """Labels of given steps."""
        return chosen_steps(self.predict_steps(segments, spans=spans), labels=self.labels)


def chosen_steps(found: PredictedSteps, *, labels: tuple[str, ...]) -> list[StepLabels]:
    """The likeliest label set of every step, most probable label first; ties in taxonomy order."""
    probability_NL = label_probabilities(found.probability_NM, L=len(labels))
    chosen_N = found.probability_NM.argmax(axis=1)
    steps = []
    for place, number in enumerate(chosen_N.tolist()):
        numbers = np.flatnonzero(members(len(labels))[number])
        ranked = sorted(numbers.tolist(), key=lambda one: -probability_NL[place, one])
        names = tuple(labels[one] for one in ranked)
        confidences = tuple(min(10.0, round(10 * float(probability_NL[place, one]), 3)) for one in ranked)
        steps.append(StepLabels(int(found.first_N[place]), int(found.last_N[place]), names, confidences))
    return steps
