"""Counts of set transitions become the matrix P between single states (method.md §3).

A reduced count table (`Counts`) enters, an `Estimate` leaves: P, its prior-smoothed support alpha, the expected counts
C and the log-likelihood. EM sees every distinct transition once, times its count, so its cost does not depend on the
corpus. `maximise` does not ask where the E-step comes from: from one reduced table (`estimate`, the usual form: at
most 14,884 distinct transitions for the paper's taxonomy), or, where tables are kept in shards because their sum would
be too large for one task (many labels and replicates), from `expect` on every shard, added up, once an iteration.

Axes: T distinct transitions, E = 4 base edges of each, B bootstrap replicates, R = 1 + B (the corpus, then its
replicates); matrices are (K, K), rows sources. r_TE are responsibilities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from mralign.config import Transitions
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
class Settings:
    """How EM is run; ValueError for a value out of its range."""

    max_iter: int = 5
    tol: float = 1e-6
    damping: float = 0.6
    prior: float = 0.1
    estimator: Estimator = "em"

    def __post_init__(self) -> None:
        if self.max_iter < 1:
            raise ValueError(f"max_iter is {self.max_iter}; allowed is 1 or more (transitions.max_iter)")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping is {self.damping}; allowed is above 0 up to 1 (transitions.damping)")
        if self.prior < 0:
            raise ValueError(f"prior is {self.prior}; allowed is 0 or more (transitions.prior)")
        if self.estimator not in ("em", "frequency"):
            raise ValueError(
                f"estimator is {self.estimator!r}; allowed are 'em' and 'frequency' (transitions.estimator)"
            )


def settings_of(config: Transitions) -> Settings:
    """What the section `transitions` of a configuration says of EM."""
    return Settings(config.max_iter, config.tol, config.damping, config.prior, config.estimator)


class ExpectedCounts(NamedTuple):
    """What an E-step gives: expected counts (R, K, K) and log-likelihoods (R,) under R matrices."""

    C_RKK: np.ndarray
    log_likelihood_R: np.ndarray


Expectation = Callable[[np.ndarray, np.ndarray], ExpectedCounts]


@dataclass(frozen=True)
class Shard:
    """Counted transitions, unfolded once for all iterations into base edges."""

    flat_TE: np.ndarray  # a*K + b
    share_TE: np.ndarray  # 1 / (|I| |J|) for edges that exist and are allowed, else 0
    possible_T: np.ndarray  # whether any edge is allowed
    n_RT: np.ndarray  # how often each was counted, then the same in each replicate; float64

    @classmethod
    def of(cls, counts: Counts, *, n_TB: np.ndarray, K: int) -> Shard:
        """The shard of a count table, which may be empty, and its replicates."""
        a_TE, b_TE, exists_TE = base_edges(counts.source_sets, counts.target_sets, K=K)
        share_TE = (exists_TE & (allowed_mask(K)[a_TE, b_TE] > 0)) / exists_TE.sum(axis=1, keepdims=True)
        n_RT = np.vstack([counts.n, n_TB.T]).astype(np.float64)
        return cls(a_TE * K + b_TE, share_TE, share_TE.any(axis=1), n_RT)


def allowed_mask(K: int) -> np.ndarray:
    """Mask A (K, K) of 0.0 and 1.0: nothing enters <start>, <stop> absorbs (method.md §3)."""
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
    """P from counted set transitions over K states (method.md §3; Algorithms 1-2 of the paper).

    `estimator="frequency"`: each pair adds 1/(|I||J|) to each of its edges, once; same prior and normalisation.
    Our choice: a row without support (prior 0, never left) keeps the uniform start, so that rows always sum to 1.
    Raises ValueError if there is nothing to count or a setting is out of its range.
    """
    settings = Settings(max_iter=max_iter, tol=tol, damping=damping, prior=prior, estimator=estimator)
    return estimate_replicated(counts, n_TB=np.zeros((counts.n.size, 0)), K=K, settings=settings)[0]


def estimate_replicated(counts: Counts, *, n_TB: np.ndarray, K: int, settings: Settings) -> list[Estimate]:
    """As `estimate`, and the same for each bootstrap replicate (its counts a column of n_TB): 1 + B estimates.

    A replicate in which no trajectory is left rests on the prior alone.
    """
    check(counts, K=K)
    shard = Shard.of(counts, n_TB=n_TB, K=K)

    def expectation(P_RKK: np.ndarray, which: np.ndarray) -> ExpectedCounts:
        return expect(shard, P_RKK=P_RKK, which=which, estimator=settings.estimator)

    return maximise(expectation, R=1 + n_TB.shape[1], K=K, settings=settings)


def expect(shard: Shard, *, P_RKK: np.ndarray, which: np.ndarray, estimator: Estimator = "em") -> ExpectedCounts:
    """The E-step of one shard under R matrices, each with its own column `which` (R,) of the shard's counts.

    What the E-steps of several shards give adds up to what one table of all of them would give.
    """
    C_RKK, likelihood_R = np.empty_like(P_RKK), np.empty(len(P_RKK))
    for place, (P, n_T) in enumerate(zip(P_RKK, shard.n_RT[which], strict=True)):
        joint_TE = np.take(P, shard.flat_TE) * shard.share_TE  # P_ab / (|I| |J|), 0 where not allowed
        pr_T = joint_TE.sum(axis=1)
        r_TE = shard.share_TE if estimator == "frequency" else _responsibilities(joint_TE, pr_T=pr_T, shard=shard)
        C_RKK[place] = _scatter(r_TE * n_T[:, None], shard=shard, K=len(P))
        likelihood_R[place] = _log_likelihood(pr_T, n_T=n_T, shard=shard)
    return ExpectedCounts(C_RKK, likelihood_R)


def add_expected(*shards: ExpectedCounts) -> ExpectedCounts:
    """The E-step over all shards: what each of at least one gave, added up."""
    return ExpectedCounts(*(np.sum(values, axis=0) for values in zip(*shards, strict=True)))


def maximise(expectation: Expectation, *, R: int, K: int, settings: Settings) -> list[Estimate]:
    """R estimates by EM. `expectation` is the E-step over the whole corpus, in one table or in shards: it is given the
    matrices that still move, (R', K, K), and which of the R they are, (R',)."""
    A = allowed_mask(K)
    P_RKK = np.tile(A / A.sum(axis=1, keepdims=True), (R, 1, 1))
    once = settings.estimator == "frequency"
    damping = 1.0 if once else settings.damping
    moving = np.arange(R)
    following = expectation(P_RKK, moving)
    C_RKK, next_RKK = np.zeros_like(P_RKK), following.C_RKK.copy()
    traces = [[float(value)] for value in following.log_likelihood_R]
    converged = np.zeros(R, dtype=bool)
    for _ in range(1 if once else settings.max_iter):
        last, C_RKK[moving] = P_RKK[moving], next_RKK[moving]
        P_new = _normalised(C_RKK[moving] + settings.prior * A, fallback=last)  # M-step
        P_RKK[moving] = (1 - damping) * last + damping * P_new
        following = expectation(P_RKK[moving], moving)  # E-step
        next_RKK[moving] = following.C_RKK
        for number, value in zip(moving, following.log_likelihood_R, strict=True):
            traces[number].append(float(value))
        converged[moving] = once or np.abs(P_RKK[moving] - last).max(axis=(1, 2)) < settings.tol
        moving = moving[~converged[moving]]
        if not moving.size:
            break
    return [
        Estimate(P, C + settings.prior * A, C, tuple(trace), iterations=len(trace) - 1, converged=bool(done))
        for P, C, trace, done in zip(P_RKK, C_RKK, traces, converged, strict=True)
    ]


def check(counts: Counts, *, K: int) -> None:
    """Raise ValueError for counts that no estimate can come from."""
    if not counts.n.sum():
        polarities = " or ".join(f"{polarity:+d}" for polarity in counts.polarities)
        raise ValueError(
            f"no transition of polarity {polarities} was counted: its "
            f"matrix cannot be estimated. At least one annotated trajectory of it is needed: look at the funnel of the "
            f"candidates and the annotation's rejects, then sample more questions"
        )
    top = max(counts.source_sets.max(), counts.target_sets.max())
    if top >= K * K:
        raise ValueError(f"state set {top} is beyond K = {K} states (codes below {K * K}); give the taxonomy's own K")


def _responsibilities(joint_TE: np.ndarray, *, pr_T: np.ndarray, shard: Shard) -> np.ndarray:
    """r_ab = rho_I(a) P_ab / sum over allowed (a, b); uniform if the sum is 0; all 0 if no edge is allowed. (T, E)."""
    empty_T = pr_T == 0
    r_TE: np.ndarray = joint_TE / np.where(empty_T, 1.0, pr_T)[:, None]
    allowed_TE = shard.share_TE[empty_T] > 0
    r_TE[empty_T] = allowed_TE / np.maximum(allowed_TE.sum(axis=1, keepdims=True), 1)
    return r_TE


def _scatter(expected_TE: np.ndarray, *, shard: Shard, K: int) -> np.ndarray:
    """C_ab = sum over transitions of n r_ab: (K, K)."""
    return np.bincount(shard.flat_TE.reshape(-1), weights=expected_TE.reshape(-1), minlength=K * K).reshape(K, K)


def _normalised(support: np.ndarray, *, fallback: np.ndarray) -> np.ndarray:
    """Rows of `support` (..., K, K) divided by their sums; without support (prior 0, never left): `fallback`."""
    total = support.sum(axis=-1, keepdims=True)
    rows: np.ndarray = np.divide(support, total, out=fallback.copy(), where=total > 0)
    return rows


def _log_likelihood(pr_T: np.ndarray, *, n_T: np.ndarray, shard: Shard) -> float:
    """sum n log Pr(J | I, P), Pr = sum P_ab / (|I| |J|), over the transitions with an allowed edge and a count."""
    counted_T = shard.possible_T & (n_T > 0)
    with np.errstate(divide="ignore"):  # an underflown probability gives -inf, the truth
        return float((n_T[counted_T] * np.log(pr_T[counted_T])).sum())
