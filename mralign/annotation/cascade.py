"""A cascade: the panel is asked about the trajectories where its word moves the weights most, a labeller does the rest.

What a labeller foresees of all trajectories enters, the ids of those for the panel leave. A label matters only through
the counts C_ab of transitions, and these only through the weights: log w_ab is log P_ab of the polarity minus log P_ab
of all. With P_ab about alpha_ab / alpha_a, a changed count moves the logarithm of P_ab by 1 / alpha_ab: much where
transitions are rare, hardly at all where they are many. Let a transition of a trajectory of polarity s be a -> b with
probability p_ab by the labeller, and have the share h_ab in the labels that the labeller would give. What the panel's
word is expected to take from the squared error of the log-weights, over all transitions that will be weighed, is

    gain = sum over its transitions and ab of g_ab(s) [ p_ab (1 - p_ab) + (p_ab - h_ab)^2 ]
    g_ab(s) = alpha_ab^s (1/alpha_ab^s - 1/alpha_ab)^2 + alpha_ab^-s / alpha_ab^2

The first term of the bracket is the variance of the count, the second what choosing the likeliest label gets wrong in
the mean. alpha are the expected counts over the whole pool, plus the prior. Left out: that a changed count moves the
other entries of its row as well, and that neighbouring transitions of a trajectory share a step. docs/annotators.md has
what this brings, beside random choice and beside the entropy of the labels.

Axes: N trajectories, T transitions of one, K states, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mralign.annotation.label_sets import label_shares, members
from mralign.annotation.labeller import Prediction
from mralign.rows import SIGNED

_PRIOR = 0.1  # of every transition, as in method.md, section 3


@dataclass(frozen=True)
class Foreseen:
    """A trajectory of the pool, and what a labeller foresees of its N steps."""

    row_id: str
    polarity: int
    expected_NL: np.ndarray  # how much of each step a label has in the mean
    chosen_NL: np.ndarray  # the same of the likeliest label set
    entropy: float  # of the label sets, mean over the steps, in nats


def foresee(row_id: str, *, polarity: int, prediction: Prediction, L: int) -> Foreseen:
    """What the criterion needs of a prediction."""
    probability_NM = prediction.probability_NM
    likeliest_NM = np.eye(len(members(L)))[probability_NM.argmax(axis=1)]
    entropy = -(probability_NM * np.log(probability_NM + 1e-300)).sum(axis=1).mean()
    expected_NL, chosen_NL = label_shares(probability_NM, L=L), label_shares(likeliest_NM, L=L)
    return Foreseen(row_id, polarity, expected_NL, chosen_NL, float(entropy))


def choose(pool: Sequence[Foreseen], *, budget: int) -> frozenset[str]:
    """The row_ids of the `budget` trajectories with the highest gain; ties in order of the ids."""
    gain_N = gains(pool)
    order = sorted(range(len(pool)), key=lambda place: (-gain_N[place], pool[place].row_id))
    return frozenset(pool[place].row_id for place in order[:budget])


def gains(pool: Sequence[Foreseen]) -> np.ndarray:
    """The gain of asking about each trajectory, (N,)."""
    factor = _factors(pool)
    return np.array([_gain(one, factor_KK=factor[one.polarity]) for one in pool])


def _factors(pool: Sequence[Foreseen]) -> dict[int, np.ndarray]:
    """g_ab by polarity, (K, K)."""
    K = pool[0].expected_NL.shape[1] + 2 if pool else 2
    alpha = {polarity: np.full((K, K), _PRIOR) for polarity in (*map(int, SIGNED), 0)}
    for one in pool:
        alpha[one.polarity] += _transitions(one.expected_NL).sum(axis=0)
    whole = alpha[1] + alpha[-1] + alpha[0]
    factor = {0: (alpha[1] + alpha[-1]) / whole**2}
    for sign in map(int, SIGNED):
        factor[sign] = alpha[sign] * (1 / alpha[sign] - 1 / whole) ** 2 + alpha[-sign] / whole**2
    return factor


def _gain(one: Foreseen, *, factor_KK: np.ndarray) -> float:
    expected_TKK, chosen_TKK = _transitions(one.expected_NL), _transitions(one.chosen_NL)
    change_TKK = expected_TKK * (1 - expected_TKK) + (expected_TKK - chosen_TKK) ** 2
    return float((change_TKK * factor_KK).sum())


def _transitions(share_NL: np.ndarray) -> np.ndarray:
    """The probability of each a -> b at each transition of a trajectory, from <start> to <stop>, (N + 1, K, K)."""
    N, L = share_NL.shape
    state_NK = np.zeros((N + 2, L + 2))
    state_NK[0, 0] = state_NK[-1, -1] = 1
    state_NK[1:-1, 1:-1] = share_NL
    found: np.ndarray = state_NK[:-1, :, None] * state_NK[1:, None, :]
    return found
