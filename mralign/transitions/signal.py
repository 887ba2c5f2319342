"""Whether transitions tell positive from negative trajectories that they were not estimated from (docs/signal.md).

Annotated trajectories enter; held-out scores and their AUCs leave, beside those of what is simpler: label frequencies
without order, the length of the thought, and the same labels in random order; and a p-value by permuting the
polarity over questions. The score of a trajectory is the mean over its transitions of log Pr(. | P+) - log Pr(. | P-),
with P+ and P- estimated (em.py, the settings of the run) from the folds that the trajectory does not lie in. All
trajectories of a question lie in one fold.

The mean is the headline, not the sum, although the sum is the log-likelihood ratio: the rarer polarity has the flatter
matrix, so that every transition adds a little of one sign, and a sum of many measures how long the thought is.

Axes: N trajectories, Q questions, L labelled steps, T transitions, G distinct ones, F folds, B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mralign.rows import Polarity
from mralign.transitions.auc import auc
from mralign.transitions.counts import Counts
from mralign.transitions.em import Settings, estimate_replicated
from mralign.transitions.walks import Corpus, Walks, label_walks, walks
from mralign.transitions.weights import pair_probability

FOLDS = 10
PERMUTATIONS = 199
SHUFFLES = 99
LEVEL = 0.05
_QUICK_ITERATIONS = 20  # EM that may take more is too slow to be run for every permutation
_FLOOR = 1e-12  # of a probability, where the prior is 0


@dataclass(frozen=True)
class Design:
    """Which trajectories are positive, and in which of the folds each lies."""

    positive_N: np.ndarray
    fold_N: np.ndarray
    folds: int


@dataclass(frozen=True)
class Fit:
    """P of the positives and the negatives outside each fold, (F, K, K)."""

    positive: np.ndarray
    negative: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Held-out scores of every trajectory by what they are made from, (N,) each; nan nowhere."""

    transitions: np.ndarray
    transitions_sum: np.ndarray
    frequencies: np.ndarray
    segments: np.ndarray
    tokens: np.ndarray | None

    def named(self) -> dict[str, np.ndarray]:
        """The scores that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Chance:
    """A figure beside what it is where something was made random: the share that reaches it, +1 above and below."""

    value: float
    mean: float
    low: float  # of the middle 95 % of the random ones
    high: float
    p: float
    draws: int


def design_of(corpus: Corpus, *, folds: int, seed: int) -> Design:
    """Random folds of whole questions, each with its share of the questions of either polarity."""
    first_Q = np.unique(corpus.question_N, return_index=True)[1]
    positive_Q = corpus.positive_N[first_Q]
    rng = np.random.default_rng(seed)
    fold_Q = np.empty(positive_Q.size, dtype=np.int64)
    for side in (True, False):
        members = rng.permutation(np.flatnonzero(positive_Q == side))
        fold_Q[members] = np.arange(members.size) % folds
    return Design(corpus.positive_N, fold_Q[corpus.question_N], folds)


def permuted(design: Design, *, question_N: np.ndarray, rng: np.random.Generator) -> Design:
    """Polarity and fold dealt out anew among the questions, together: every fold keeps its questions of a polarity."""
    first_Q = np.unique(question_N, return_index=True)[1]
    other_N = rng.permutation(first_Q)[question_N]
    return Design(design.positive_N[other_N], design.fold_N[other_N], design.folds)


def fit(walk: Walks, *, design: Design, settings: Settings) -> Fit:
    """The matrices of both polarities without each fold."""
    G, F = walk.source_G.size, design.folds
    cell_T = (design.fold_N * 2 + design.positive_N)[walk.row_T]
    n_FSG = np.bincount(cell_T * G + walk.group_T, minlength=2 * F * G).reshape(F, 2, G)
    sides = []
    for polarity, n_FG in ((Polarity.POSITIVE, n_FSG[:, 1]), (Polarity.NEGATIVE, n_FSG[:, 0])):
        whole = Counts(walk.source_G, walk.target_G, n_FG.sum(axis=0), (polarity,))
        found = estimate_replicated(whole, n_TB=(whole.n - n_FG).T, K=walk.K, settings=settings)
        sides.append(np.array([one.P for one in found[1:]]))
    return Fit(*sides)


def held_out(walk: Walks, *, design: Design, fitted: Fit) -> np.ndarray:
    """log Pr(. | P+) - log Pr(. | P-) of every transition by the matrices without its fold, (T,)."""
    score_FG = np.empty((design.folds, walk.source_G.size))
    for score_G, P_positive, P_negative in zip(score_FG, fitted.positive, fitted.negative, strict=True):
        score_G[:] = log_probability(P_positive, walk=walk) - log_probability(P_negative, walk=walk)
    return score_FG[design.fold_N[walk.row_T], walk.group_T]


def log_probability(P: np.ndarray, *, walk: Walks) -> np.ndarray:
    """log Pr(. | P) of every distinct transition, (G,), up to a constant of the transition."""
    pr_G = pair_probability(P, source_sets=walk.source_G, target_sets=walk.target_G)
    return np.log(np.maximum(pr_G, _FLOOR))


def oriented(value_N: np.ndarray, *, design: Design) -> np.ndarray:
    """A plain figure as a held-out score, (N,): its sign is the one by which the other folds are told apart."""
    score_N = np.empty(value_N.size)
    for fold in range(design.folds):
        held_N = design.fold_N == fold
        better = auc(value_N[~held_N], positive_N=design.positive_N[~held_N]) >= 0.5
        score_N[held_N] = value_N[held_N] if better else -value_N[held_N]
    return score_N


def scores(corpus: Corpus, *, design: Design, settings: Settings) -> Scores:
    """The held-out scores of trajectories of both polarities (`Corpus.signed`)."""
    walk, labels = walks(corpus), label_walks(corpus)
    score_T = held_out(walk, design=design, fitted=fit(walk, design=design, settings=settings))
    label_L = held_out(labels, design=design, fitted=fit(labels, design=design, settings=settings))
    return Scores(
        transitions=walk.mean(score_T),
        transitions_sum=walk.sum(score_T),
        frequencies=labels.mean(label_L),
        segments=oriented(corpus.segments_N, design=design),
        tokens=None if corpus.tokens_N is None else oriented(corpus.tokens_N, design=design),
    )


def null_settings(settings: Settings) -> Settings:
    """How P is estimated where it is estimated hundreds of times: as in the run where that takes few iterations, else
    by frequencies."""
    quick = settings.estimator == "frequency" or settings.max_iter <= _QUICK_ITERATIONS
    return settings if quick else replace(settings, estimator="frequency")


def transitions_auc(walk: Walks, *, design: Design, settings: Settings) -> float:
    """The held-out AUC of the mean over transitions."""
    fitted = fit(walk, design=design, settings=settings)
    score_N = walk.mean(held_out(walk, design=design, fitted=fitted))
    return auc(score_N, positive_N=design.positive_N)


def permutations(corpus: Corpus, *, design: Design, settings: Settings, seed: int, draws: int) -> list[float]:
    """Held-out AUC of each of `draws` corpora whose polarity says nothing."""
    walk, rng = walks(corpus), np.random.default_rng(seed)
    aucs = []
    for _ in range(draws):
        other = permuted(design, question_N=corpus.question_N, rng=rng)
        aucs.append(transitions_auc(walk, design=other, settings=settings))
    return aucs


def shuffles(corpus: Corpus, *, design: Design, settings: Settings, seed: int, draws: int) -> list[float]:
    """Held-out AUC of each of `draws` corpora whose labels stand in random order within their trajectories."""
    rng = np.random.default_rng(seed)
    aucs = []
    for _ in range(draws):
        order_L = np.lexsort((rng.random(corpus.row_L.size), corpus.row_L))
        walk = walks(corpus, set_L=corpus.set_L[order_L])
        aucs.append(transitions_auc(walk, design=design, settings=settings))
    return aucs


def chance(value: float, *, drawn: Sequence[float]) -> Chance:
    """A figure beside the random ones: p = (1 + those that reach it) / (1 + all)."""
    drawn_B = np.array(drawn)
    low, high = np.quantile(drawn_B, [0.025, 0.975])
    p = (1 + int((drawn_B >= value).sum())) / (1 + drawn_B.size)
    return Chance(value, float(drawn_B.mean()), float(low), float(high), p, drawn_B.size)
