"""Rule `second_order`: the ratio also asks which step stood before the source, and backs off where that is rare.

Theory. If what harms is a transition in a certain context, first-order ratios dilute it or do not see it at all. For
label sets H, I, J with counts n of H → I → J, n(H, I) of H → I whatever follows, and the same of a polarity, n^±:

    ρ₂ = [n^±(H, I, J) / n^±(H, I)] / [n(H, I, J) / n(H, I)]
    ratio = λ ρ₂ + (1 − λ) ρ₁,    λ = n^±(H, I) / (n^±(H, I) + κ),    κ = 5

with the first-order ratio ρ₁ of equation 4.1: the posterior mean of a Dirichlet prior of κ occurrences at ρ₁, as in
Witten and Bell (1991). Where the context was never seen in this polarity the weight is the paper's; with many
occurrences it is that of second-order frequencies. The first step of a thought has no step before its source: λ = 0.
The anchor `opposite` divides the ratio of a polarity by that of the other. Sets are counted as they are, without EM, so
two labels on most steps make contexts rare and the rule careful.

Axes: T steps, G distinct triples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows import Polarity
from mralign.rows.columns import Int32, schema_of
from mralign.transitions.counts import UNLABELLED, Labels, before, chains, stopped
from mralign.transitions.edges import WeightRule
from mralign.transitions.rules.edge_values import found
from mralign.transitions.weights import NAME, LabelledSteps, ratios

BACK_OFF = 5.0  # κ: occurrences of a context at which both orders count the same
_KEYS = ["polarity", "before", "source", "target"]


@dataclass(frozen=True)
class PrecededCount:
    """How often one set of labels follows another where a third one stands before both."""

    polarity: Polarity
    before: Int32  # state set, encoded as in rows.schema.TransitionCount; -1 where the source is the start
    source: Int32
    target: Int32
    count: int


PRECEDED_COUNTS = schema_of(PrecededCount)  # never on disk: what tasks of one stage hand to each other


def count_preceded(steps: pa.Table, *, states: Sequence[str], labels: Labels = "all") -> pa.Table:
    """Transitions by the step before them, counted: PRECEDED_COUNTS of a table of schema.ANNOTATIONS."""
    chain = chains(steps, states=states, labels=labels)
    labelled = np.flatnonzero(chain.set_S != UNLABELLED)
    row_L, set_L, previous_L = chain.row_S[labelled], chain.set_S[labelled], chain.previous_S[labelled]
    row_T, source_T, target_T = stopped(set_L, row_L=row_L, previous_L=previous_L, K=len(states))
    last = np.ones(row_L.size, dtype=bool)
    last[:-1] = row_L[1:] != row_L[:-1]
    before_T = np.concatenate([before(previous_L, row_L=row_L), previous_L[last]])
    polarity_N = steps.column("polarity").to_numpy().astype(np.int64)
    columns = [polarity_N[row_T], before_T, source_T, target_T, np.ones(row_T.size, dtype=np.int64)]
    return add_preceded([pa.table(columns, names=PRECEDED_COUNTS.names).cast(PRECEDED_COUNTS)])


def add_preceded(tables: Sequence[pa.Table]) -> pa.Table:
    """The sum of tables of PRECEDED_COUNTS: exact, associative, commutative, rows sorted by their keys."""
    whole = pa.concat_tables([PRECEDED_COUNTS.empty_table(), *tables])
    summed = whole.group_by(_KEYS, use_threads=False).aggregate([("count", "sum")])
    ordered = summed.sort_by([(name, "ascending") for name in _KEYS])
    return ordered.rename_columns({"count_sum": "count"}).select(PRECEDED_COUNTS.names).cast(PRECEDED_COUNTS)


def backed_off(
    first_T: np.ndarray, *, own_T: np.ndarray, own_context_T: np.ndarray, all_T: np.ndarray, all_context_T: np.ndarray
) -> np.ndarray:
    """The ratio of both orders, (T,), from the first-order ratio and n^±(H, I, J), n^±(H, I), n(H, I, J), n(H, I)."""
    share_T = np.divide(own_T, own_context_T, out=np.zeros(first_T.size), where=own_context_T > 0)
    pooled_T = np.divide(all_T, all_context_T, out=np.zeros(first_T.size), where=all_context_T > 0)
    second_T = np.divide(share_T, pooled_T, out=np.zeros(first_T.size), where=pooled_T > 0)
    lambda_T = np.where(pooled_T > 0, own_context_T / (own_context_T + BACK_OFF), 0.0)
    ratio_T: np.ndarray = lambda_T * second_T + (1 - lambda_T) * first_T
    return ratio_T


@dataclass(frozen=True)
class _Tally:
    """Counts of triples and of contexts, by ascending keys."""

    triple_G: np.ndarray
    n_G: np.ndarray
    context_C: np.ndarray
    n_C: np.ndarray

    @classmethod
    def of(cls, table: pa.Table) -> _Tally:
        columns = [table.column(name).to_numpy().astype(np.int64) for name in (*_KEYS[1:], "count")]
        before_R, source_R, target_R, n_R = columns
        triple_G, n_G = _summed(_keys(before_R, source_R, target_R), n_R=n_R)
        context_C, n_C = _summed(_keys(before_R, source_R, np.zeros_like(target_R)), n_R=n_R)
        return cls(triple_G, n_G, context_C, n_C)

    def counts(self, steps: LabelledSteps) -> tuple[np.ndarray, np.ndarray]:
        """n(H, I, J) and n(H, I) of every step, (T,) each; 0 where no step stands before the source."""
        triple_T = _keys(steps.before_T, steps.source_T, steps.target_T)
        context_T = _keys(steps.before_T, steps.source_T, np.zeros_like(steps.target_T))
        n_T = found(triple_T, key_E=self.triple_G, value_E=self.n_G, missing=0.0)
        context_n_T = found(context_T, key_E=self.context_C, value_E=self.n_C, missing=0.0)
        preceded_T = steps.before_T != UNLABELLED
        return n_T * preceded_T, context_n_T * preceded_T


@dataclass(frozen=True)
class SecondOrderRule:
    """The rule with the counts of a corpus, the whole of it and each polarity."""

    tallies: Mapping[Polarity | None, _Tally]  # None: all polarities
    matrices: Mapping[str, np.ndarray]
    states: Sequence[str]
    bounds: WeightRule

    def __call__(self, steps: LabelledSteps) -> np.ndarray:
        """Weights (T,)."""
        ratio_T = self._ratio(steps, steps.polarity_T)
        if self.bounds.anchor == "opposite":
            other_T = self._ratio(steps, -steps.polarity_T)
            ratio_T = np.divide(ratio_T, other_T, out=np.full(ratio_T.size, np.inf), where=other_T > 0)
        return np.clip(ratio_T, self.bounds.clip_min, self.bounds.clip_max)

    def _ratio(self, steps: LabelledSteps, polarity_T: np.ndarray) -> np.ndarray:
        """The ratio of both orders against the whole corpus, of the given polarity of each step."""
        first_T = ratios(
            steps.source_T,
            steps.target_T,
            polarity=polarity_T,
            matrices=self.matrices,
            states=self.states,
            anchor="global",
        )
        all_T, all_context_T = self.tallies[None].counts(steps)
        ratio_T = first_T.copy()
        for polarity in NAME:
            own_T, own_context_T = self.tallies[polarity].counts(steps)
            both_T = backed_off(
                first_T, own_T=own_T, own_context_T=own_context_T, all_T=all_T, all_context_T=all_context_T
            )
            ratio_T = np.where(polarity_T == polarity, both_T, ratio_T)
        return ratio_T


def second_order_rule(
    preceded: pa.Table, *, matrices: Mapping[str, np.ndarray], states: Sequence[str], bounds: WeightRule
) -> SecondOrderRule:
    """The rule of a corpus from its counts of triples (PRECEDED_COUNTS) and its first-order matrices."""
    tallies: dict[Polarity | None, _Tally] = {None: _Tally.of(preceded)}
    for polarity in NAME:
        tallies[polarity] = _Tally.of(preceded.filter(pc.equal(preceded.column("polarity"), int(polarity))))
    return SecondOrderRule(tallies, matrices, states, bounds)


def _keys(before_R: np.ndarray, source_R: np.ndarray, target_R: np.ndarray) -> np.ndarray:
    """One int64 for each triple; set codes are below 2**20 (counts.py), and `before_R` begins at -1."""
    key: np.ndarray = ((before_R.astype(np.int64) + 1) << 40) | (source_R << 20) | target_R
    return key


def _summed(key_R: np.ndarray, *, n_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct keys, ascending, and the sum of the counts of each."""
    distinct, group_R = np.unique(key_R, return_inverse=True)
    return distinct, np.bincount(group_R, weights=n_R, minlength=distinct.size)
