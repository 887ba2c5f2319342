"""EM finds the chain again from which set-valued transitions were drawn (method.md §3).

The generative model. A set I is given, its hidden state a is uniform in it (rho), b follows P_a, and the set J that is
shown holds b: alone, or, with probability TWICE, beside another label drawn without regard to b; <start> and <stop> are
shown alone. Both members of J make it equally likely, so Pr(J | I) = sum P_ab / (|I||J|) up to a factor that knows no
P: the model of method.md §3, exactly. Single states are shown with positive probability in I and in J, so Pr(J | I)
determines P: it is identifiable, and the maximum-likelihood estimate is consistent. This holds
 - of transitions drawn one by one, for any law of I in which both members of a set are equally likely (`sample`);
 - of sequences, where J is the next I, if the state that is left is drawn anew from the set that was shown
   (`walk(redraw=True)`): a Markov chain of sets with that kernel.
It does not hold where the state that was entered is the state that is left, as in a hidden Markov chain
(`walk(redraw=False)`): there the more frequent label of a set is the likelier one, rho is not uniform, and a bias is
left that no corpus takes away, unless all labels are equally frequent. Five damped iterations leave another.

Axes: M transitions, N trajectories that have not stopped, D base edges that are allowed.
"""

import math

import numpy as np
import pytest

from mralign.transitions.counts import Counts
from mralign.transitions.em import allowed_mask, estimate

TWICE = 0.4  # how often a label is shown beside another one
SIZES = (10**3, 10**4, 10**5, 10**6)
_CHUNK = 10**6


def chain(K, *, seed):
    """A random P (K, K) on the mask; only <stop> follows <stop>."""
    A = allowed_mask(K)
    P = np.random.default_rng(seed).gamma(0.8, size=(K, K)) * A + 0.02 * A
    return P / P.sum(axis=1, keepdims=True)


def sample(P, M, *, seed):
    """M transitions, each drawn for itself from the model: a uniform over <start> and the labels. Counted."""
    K, rng, n = len(P), np.random.default_rng(seed), 0
    for begin in range(0, M, _CHUNK):
        a_M = rng.integers(0, K - 1, min(_CHUNK, M - begin))
        source_M = _shown(a_M, K=K, rng=rng)
        target_M = _shown(following(a_M, P=P, rng=rng), K=K, rng=rng)
        n = n + np.bincount(source_M * K**2 + target_M, minlength=K**4)
    return _counts(n, K=K)


def walk(P, M, *, seed, redraw):
    """About M transitions of whole sequences from <start> to <stop>, counted. `redraw`: see above."""
    K, rng = len(P), np.random.default_rng(seed)
    length = np.linalg.solve(np.eye(K - 1) - P[:-1, :-1], np.ones(K - 1))[0]  # transitions of a trajectory, expected
    n, left = np.zeros(K**4, dtype=np.int64), math.ceil(M / length)
    while left > 0:
        a_N, set_N = np.zeros((2, min(_CHUNK, left)), dtype=np.int64)  # {<start>}
        left -= a_N.size
        while a_N.size:
            b_N = following(a_N, P=P, rng=rng)
            shown_N = _shown(b_N, K=K, rng=rng)
            n += np.bincount(set_N * K**2 + shown_N, minlength=K**4)
            on_N = b_N < K - 1
            members = np.array(np.divmod(shown_N, K))
            entered_N = members[rng.integers(0, 2, b_N.size), np.arange(b_N.size)] if redraw else b_N
            a_N, set_N = entered_N[on_N], shown_N[on_N]
    return _counts(n, K=K)


def following(a_M, *, P, rng):
    """The states (M,) that follow: the first column whose cumulative probability exceeds a uniform number."""
    K = len(P)
    ladder = (P.cumsum(axis=1) + np.arange(K)[:, None]).ravel()  # row a ascends from a to a + 1
    found = np.searchsorted(ladder, a_M + rng.random(a_M.size), side="right") - a_M * K
    return np.minimum(found, K - 1)  # where the last sum is rounded below 1


def _shown(state_M, *, K, rng):
    """Codes (M,) of the sets that are shown: the state, at times with another label, uniform among the others."""
    other_M = rng.integers(1, K - 2, state_M.size)
    other_M += other_M >= state_M
    twice_M = (rng.random(state_M.size) < TWICE) & (state_M > 0) & (state_M < K - 1)
    other_M = np.where(twice_M, other_M, state_M)
    return np.minimum(state_M, other_M) * K + np.maximum(state_M, other_M)


