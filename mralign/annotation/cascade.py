"""A cascade: the panel is asked about the trajectories where its word moves the weights most, a labeller does the rest.

What a labeller foresees of all trajectories enters, the ids of those for the panel leave. A label matters only through
the counts C_ab of transitions, and these only through the weights. The labeller's own labels (the likeliest of each
step) give counts that differ from the expected ones by B_ab; a single trajectory adds d_ab = p_ab - h_ab to it, where
a -> b has the probability p_ab by the labeller and the share h_ab in its labels. To first order that moves

    log P_ab  by  L_ab = B_ab / alpha_ab - B_a / alpha_a          (B_a, alpha_a: sums of the row)
    log w_ab  by  L_ab of the polarity - L_ab of all

and the expected squared error of the log-weights, over all steps that will be weighed, is

    E = sum over polarities s and ab of  n_ab^s (L_ab^s - L_ab)^2  +  variance

Asking the panel about a trajectory takes away its part of B and its variance p_ab (1 - p_ab). Trajectories are chosen
in rounds, those first by which E falls most to first order: errors of one direction add up, errors of both directions
need no money. alpha are the expected counts over the whole pool and a prior, n the expected counts. docs/annotators.md
has what this brings, beside random choice and beside the labeller's doubt.

Axes: N trajectories, T transitions of all of them, K states, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mralign.annotation.label_sets import label_shares, members
from mralign.annotation.labeller import PredictedSteps
from mralign.rows import SIGNED

_PRIOR = 0.5  # added to every expected count: logarithms of smaller ones are no longer straight lines
_ROUNDS = 10  # after each of them the error that is left is looked at again
_SIGNS = tuple(map(int, SIGNED))


@dataclass(frozen=True)
class Foreseen:
    """A trajectory of the pool, and what a labeller foresees of its N steps."""

    row_id: str
    polarity: int
    expected_NL: np.ndarray  # how much of each step a label has in the mean
    chosen_NL: np.ndarray  # the same of the likeliest label set
    entropy: float  # of the label sets, summed over the steps, in nats


@dataclass(frozen=True)
class _Pool:
    """Every transition of all trajectories: how much each state has of the step before and of the step behind it."""

    row_T: np.ndarray
    polarity_N: np.ndarray
    expected: tuple[np.ndarray, np.ndarray]  # (T, K) each
    chosen: tuple[np.ndarray, np.ndarray]


def foresee(row_id: str, *, polarity: int, prediction: PredictedSteps, L: int) -> Foreseen:
    """What the criterion needs of a prediction."""
    probability_NM = prediction.probability_NM
    likeliest_NM = np.eye(len(members(L)))[probability_NM.argmax(axis=1)]
    entropy = -(probability_NM * np.log(probability_NM + 1e-300)).sum()
    expected_NL, chosen_NL = label_shares(probability_NM, L=L), label_shares(likeliest_NM, L=L)
    return Foreseen(row_id, polarity, expected_NL, chosen_NL, float(entropy))


def choose(pool: Sequence[Foreseen], *, budget: int) -> frozenset[str]:
    """The row_ids of `budget` trajectories, all where there are no more."""
    if budget >= len(pool):
        return frozenset(one.row_id for one in pool)
    ordered = sorted(pool, key=lambda one: one.row_id)  # ties, and the pool's order, do not matter
    flat = _flat(ordered)
    left_N = np.ones(len(ordered), dtype=bool)
    for places in np.array_split(np.arange(budget), min(_ROUNDS, max(budget, 1))):
        gain_N = np.where(left_N, _gains(flat, left_N=left_N), -np.inf)
        left_N[np.argsort(-gain_N, kind="stable")[: places.size]] = False
    return frozenset(one.row_id for one, left in zip(ordered, left_N.tolist(), strict=True) if not left)


def gains(pool: Sequence[Foreseen]) -> np.ndarray:
    """How much E falls to first order for each trajectory that the panel is asked about, (N,), before any is."""
    return _gains(_flat(pool), left_N=np.ones(len(pool), dtype=bool))


def _gains(pool: _Pool, *, left_N: np.ndarray) -> np.ndarray:
    """The same where only the trajectories of the mask are still left to the labeller."""
    everyone = np.ones_like(left_N)
    alpha = {sign: _counts(pool.expected, pool=pool, sign=sign, of_N=everyone) + _PRIOR for sign in (*_SIGNS, 0)}
    whole = alpha[1] + alpha[-1] + alpha[0]
    off = {sign: _off(pool, sign=sign, of_N=left_N) for sign in (*_SIGNS, 0)}
    moved = _moved(off[1] + off[-1] + off[0], alpha=whole)
    error = {
        sign: 2 * (alpha[sign] - _PRIOR) * (_moved(off[sign], alpha=alpha[sign]) - moved) for sign in _SIGNS
    }  # the derivative of E by log w
    shared = _back(error[1] + error[-1], alpha=whole)
    slope = {sign: _back(error[sign], alpha=alpha[sign]) - shared for sign in _SIGNS} | {0: -shared}
    spread = _spread(alpha, whole=whole)
    gain_N = np.zeros(left_N.size)
    for sign in (*_SIGNS, 0):
        of_T = pool.polarity_N[pool.row_T] == sign
        before, behind = (side[of_T] for side in pool.expected)
        gain_T = _summed(slope[sign] + spread[sign], before=before, behind=behind)
        gain_T -= _summed(spread[sign], before=before**2, behind=behind**2)  # p - p^2
        gain_T -= _summed(slope[sign], before=pool.chosen[0][of_T], behind=pool.chosen[1][of_T])
        gain_N += np.bincount(pool.row_T[of_T], weights=gain_T, minlength=left_N.size)
    return gain_N


def _moved(off_KK: np.ndarray, *, alpha: np.ndarray) -> np.ndarray:
    """L_ab."""
    found: np.ndarray = off_KK / alpha - off_KK.sum(axis=1, keepdims=True) / alpha.sum(axis=1, keepdims=True)
    return found


def _back(error_KK: np.ndarray, *, alpha: np.ndarray) -> np.ndarray:
    """The derivative by B_ab of what has the derivative `error_KK` by L_ab."""
    found: np.ndarray = error_KK / alpha - error_KK.sum(axis=1, keepdims=True) / alpha.sum(axis=1, keepdims=True)
    return found


def _spread(alpha: Mapping[int, np.ndarray], *, whole: np.ndarray) -> dict[int, np.ndarray]:
    """What a unit of variance of a count adds to E, by polarity; the rest of the row is left out."""
    found = {0: (alpha[1] + alpha[-1]) / whole**2}
    for sign in _SIGNS:
        found[sign] = alpha[sign] * (1 / alpha[sign] - 1 / whole) ** 2 + alpha[-sign] / whole**2
    return found


def _counts(sides: tuple[np.ndarray, np.ndarray], *, pool: _Pool, sign: int, of_N: np.ndarray) -> np.ndarray:
    """Counts of a -> b over the trajectories of a polarity and of the mask, (K, K)."""
    of_T = (of_N & (pool.polarity_N == sign))[pool.row_T]
    found: np.ndarray = sides[0][of_T].T @ sides[1][of_T]
    return found


def _off(pool: _Pool, *, sign: int, of_N: np.ndarray) -> np.ndarray:
    """B_ab: expected counts minus those of the labeller's labels."""
    expected, chosen = (_counts(sides, pool=pool, sign=sign, of_N=of_N) for sides in (pool.expected, pool.chosen))
    return expected - chosen


def _summed(factor_KK: np.ndarray, *, before: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The sum over a, b of factor_ab before_a behind_b of each transition, (T,)."""
    found: np.ndarray = ((before @ factor_KK) * behind).sum(axis=1)
    return found


def _flat(pool: Sequence[Foreseen]) -> _Pool:
    lengths = [len(one.expected_NL) + 1 for one in pool]
    expected, chosen = _sides([one.expected_NL for one in pool]), _sides([one.chosen_NL for one in pool])
    row_T = np.repeat(np.arange(len(pool)), lengths)
    return _Pool(row_T, np.array([one.polarity for one in pool], dtype=np.int64), expected, chosen)


def _sides(shares: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The states before and behind each transition, from <start> to <stop> in each trajectory."""
    before, behind = [], []
    for share_NL in shares:
        state_NK = np.zeros((len(share_NL) + 2, share_NL.shape[1] + 2))
        state_NK[0, 0] = state_NK[-1, -1] = 1
        state_NK[1:-1, 1:-1] = share_NL
        before.append(state_NK[:-1])
        behind.append(state_NK[1:])
    return np.concatenate(before), np.concatenate(behind)
