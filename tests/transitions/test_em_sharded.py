"""EM whose E-step runs shard by shard gives the P of the reduced table (method.md §3), for every K that is allowed."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.transitions.counts import Counts
from mralign.transitions.em import (
    Estimate,
    ExpectedCounts,
    Settings,
    Shard,
    add_expected,
    allowed_mask,
    estimate,
    estimate_replicated,
    expect,
    maximise,
)

Pair = tuple[int, int]  # codes of the sets


def table(pairs: Sequence[Pair]) -> Counts:
    distinct, n = np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0, return_counts=True)
    return Counts(distinct[:, 0], distinct[:, 1], n.astype(np.int64), (1, -1))


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, list[list[Pair]]]:
    """K of 3 to 66 and the coded transitions of each trajectory; some have a single step."""
    K = draw(st.integers(3, 66))
    label = st.integers(1, K - 2)
    one_set = st.tuples(label, label).map(lambda pair: min(pair) * K + max(pair))
    rows = draw(st.lists(st.lists(one_set, min_size=1, max_size=5), min_size=1, max_size=8))
    return K, [list(pairwise([0, *row, K * K - 1])) for row in rows]


def in_shards(shards: Sequence[Counts], n: Sequence[np.ndarray], *, K: int, chosen: Settings) -> list[Estimate]:
    unfolded = [Shard.of(counts, n_TB=n_TB, K=K) for counts, n_TB in zip(shards, n, strict=True)]

    def expectation(P_RKK: np.ndarray, which: np.ndarray) -> ExpectedCounts:
        found = [expect(shard, P_RKK=P_RKK, which=which, estimator=chosen.estimator) for shard in unfolded]
        return add_expected(add_expected(*found[:2]), *found[2:])

    return maximise(expectation, R=1 + n[0].shape[1], K=K, settings=chosen)


SETTINGS = st.builds(
    Settings,
    max_iter=st.integers(1, 12),
    tol=st.just(0.0),
    damping=st.sampled_from([0.3, 0.6, 1.0]),
    prior=st.sampled_from([0.0, 0.1, 1.0]),
    estimator=st.sampled_from(["em", "frequency"]),
)


@settings(deadline=None, max_examples=60)
@given(corpus=corpora(), chosen=SETTINGS, data=st.data())
def test_sharded_em_equals_reduced_em(corpus: tuple[int, list[list[Pair]]], chosen: Settings, data: Any) -> None:
    K, rows = corpus
    whole = table([pair for row in rows for pair in row])
    shard_of = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    shards = [table([p for row, s in zip(rows, shard_of, strict=True) if s == n for p in row]) for n in range(4)]
    # replicates: the same shards, each counted some times
    times_SB = np.array(
        data.draw(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=4, max_size=4))
    )
    n_sharded = [shard.n[:, None] * times[None, :] for shard, times in zip(shards, times_SB, strict=True)]
    key = {pair: place for place, pair in enumerate(zip(whole.source_sets, whole.target_sets, strict=True))}
    n_TB = np.zeros((whole.n.size, 2), dtype=np.int64)
    for shard, n in zip(shards, n_sharded, strict=True):
        for pair, row in zip(zip(shard.source_sets, shard.target_sets, strict=True), n, strict=True):
            n_TB[key[pair]] += row
    reduced = estimate_replicated(whole, n_TB=n_TB, K=K, settings=chosen)
    sharded = in_shards(shards, n_sharded, K=K, chosen=chosen)
    for mine, theirs in zip(sharded, reduced, strict=True):
        np.testing.assert_allclose(mine.P, theirs.P, rtol=0, atol=1e-12)
        np.testing.assert_allclose(mine.C, theirs.C, rtol=0, atol=1e-11)
        np.testing.assert_allclose(mine.log_likelihood, theirs.log_likelihood, rtol=1e-11, atol=1e-11)
        assert mine.iterations == theirs.iterations
        np.testing.assert_allclose(mine.P.sum(axis=1), 1, atol=1e-12)
        assert (mine.P[allowed_mask(K) == 0] == 0).all()


def test_replicates_stop_one_by_one() -> None:
    """Singleton sets converge in two iterations; an ambiguous pair does not. Neither waits for the other."""
    counts = table([(0, 6), (6, 12), (6, 13), (6, 12), (12, 24)])  # K = 5; 13 is {y, z}
    plain = np.array([1, 1, 0, 1]) * counts.n  # without the ambiguous pair
    chosen = Settings(max_iter=200, tol=1e-9, damping=1)
    ambiguous, simple = estimate_replicated(counts, n_TB=plain[:, None], K=5, settings=chosen)
    assert (simple.iterations, simple.converged) == (2, True)
    assert 2 < ambiguous.iterations < 200
    assert ambiguous.converged
    assert len(ambiguous.log_likelihood) == ambiguous.iterations + 1
    assert ambiguous.P[1, 2] == pytest.approx(estimate(counts, K=5, max_iter=200, tol=1e-9, damping=1).P[1, 2], abs=0)