def _counts(n, *, K):
    (seen,) = np.nonzero(n)
    return Counts(seen // K**2, seen % K**2, n[seen], (1, -1))


def converged(counts, *, K):
    """The maximum-likelihood estimate: undamped EM until nothing moves, a prior that only keeps logarithms finite."""
    return estimate(counts, K=K, max_iter=20_000, tol=1e-8, damping=1.0, prior=1e-9)


def errors(P, counts):
    """Mean l1 distance of a row from that of P, over the rows that are left: converged, and by the paper's preset."""
    found = (converged(counts, K=len(P)), estimate(counts, K=len(P)))
    return [float(np.abs(one.P - P).sum(axis=1)[:-1].mean()) for one in found]


def efficient_error(P, M):
    """The error of `errors` that an efficient estimator has of M transitions of `sample`: E|x| = sqrt(2 var / pi) of
    normal errors, whose covariance is the inverse Fisher information per transition on rows that sum to 1, over M."""
    K = len(P)
    edges = [(a, b) for a in range(K - 1) for b in range(1, K)]
    place = {edge: d for d, edge in enumerate(edges)}
    sets = [(x,) for x in range(K)] + [(x, y) for x in range(1, K - 1) for y in range(x + 1, K - 1)]
    shown = {J: 1.0 if J[0] in (0, K - 1) else 1 - TWICE if len(J) == 1 else TWICE / (K - 3) for J in sets}  # Pr(J | b)
    information_DD = np.zeros((len(edges), len(edges)))
    for source in sets[: K - 1] + sets[K:]:
        pr_source = len(source) * shown[source] / (K - 1)
        for target in sets[1:]:
            hit = [place[a, b] for a in source for b in target]
            joint = sum(P[edges[d]] for d in hit)
            information_DD[np.ix_(hit, hit)] += pr_source * shown[target] / len(source) / joint
    row = np.linalg.svd(np.ones((1, K - 1)))[2][1:].T  # an orthonormal basis of the changes that keep a row's sum
    basis = np.kron(np.eye(K - 1), row)
    covariance_DD = basis @ np.linalg.inv(basis.T @ information_DD @ basis) @ basis.T / M
    return float(np.sqrt(2 * np.diag(covariance_DD) / np.pi).sum() / (K - 1))


# --- transitions drawn one by one --------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[0, 1])
def study(request):
    """A chain, and its errors (sizes, 2): converged and paper, means over three corpora of each size."""
    P, seed = chain(8, seed=request.param), 100 * request.param
    draws = [[errors(P, sample(P, M, seed=seed + r)) for r in range(3)] for M in SIZES]
    return P, np.mean(draws, axis=1)


def test_the_converged_error_falls_as_one_over_the_root_of_m(study):
    _, found = study
    slope = np.polyfit(np.log(SIZES), np.log(found[:, 0]), 1)[0]
    assert -0.6 < slope < -0.4


def test_the_converged_error_is_that_of_an_efficient_estimator(study):
    P, found = study
    for M, error in zip(SIZES[1:], found[1:, 0], strict=True):
        assert error == pytest.approx(efficient_error(P, M), rel=0.25)


def test_the_paper_preset_keeps_a_bias_that_no_corpus_takes_away(study):
    _, found = study
    assert found[-1, 1] > 5 * found[-1, 0]
    assert found[-1, 1] > 0.8 * found[-2, 1]  # ten times the transitions: nearly nothing is gained


# --- sequences ---------------------------------------------------------------------------------------------------


def test_sequences_are_recovered_where_the_state_that_is_left_is_drawn_from_the_set():
    P = chain(8, seed=0)
    few, many = (errors(P, walk(P, M, seed=3, redraw=True))[0] for M in (10**4, 10**6))
    assert 5 < few / many < 20  # a hundred times the transitions: a tenth of the error


def test_a_hidden_markov_chain_keeps_a_bias():
    P = chain(8, seed=0)
    exact, hidden = (errors(P, walk(P, 10**6, seed=3, redraw=redraw))[0] for redraw in (True, False))
    assert hidden > 3 * exact


def test_a_hidden_markov_chain_of_equally_frequent_labels_keeps_none():
    K, shares = 8, np.random.default_rng(0).dirichlet(np.full(6, 0.8))
    P = np.zeros((K, K))
    P[0, 1:-1], P[-1, -1] = 1 / 6, 1
    for label in range(6):  # every label is entered as often as it is left
        P[1 + label, 1:-1], P[1 + label, -1] = 0.85 * np.roll(shares, label), 0.15
    few, many = (errors(P, walk(P, M, seed=3, redraw=False))[0] for M in (10**4, 10**6))
    assert few / many > 5
