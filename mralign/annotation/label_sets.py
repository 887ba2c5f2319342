"""Scores of labels become a calibrated probability of every set of at most two labels.

One score a label enters (a log-odds that need not be calibrated); the probability of each label set leaves:

    P(S) ~ exp(size[|S|] + sum over l in S of slope * score_l),   |S| = 0, 1, 2,   size[1] = 0

Three numbers calibrate it, fitted on trajectories that the scores were not learned from: `slope` (Platt's), and how
likely sets of no and of two labels are beside sets of one. From P(S) follows all that is needed: the likeliest set,
the probability of each label, and how much of a step each label has.

Axes: N steps, L labels, M = 1 + L + L (L - 1) / 2 sets: the empty one, single labels, pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_WEAK = 1e-5  # how strongly the calibration is held to 0 where nothing else holds it


@dataclass(frozen=True)
class Calibration:
    """slope, size[0] and size[2] of the equation above."""

    slope: float = 1.0
    none: float = 0.0
    pair: float = 0.0


@lru_cache(maxsize=8)
def members(L: int) -> np.ndarray:
    """Which labels each of the M sets holds, float64 (M, L)."""
    first, second = np.triu_indices(L, k=1)
    member_ML = np.zeros((1 + L + first.size, L))
    member_ML[1 : 1 + L] = np.eye(L)
    pairs = np.arange(1 + L, len(member_ML))
    member_ML[pairs, first] = 1
    member_ML[pairs, second] = 1
    member_ML.setflags(write=False)
    return member_ML


def set_numbers(label_sets: Sequence[Sequence[int]], *, L: int) -> np.ndarray:
    """The number 0 .. M - 1 of each set of label numbers, (N,) int64."""
    place = {tuple(np.flatnonzero(row).tolist()): number for number, row in enumerate(members(L))}
    return np.array([place[tuple(sorted(labels))] for labels in label_sets], dtype=np.int64)


def set_probabilities(score_NL: np.ndarray, *, calibration: Calibration) -> np.ndarray:
    """P(S) of every set, float64 (N, M)."""
    member_ML = members(score_NL.shape[1])
    size_M = np.array([calibration.none, 0.0, calibration.pair])[member_ML.sum(axis=1).astype(int)]
    energy_NM = calibration.slope * (score_NL @ member_ML.T) + size_M
    energy_NM -= energy_NM.max(axis=1, keepdims=True)
    odds_NM = np.exp(energy_NM)
    probability_NM: np.ndarray = odds_NM / odds_NM.sum(axis=1, keepdims=True)
    return probability_NM


def label_probabilities(probability_NM: np.ndarray, *, L: int) -> np.ndarray:
    """The probability that a step has each label, (N, L)."""
    found: np.ndarray = probability_NM @ members(L)
    return found


def label_shares(probability_NM: np.ndarray, *, L: int) -> np.ndarray:
    """How much of a step each label is expected to have, (N, L): a pair shares it; the rest to 1 is no label."""
    member_ML = members(L)
    share_ML = member_ML / np.maximum(member_ML.sum(axis=1, keepdims=True), 1)
    found: np.ndarray = probability_NM @ share_ML
    return found


def fit_calibration(score_NL: np.ndarray, *, set_N: np.ndarray) -> Calibration:
    """The calibration by which the sets `set_N` (numbers of sets) are likeliest; the sets have at least one label
    somewhere. A weak prior keeps the sizes finite where a size never occurs. scipy must be installed."""
    from scipy.optimize import minimize

    rows, member_ML = np.arange(set_N.size), members(score_NL.shape[1])
    size_M = member_ML.sum(axis=1)
    total_NM = score_NL @ member_ML.T

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        """Negative log-likelihood in the mean, and its gradient: expected statistics minus those that were seen."""
        found = Calibration(*map(float, values))
        probability_NM = set_probabilities(score_NL, calibration=found)
        log_likelihood = np.log(probability_NM[rows, set_N] + 1e-300).mean() - _WEAK * (values**2).sum()
        missing_M = (probability_NM.sum(axis=0) - np.bincount(set_N, minlength=size_M.size)) / set_N.size
        slope = ((probability_NM * total_NM).sum() - total_NM[rows, set_N].sum()) / set_N.size
        gradient = np.array([slope, missing_M[size_M == 0].sum(), missing_M[size_M == 2].sum()])
        return -float(log_likelihood), gradient + 2 * _WEAK * values

    best = minimize(loss, np.array([1.0, 0.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.01, 20)] + [(-12, 12)] * 2)
    return Calibration(*map(float, best.x))
