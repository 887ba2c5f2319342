"""How noisy the weights are: the standard error of log w of every edge, and whether w can be told from 1.

A corpus of annotated trajectories enters, an edge for each transition that weighs a step leaves (into <stop> none
does).
The standard error is that of a bootstrap over questions: every question counts Poisson(1) times. A bootstrap draws only
what was seen, so that an edge which a single trajectory took looks sure; a weight is therefore told from 1 only if, as
well, dealing out the polarities anew among all questions seldom gives a weight as far from 1.

Axes: N trajectories, Q questions, G distinct transitions of the corpus, T edges of a polarity, B draws, R = 1 + B.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pyarrow as pa

from mralign.rows import Polarity
from mralign.rows.schema import EDGE_NOISE
from mralign.transitions.bootstrap import standard_error
from mralign.transitions.counts import Counts, stop_code
from mralign.transitions.draws import poisson_columns, row_keys
from mralign.transitions.edges import CountedEdges, WeightRule, replicated_ratios
from mralign.transitions.em import Settings, estimate_replicated
from mralign.transitions.matrices import MATRIX_POLARITIES
from mralign.transitions.signal import LEVEL
from mralign.transitions.walks import Corpus, Walks, walks
from mralign.transitions.weights import NAME, ratios, set_name

REPLICATES = 200
_Z = 1.959964  # of 95 %
_FLOOR = 1e-12  # of a ratio, where the prior is 0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Noise:
    """What the weights of all edges are worth together."""

    edges: int
    not_told: int  # whose weight cannot be told from 1
    told_share: float  # of the sum of count * |log weight|, on edges whose weight can
    effective: float  # number of edges that carry that sum: 1 / sum of squared shares (Simpson)


def edge_noise(corpus: Corpus, *, states: Sequence[str], rule: WeightRule, settings: Settings, seed: int) -> pa.Table:
    """A table of schema.EDGE_NOISE. Both polarities must occur; neutral trajectories count for P alone, as they do for
    the weights."""
    walk = walks(corpus)
    estimated = _matrices(walk, corpus=corpus, drawn=_resampled(corpus, seed=seed), settings=settings)
    permuted = _matrices(walk, corpus=corpus, drawn=_permuted(corpus, seed=seed), settings=settings)
    plain = {name: P_RKK[0] for name, P_RKK in estimated.items()}
    tables = [EDGE_NOISE.empty_table()]
    for polarity in NAME:
        counted, questions_T = _edges(walk, corpus=corpus, polarity=polarity)
        sign_T = np.full(counted.count_T.size, polarity)
        ratio_T = ratios(
            counted.source_T, counted.target_T, polarity=sign_T, matrices=plain, states=states, anchor=rule.anchor
        )
        drawn_BT = replicated_ratios(counted, polarity=polarity, replicates=_draws(estimated), rule=rule)
        null_BT = replicated_ratios(counted, polarity=polarity, replicates=_draws(permuted), rule=rule)
        log_T, error_T = _log(ratio_T), standard_error(_log(drawn_BT))
        p_T = _p(log_T, null_BT=_log(null_BT))
        columns = {
            "polarity": sign_T,
            "source": [set_name(code, states=states) for code in counted.source_T.tolist()],
            "target": [set_name(code, states=states) for code in counted.target_T.tolist()],
            "count": counted.count_T.astype(np.int64),
            "questions": questions_T,
            "log_weight": log_T,
            "standard_error": error_T,
            "p": p_T,
            "told": (np.abs(log_T) > _Z * error_T) & (p_T <= LEVEL),
            "contribution": counted.count_T * np.abs(np.log(np.clip(ratio_T, rule.clip_min, rule.clip_max))),
        }
        table = pa.table({name: columns[name] for name in EDGE_NOISE.names}, schema=EDGE_NOISE)
        tables.append(table.sort_by([("contribution", "descending"), ("source", "ascending"), ("target", "ascending")]))
    return pa.concat_tables(tables)


def noise_of(edges: pa.Table) -> Noise:
    """The figures of a table of schema.EDGE_NOISE."""
    told_E = edges.column("told").to_numpy()
    contribution_E = edges.column("contribution").to_numpy()
    total = float(contribution_E.sum())
    share = float(contribution_E[told_E].sum()) / total if total else 0.0
    return Noise(told_E.size, int((~told_E).sum()), share, effective_number(contribution_E))


def effective_number(contribution_E: np.ndarray) -> float:
    """How many equal contributions would be as concentrated as these: the inverse of Simpson's index; 0 of nothing."""
    squares = float((contribution_E**2).sum())
    return float(contribution_E.sum()) ** 2 / squares if squares else 0.0


