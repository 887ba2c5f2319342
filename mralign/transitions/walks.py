"""Annotated trajectories as arrays, and their transitions one by one, so that each can be scored.

A table of schema.ANNOTATIONS enters; a `Corpus` leaves, and of it `Walks`: every transition with its trajectory and its
kind. The count tables (counts.py) no longer know which trajectory a transition came from.

Axes: N trajectories, Q questions, L labelled steps, T transitions, G distinct ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows import SIGNED, Polarity
from mralign.transitions.counts import START, UNLABELLED, Labels, chains, previous, stopped


@dataclass(frozen=True)
class Corpus:
    """Trajectories with a labelled step, and the labels of their steps; a question has one polarity."""

    row_ids: pa.Array
    question_ids: pa.Array
    question_N: np.ndarray  # codes 0 .. Q - 1
    polarity_N: np.ndarray
    segments_N: np.ndarray
    tokens_N: np.ndarray | None  # of the thought; None where nobody knows
    row_L: np.ndarray  # of each labelled step, ascending
    set_L: np.ndarray  # its label set
    K: int

    @property
    def positive_N(self) -> np.ndarray:
        return self.polarity_N > 0

    def questions(self, polarity: Polarity) -> int:
        """How many questions of a polarity there are."""
        return int(np.unique(self.question_N[self.polarity_N == polarity]).size)

    def only(self, kept_N: np.ndarray) -> Corpus:
        """The trajectories of the mask."""
        row_N = np.cumsum(kept_N) - 1
        kept_L = kept_N[self.row_L]
        mask = pa.array(kept_N)
        return replace(
            self,
            row_ids=self.row_ids.filter(mask),
            question_ids=self.question_ids.filter(mask),
            question_N=np.unique(self.question_N[kept_N], return_inverse=True)[1],
            polarity_N=self.polarity_N[kept_N],
            segments_N=self.segments_N[kept_N],
            tokens_N=None if self.tokens_N is None else self.tokens_N[kept_N],
            row_L=row_N[self.row_L[kept_L]],
            set_L=self.set_L[kept_L],
        )

    def signed(self) -> Corpus:
        """Without the trajectories that neither polarity has."""
        return self.only(np.isin(self.polarity_N, [int(polarity) for polarity in SIGNED]))


@dataclass(frozen=True)
class Walks:
    """The transitions of N trajectories, flat: of which trajectory each is, and which of the G distinct ones."""

    row_T: np.ndarray
    group_T: np.ndarray
    source_G: np.ndarray
    target_G: np.ndarray
    N: int
    K: int

    def mean(self, score_T: np.ndarray) -> np.ndarray:
        """The mean score over the transitions of each trajectory, (N,)."""
        return self.sum(score_T) / np.bincount(self.row_T, minlength=self.N)

    def sum(self, score_T: np.ndarray) -> np.ndarray:
        """The sum over the transitions of each trajectory, (N,)."""
        return np.bincount(self.row_T, weights=score_T, minlength=self.N)


def corpus_of(
    steps: pa.Table, *, states: Sequence[str], labels: Labels = "all", tokens: pa.Table | None = None
) -> Corpus:
    """The trajectories of `steps` (schema.ANNOTATIONS); `tokens` has row_id and thought_tokens of at least some.

    Left out are trajectories without a labelled step, and questions that have trajectories of several polarities.
    """
    chain = chains(steps, states=states, labels=labels)
    labelled = np.flatnonzero(chain.set_S != UNLABELLED)
    row_ids = steps.column("row_id").combine_chunks()
    question_ids = steps.column("question_id").combine_chunks()
    whole = Corpus(
        row_ids=row_ids,
        question_ids=question_ids,
        question_N=question_ids.dictionary_encode().indices.to_numpy().astype(np.int64),
        polarity_N=steps.column("polarity").to_numpy().astype(np.int64),
        segments_N=steps.column("segments").to_numpy().astype(np.float64),
        tokens_N=None if tokens is None else _tokens(row_ids, tokens=tokens),
        row_L=chain.row_S[labelled],
        set_L=chain.set_S[labelled],
        K=len(states),
    )
    if not steps.num_rows:
        return whole
    highest_Q = np.full(whole.question_N.max() + 1, -2)
    lowest_Q = np.full(highest_Q.size, 2)
    np.maximum.at(highest_Q, whole.question_N, whole.polarity_N)
    np.minimum.at(lowest_Q, whole.question_N, whole.polarity_N)
    one_polarity_N = (highest_Q == lowest_Q)[whole.question_N]
    return whole.only(one_polarity_N & (np.bincount(whole.row_L, minlength=steps.num_rows) > 0))


def join(corpora: Sequence[Corpus]) -> Corpus:
    """Corpora that have no question in common as one, the tokens of their thoughts left out."""
    first = corpora[0]
    rows = np.cumsum([0, *(len(corpus.row_ids) for corpus in corpora)])
    questions = np.cumsum([0, *(np.unique(corpus.question_N).size for corpus in corpora)])
    return Corpus(
        row_ids=pa.concat_arrays([corpus.row_ids for corpus in corpora]),
        question_ids=pa.concat_arrays([corpus.question_ids for corpus in corpora]),
        question_N=np.concatenate([one.question_N + start for one, start in zip(corpora, questions, strict=False)]),
        polarity_N=np.concatenate([corpus.polarity_N for corpus in corpora]),
        segments_N=np.concatenate([corpus.segments_N for corpus in corpora]),
        tokens_N=None,
        row_L=np.concatenate([one.row_L + start for one, start in zip(corpora, rows, strict=False)]),
        set_L=np.concatenate([corpus.set_L for corpus in corpora]),
        K=first.K,
    )


def with_tokens(corpus: Corpus, tokens: pa.Table) -> Corpus:
    """The corpus with the tokens of its thoughts, from row_id and thought_tokens of at least some."""
    return replace(corpus, tokens_N=_tokens(corpus.row_ids, tokens=tokens))


def _tokens(row_ids: pa.Array, *, tokens: pa.Table) -> np.ndarray | None:
    """Tokens of each thought, (N,); None where one is not known."""
    place = pc.index_in(row_ids, value_set=tokens.column("row_id").combine_chunks())
    if place.null_count:
        return None
    return tokens.column("thought_tokens").take(place).to_numpy().astype(np.float64)


def walks(corpus: Corpus, *, set_L: np.ndarray | None = None) -> Walks:
    """The transitions of a corpus; `set_L` are other labels of the same steps."""
    chosen_L = corpus.set_L if set_L is None else set_L
    previous_L = previous(chosen_L, row_L=corpus.row_L)
    row_T, source_T, target_T = stopped(chosen_L, row_L=corpus.row_L, previous_L=previous_L, K=corpus.K)
    return _grouped(row_T, source_T=source_T, target_T=target_T, corpus=corpus)


def label_walks(corpus: Corpus) -> Walks:
    """Every labelled step as if it came first: what P says of <start> is then how frequent each label is."""
    return _grouped(corpus.row_L, source_T=np.full(corpus.row_L.size, START), target_T=corpus.set_L, corpus=corpus)


def _grouped(row_T: np.ndarray, *, source_T: np.ndarray, target_T: np.ndarray, corpus: Corpus) -> Walks:
    base = corpus.K**2
    key_G, group_T = np.unique(source_T * base + target_T, return_inverse=True)
    return Walks(row_T, group_T, key_G // base, key_G % base, N=corpus.polarity_N.size, K=corpus.K)
