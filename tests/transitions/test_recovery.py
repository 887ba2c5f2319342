"""EM finds the chain again from which set-valued transitions were drawn (METHOD.md §3).

Transitions are drawn one by one from the model itself: a set I is shown, its state a is uniform in it, b follows P_a,
and the set J that is shown holds b: {b} alone, or with another label, drawn without regard to which. Then Pr(J | I) is
sum P_ab / (|I||J|) up to a factor that knows no P, and the maximum-likelihood estimate is consistent. In a sequence,
where J is the next I, that holds exactly only where all labels are equally frequent.
"""

import numpy as np
import pytest

from mralign.transitions.counts import Counts
from mralign.transitions.em import allowed_mask, estimate


def chain(K, *, seed):
    """A random P (K, K) on the mask."""
    A = allowed_mask(K)
    P = np.random.default_rng(seed).gamma(0.8, size=(K, K)) * A + 0.02 * A
    return P / P.sum(axis=1, keepdims=True)


def sample(P, M, *, seed):
    """M transitions between sets drawn from the model, counted."""
    K, rng = len(P), np.random.default_rng(seed)
    a_M = rng.integers(0, K - 1, M)  # the hidden source: <start> or a label
    other_M = _another(a_M, K=K, rng=rng)
    source_M = _code(a_M, np.where((rng.random(M) < 0.4) & (a_M > 0), other_M, a_M), K=K)
    b_M = (P.cumsum(axis=1)[a_M] < rng.random(M)[:, None]).sum(axis=1)
    shown_M = (rng.random(M) < 0.4) & (b_M < K - 1)
    target_M = _code(b_M, np.where(shown_M, _another(b_M, K=K, rng=rng), b_M), K=K)
    pairs, n = np.unique(np.stack([source_M, target_M]), axis=1, return_counts=True)
    return Counts(pairs[0], pairs[1], n, (1, -1))


def _another(state_M, *, K, rng):
    """Another label, uniform among those that are not the state."""
    drawn_M = rng.integers(1, K - 2, len(state_M))
    return drawn_M + (drawn_M >= state_M)


def _code(x_M, y_M, *, K):
    return np.minimum(x_M, y_M) * K + np.maximum(x_M, y_M)


def errors(P, counts):
    """Mean l1 error over the rows that are left: converged, and by the paper's preset."""
    K = len(P)
    converged = estimate(counts, K=K, max_iter=5000, tol=1e-8, damping=1.0, prior=1e-9)
    paper = estimate(counts, K=K)
    return [float(np.abs(found.P - P)[: K - 1].mean()) for found in (converged, paper)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_error_of_the_converged_estimate_falls_as_one_over_the_root_of_m(seed):
    P, sizes = chain(8, seed=seed), [10**3, 10**4, 10**5, 10**6]
    found = np.array([np.mean([errors(P, sample(P, M, seed=10 * seed + r)) for r in range(3)], axis=0) for M in sizes])
    slope = np.polyfit(np.log(sizes), np.log(found[:, 0]), 1)[0]
    assert -0.6 < slope < -0.4
    assert found[-1, 0] < 0.003
    assert found[-1, 1] > 5 * found[-1, 0]  # five damped iterations leave a bias that no corpus takes away
    assert found[-1, 1] > 0.5 * found[1, 1]
