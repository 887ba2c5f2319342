"""How well a score tells positive from negative trajectories: the area under the ROC curve, with its interval.

Scores, sides and questions enter; an AUC, or the difference of two on the same trajectories, leaves with the ends of a
95 % interval. The variance is DeLong's (1988) in the form for clusters (Obuchowski 1997): the components of all
trajectories of a question are added first, since the draws of one question are not independent. It needs no random
numbers, and takes the scores as given: that they were learnt from other trajectories is not in it.

Axes: N trajectories, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def components(score_N: np.ndarray, *, positive_N: np.ndarray) -> np.ndarray:
    """(N,): for a positive the share of negatives with a lower score, for a negative the share of positives with a
    higher one; ties count half. The mean over either side is the AUC; both sides must occur."""
    positive, negative = score_N[positive_N], score_N[~positive_N]
    component_N = np.empty(score_N.size)
    component_N[positive_N] = _below(positive, among=negative)
    component_N[~positive_N] = 1.0 - _below(negative, among=positive)
    return component_N


def auc(score_N: np.ndarray, *, positive_N: np.ndarray) -> float:
    """The probability that a positive has a higher score than a negative, ties half: U / (m n) of Mann and Whitney."""
    return float(_below(score_N[positive_N], among=score_N[~positive_N]).mean())


def auc_interval(score_N: np.ndarray, *, positive_N: np.ndarray, question_N: np.ndarray) -> Interval:
    """The AUC with its interval, cut at 0 and 1; `question_N` are codes 0 .. Q - 1."""
    component_N = components(score_N, positive_N=positive_N)
    found = _interval(component_N, positive_N=positive_N, question_N=question_N)
    return Interval(found.value, max(found.low, 0.0), found.high)


def auc_difference(
    score_N: np.ndarray, *, other: np.ndarray, positive_N: np.ndarray, question_N: np.ndarray
) -> Interval:
    """AUC of the scores minus that of the scores `other` of the same trajectories, as paired as they are."""
    gain_N = components(score_N, positive_N=positive_N) - components(other, positive_N=positive_N)
    return _interval(gain_N, positive_N=positive_N, question_N=question_N)


def _below(score_M: np.ndarray, *, among: np.ndarray) -> np.ndarray:
    """(M,): the share of `among` that lies below each score, ties half."""
    ordered = np.sort(among)
    below_M = np.searchsorted(ordered, score_M, side="left") + np.searchsorted(ordered, score_M, side="right")
    return below_M / (2.0 * among.size)


def _interval(component_N: np.ndarray, *, positive_N: np.ndarray, question_N: np.ndarray) -> Interval:
    """The mean component of the positives, which is that of the negatives, with a normal interval. A side with a
    single question says nothing of the spread: from -1 to 1 then."""
    value = float(component_N[positive_N].mean())
    deviation_N = component_N - value
    positive_Q = np.bincount(question_N[positive_N], weights=deviation_N[positive_N], minlength=question_N.max() + 1)
    negative_Q = np.bincount(question_N[~positive_N], weights=deviation_N[~positive_N], minlength=question_N.max() + 1)
    m, n = int(positive_N.sum()), int((~positive_N).sum())
    I10, I01 = np.unique(question_N[positive_N]).size, np.unique(question_N[~positive_N]).size
    if min(I10, I01) < 2:
        return Interval(value, -1.0, 1.0)
    I = np.unique(question_N).size  # noqa: E741  (Obuchowski's letter)
    variance = I10 / (I10 - 1) * (positive_Q**2).sum() / m**2
    variance += I01 / (I01 - 1) * (negative_Q**2).sum() / n**2
    variance += 2 * I / (I - 1) * (positive_Q * negative_Q).sum() / (m * n)  # of questions on both sides
    width = _Z * float(np.sqrt(max(variance, 0.0)))
    return Interval(value, max(value - width, -1.0), min(value + width, 1.0))
