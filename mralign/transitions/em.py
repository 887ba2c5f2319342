"""Counts of set transitions become the matrix P between single states (METHOD.md §3).

A reduced count table (`Counts`) enters, an `Estimate` leaves: P, its prior-smoothed support alpha, the expected counts
C and the log-likelihood. EM sees every distinct transition once, times its count, so its cost does not depend on the
corpus.

Axes: T distinct transitions, E = 4 base edges of each; matrices are (K, K), rows sources. r_TE are responsibilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mralign.transitions.counts import Counts, base_edges

Estimator = Literal["em", "frequency"]


@dataclass(frozen=True)
class Estimate:
    """A transition matrix and what it rests on; all matrices are float64 (K, K)."""

    P: np.ndarray  # rows sum to 1, masked entries are 0
    alpha: np.ndarray  # C + prior * A
    C: np.ndarray  # expected counts of the last E-step
    log_likelihood: tuple[float, ...]  # of the uniform start, then after each iteration: iterations + 1 values
    iterations: int
    converged: bool


@dataclass(frozen=True)
class _Edges:
    """The observed transitions, unfolded into base edges that exist and are allowed."""

    flat_TE: np.ndarray  # a*K + b
    allowed_TE: np.ndarray
    rho_T: np.ndarray  # 1 / (|I| |J|)
    n_T: np.ndarray  # float64


def allowed_mask(K: int) -> np.ndarray:
    """Mask A (K, K) of 0.0 and 1.0: nothing enters <start>, <stop> absorbs (METHOD.md §3)."""
    A = np.ones((K, K))
    A[:, 0] = 0
    A[K - 1, :] = 0
    A[K - 1, K - 1] = 1
    return A


def estimate(
    counts: Counts,
    *,
    K: int,
    max_iter: int = 5,
    tol: float = 1e-6,
    damping: float = 0.6,
    prior: float = 0.1,
    estimator: Estimator = "em",
) -> Estimate:
    """P from counted set transitions over K states (METHOD.md §3; Algorithms 1-2 of the paper).

    `estimator="frequency"`: each pair adds 1/(|I||J|) to each of its edges, once; same prior and normalisation.
    DECISION: a row without support (prior 0, never left) keeps the uniform start, so that rows always sum to 1.
    Raises ValueError if there is nothing to count or a setting is out of its range.
    """
    _check(counts, K=K, max_iter=max_iter, damping=damping, prior=prior, estimator=estimator)
    A = allowed_mask(K)
    edges = _unfold(counts, A=A)
    P = A / A.sum(axis=1, keepdims=True)
    likelihood = [_log_likelihood(P, edges=edges)]
    if estimator == "frequency":
        C = _scatter(edges.rho_T[:, None] * edges.allowed_TE, edges=edges, K=K)
        P = _normalised(C + prior * A, fallback=P)
        likelihood.append(_log_likelihood(P, edges=edges))
        return Estimate(P, C + prior * A, C, tuple(likelihood), iterations=1, converged=True)
    converged = False
    while not converged and len(likelihood) <= max_iter:
        C = _scatter(_responsibilities(P, edges=edges), edges=edges, K=K)  # E-step
        P_new = _normalised(C + prior * A, fallback=P)  # M-step
        P, P_last = (1 - damping) * P + damping * P_new, P
        likelihood.append(_log_likelihood(P, edges=edges))
        converged = bool(np.abs(P - P_last).max() < tol)
    return Estimate(P, C + prior * A, C, tuple(likelihood), iterations=len(likelihood) - 1, converged=converged)


def _check(counts: Counts, *, K: int, max_iter: int, damping: float, prior: float, estimator: str) -> None:
    """Raise ValueError for counts or settings that no estimate can come from."""
    if not counts.n.sum():
        raise ValueError(
            f"no transition of polarity {' or '.join(f'{sign:+d}' for sign in counts.polarities)} was counted: its "
            f"matrix cannot be estimated. At least one annotated trajectory of it is needed: look at the funnel of the "
            f"candidates and the annotation's rejects, then sample more questions"
        )
    top = max(counts.source_sets.max(), counts.target_sets.max())
    if top >= K * K:
        raise ValueError(f"state set {top} is beyond K = {K} states (codes below {K * K}); give the taxonomy's own K")
    if max_iter < 1:
        raise ValueError(f"max_iter is {max_iter}; allowed is 1 or more (transitions.max_iter)")
    if not 0 < damping <= 1:
        raise ValueError(f"damping is {damping}; allowed is above 0 up to 1 (transitions.damping)")
    if prior < 0:
        raise ValueError(f"prior is {prior}; allowed is 0 or more (transitions.prior)")
    if estimator not in ("em", "frequency"):
        raise ValueError(f"estimator is {estimator!r}; allowed are 'em' and 'frequency' (transitions.estimator)")


def _unfold(counts: Counts, *, A: np.ndarray) -> _Edges:
    """Base edges of every distinct transition, with the mask applied."""
    a_TE, b_TE, exists_TE = base_edges(counts.source_sets, counts.target_sets, K=len(A))
    return _Edges(
        flat_TE=a_TE * len(A) + b_TE,
        allowed_TE=exists_TE & (A[a_TE, b_TE] > 0),
        rho_T=1.0 / exists_TE.sum(axis=1),
        n_T=counts.n.astype(np.float64),
    )


def _joint(P: np.ndarray, *, edges: _Edges) -> np.ndarray:
    """P_ab / (|I| |J|) of every allowed edge, 0 elsewhere: (T, E)."""
    joint_TE: np.ndarray = np.where(edges.allowed_TE, P.reshape(-1)[edges.flat_TE], 0.0) * edges.rho_T[:, None]
    return joint_TE


def _responsibilities(P: np.ndarray, *, edges: _Edges) -> np.ndarray:
    """r_ab = rho_I(a) P_ab / sum over allowed (a, b); uniform if the sum is 0; all 0 if no edge is allowed. (T, E)."""
    joint_TE = _joint(P, edges=edges)
    empty_T = joint_TE.sum(axis=1) == 0
    joint_TE[empty_T] = edges.allowed_TE[empty_T]
    total_T = joint_TE.sum(axis=1, keepdims=True)
    r_TE: np.ndarray = np.divide(joint_TE, total_T, out=np.zeros_like(joint_TE), where=total_T > 0)
    return r_TE


def _scatter(r_TE: np.ndarray, *, edges: _Edges, K: int) -> np.ndarray:
    """C_ab = sum over transitions of n r_ab: (K, K)."""
    weights = (r_TE * edges.n_T[:, None]).reshape(-1)
    return np.bincount(edges.flat_TE.reshape(-1), weights=weights, minlength=K * K).reshape(K, K)


def _normalised(support: np.ndarray, *, fallback: np.ndarray) -> np.ndarray:
    """Rows of `support` divided by their sums; a row without support (prior 0, never left) keeps `fallback`."""
    total = support.sum(axis=1, keepdims=True)
    rows: np.ndarray = np.divide(support, total, out=fallback.copy(), where=total > 0)
    return rows


def _log_likelihood(P: np.ndarray, *, edges: _Edges) -> float:
    """sum n log Pr(J | I, P), Pr = sum P_ab / (|I| |J|), over the transitions with an allowed edge."""
    possible_T = edges.allowed_TE.any(axis=1)
    pr_T = _joint(P, edges=edges).sum(axis=1)[possible_T]
    with np.errstate(divide="ignore"):  # an underflown probability gives -inf, the truth
        return float(edges.n_T[possible_T] @ np.log(pr_T))