@dataclass(frozen=True)
class _Draw:
    """A corpus drawn anew: the polarity of each trajectory, and how often it counts."""

    polarity_N: np.ndarray
    weight_N: np.ndarray

    def counts(self, walk: Walks, *, polarities: Sequence[Polarity]) -> np.ndarray:
        """How often the trajectories of these polarities take each transition, (G,)."""
        weight_N = self.weight_N * np.isin(self.polarity_N, [int(one) for one in polarities])
        counted: np.ndarray = np.bincount(walk.group_T, weights=weight_N[walk.row_T], minlength=walk.source_G.size)
        return counted


def _resampled(corpus: Corpus, *, seed: int) -> Iterator[_Draw]:
    """Every question counts Poisson(1) times."""
    key_N = row_keys(corpus.question_ids, seed=seed, purpose="signal")
    for weight_N in poisson_columns(key_N, replicates=REPLICATES):
        yield _Draw(corpus.polarity_N, weight_N.astype(np.float64))


def _permuted(corpus: Corpus, *, seed: int) -> Iterator[_Draw]:
    """The polarities, neutral ones too, dealt out anew among the questions."""
    first_Q = np.unique(corpus.question_N, return_index=True)[1]
    rng, weight_N = np.random.default_rng(seed), np.ones(corpus.question_N.size)
    for _ in range(REPLICATES - 1):
        yield _Draw(corpus.polarity_N[rng.permutation(first_Q)[corpus.question_N]], weight_N)


def _matrices(walk: Walks, *, corpus: Corpus, drawn: Iterator[_Draw], settings: Settings) -> dict[str, np.ndarray]:
    """P, P+ and P- by name, of the corpus and then of each draw: (R, K, K)."""
    counts: dict[str, list[np.ndarray]] = {name: [] for name in MATRIX_POLARITIES}
    for draw in chain([_Draw(corpus.polarity_N, np.ones(corpus.question_N.size))], drawn):  # each as long as the corpus
        for name, polarities in MATRIX_POLARITIES.items():
            counts[name].append(draw.counts(walk, polarities=polarities))
    found = {}
    for name, polarities in MATRIX_POLARITIES.items():
        n_RG = np.array(counts[name])
        whole = Counts(walk.source_G, walk.target_G, n_RG[0].astype(np.int64), polarities)
        estimates = estimate_replicated(whole, n_TB=n_RG[1:].T, K=walk.K, settings=settings)
        found[name] = np.array([one.P for one in estimates])
    return found


def _edges(walk: Walks, *, corpus: Corpus, polarity: Polarity) -> tuple[CountedEdges, np.ndarray]:
    """The transitions of a polarity into a step, and how many questions have each."""
    (own_T,) = np.nonzero(corpus.polarity_N[walk.row_T] == polarity)
    group_T, question_T = walk.group_T[own_T], corpus.question_N[walk.row_T[own_T]]
    n_G = np.bincount(group_T, minlength=walk.source_G.size)
    Q = corpus.question_N.max() + 1
    questions_G = np.bincount(np.unique(group_T * Q + question_T) // Q, minlength=walk.source_G.size)
    edge_G = (n_G > 0) & (walk.target_G != stop_code(walk.K))
    counted = CountedEdges(walk.source_G[edge_G], walk.target_G[edge_G], n_G[edge_G].astype(np.float64))
    return counted, questions_G[edge_G]


def _draws(matrices: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The matrices of the draws alone."""
    return {name: P_RKK[1:] for name, P_RKK in matrices.items()}


def _log(ratio: np.ndarray) -> np.ndarray:
    logarithm: np.ndarray = np.log(np.maximum(ratio, _FLOOR))
    return logarithm


def _p(log_T: np.ndarray, *, null_BT: np.ndarray) -> np.ndarray:
    """(1 + draws whose |log w| is as large) / (1 + all), (T,)."""
    as_large_T = (np.abs(null_BT) >= np.abs(log_T) - _ROUNDING).sum(axis=0)
    p_T: np.ndarray = (1 + as_large_T) / (1 + len(null_BT))
    return p_T
