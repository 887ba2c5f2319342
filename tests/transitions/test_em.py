"""EM for P (method.md §3) against a literal loop of Algorithm 2 over raw pairs, and against numbers worked by hand."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mralign.transitions.counts import Counts
from mralign.transitions.em import Shard, allowed_mask, estimate, expect

Pair = tuple[tuple[int, ...], tuple[int, ...]]


def counts_of(pairs: Sequence[Pair], *, K: int, polarities: tuple[int, ...] = (1, -1)) -> Counts:
    """The reduced table of raw pairs of state sets."""
    coded = [(min(i) * K + max(i), min(j) * K + max(j)) for i, j in pairs]
    distinct = sorted(set(coded))
    return Counts(
        source_sets=np.array([source for source, _ in distinct], dtype=np.int64),
        target_sets=np.array([target for _, target in distinct], dtype=np.int64),
        n=np.array([coded.count(pair) for pair in distinct], dtype=np.int64),
        polarities=polarities,
    )


def literal_em(
    pairs: Sequence[Pair], *, K: int, max_iter: int, tol: float, dp: float, prior: float
) -> tuple[list[list[float]], list[list[float]], list[float], int]:
    """Algorithm 2, pair by pair, in plain Python. Returns P, C, the log-likelihoods and the iterations made."""
    A = [[1 if (b != 0 and a != K - 1) or (a == b == K - 1) else 0 for b in range(K)] for a in range(K)]
    P = [[A[a][b] / sum(A[a]) for b in range(K)] for a in range(K)]

    def likelihood() -> float:
        total = 0.0
        for source, target in pairs:
            if any(A[a][b] for a in source for b in target):
                total += math.log(sum(P[a][b] * A[a][b] for a in source for b in target) / (len(source) * len(target)))
        return total

    likelihoods, iterations = [likelihood()], 0
    for _ in range(max_iter):
        C = [[0.0] * K for _ in range(K)]
        for source, target in pairs:
            edges = [(a, b) for a in source for b in target if A[a][b]]
            if not edges:
                continue
            score = {(a, b): (1 / len(source)) * P[a][b] for a, b in edges}
            total = sum(score.values())
            for a, b in edges:
                C[a][b] += score[a, b] / total if total > 0 else 1 / len(edges)
        last = [row[:] for row in P]
        for a in range(K):
            row = [C[a][b] + prior * A[a][b] for b in range(K)]
            if sum(row) > 0:
                P[a] = [(1 - dp) * last[a][b] + dp * row[b] / sum(row) for b in range(K)]
        iterations += 1
        likelihoods.append(likelihood())
        if max(abs(P[a][b] - last[a][b]) for a in range(K) for b in range(K)) < tol:
            break
    return P, C, likelihoods, iterations


@st.composite
def corpora(draw: st.DrawFn, max_labels: int = 5, single: bool = False) -> tuple[int, list[Pair]]:
    """K and the raw pairs of a few trajectories over K - 2 labels; K is never 17."""
    labels = draw(st.integers(1, max_labels))
    one_set = st.sets(st.integers(1, labels), min_size=1, max_size=1 if single else 2).map(lambda s: tuple(sorted(s)))
    pairs: list[Pair] = []
    for steps in draw(st.lists(st.lists(one_set, min_size=1, max_size=6), min_size=1, max_size=8)):
        path = [(0,), *steps, (labels + 1,)]
        pairs += pairwise(path)
    return labels + 2, pairs


# --- against the oracle ------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    corpus=corpora(),
    dp=st.sampled_from([0.1, 0.6, 1.0]),
    prior=st.sampled_from([0.0, 0.1, 2.0]),
    max_iter=st.integers(1, 8),
    tol=st.sampled_from([1e-6, 1e-2]),
)
def test_table_form_equals_the_literal_loop(
    corpus: tuple[int, list[Pair]], dp: float, prior: float, max_iter: int, tol: float
) -> None:
    K, pairs = corpus
    P, C, likelihoods, iterations = literal_em(pairs, K=K, max_iter=max_iter, tol=tol, dp=dp, prior=prior)
    got = estimate(counts_of(pairs, K=K), K=K, max_iter=max_iter, tol=tol, damping=dp, prior=prior)
    np.testing.assert_allclose(got.P, P, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.C, C, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.alpha, np.array(C) + prior * allowed_mask(K), rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_likelihood, likelihoods, rtol=1e-12)
    assert got.iterations == iterations


@settings(deadline=None, max_examples=25)
@given(corpus=corpora(max_labels=64), estimator=st.sampled_from(["em", "frequency"]))
def test_every_allowed_number_of_labels_equals_the_literal_loop(corpus: tuple[int, list[Pair]], estimator: Any) -> None:
    K, pairs = corpus
    got = estimate(counts_of(pairs, K=K), K=K, max_iter=3, estimator=estimator)
    if estimator == "em":
        expected = np.array(literal_em(pairs, K=K, max_iter=3, tol=1e-6, dp=0.6, prior=0.1)[0])
    else:
        shared = 0.1 * allowed_mask(K)
        for source, target in pairs:
            shared[np.ix_(source, target)] += 1 / (len(source) * len(target))
        expected = shared / shared.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got.P, expected, rtol=0, atol=1e-12)


def test_the_paper_size_equals_the_literal_loop_with_its_settings() -> None:
    rng, K, pairs = np.random.default_rng(0), 17, []
    for _ in range(60):
        steps = [tuple(sorted(rng.choice(15, size=rng.integers(1, 3), replace=False) + 1)) for _ in range(8)]
        path = [(0,), *steps, (16,)]
        pairs += [(tuple(map(int, i)), tuple(map(int, j))) for i, j in pairwise(path)]
    P, C, _, iterations = literal_em(pairs, K=K, max_iter=5, tol=1e-6, dp=0.6, prior=0.1)
    got = estimate(counts_of(pairs, K=K), K=K)
    np.testing.assert_allclose(got.P, P, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.C, C, rtol=0, atol=1e-12)
    assert (got.iterations, got.converged) == (iterations, False) == (5, False)
    assert got.log_likelihood[-1] > got.log_likelihood[0]


def test_forbidden_edges_are_left_out_and_pairs_without_an_allowed_edge_are_skipped() -> None:
    pairs: list[Pair] = [
        ((1,), (0,)),
        ((1,), (0, 2)),
        ((3,), (1,)),
        ((1, 3), (1, 2)),
        ((0,), (1,)),
    ]  # K = 4: 3 is <stop>
    P, C, likelihoods, _ = literal_em(pairs, K=4, max_iter=3, tol=0, dp=0.6, prior=0.1)
    got = estimate(counts_of(pairs, K=4), K=4, max_iter=3, tol=0)
    np.testing.assert_allclose(got.P, P, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.C, C, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_likelihood, likelihoods, rtol=1e-12)
    assert got.C.sum() == pytest.approx(3)  # five pairs, two of them skipped


# --- by hand -----------------------------------------------------------------------------------------------------

HAND: list[Pair] = [((1,), (2, 3)), ((1,), (2,))]  # x -> {y, z} and x -> y, K = 5


def test_two_iterations_by_hand() -> None:
    one = estimate(counts_of(HAND, K=5), K=5, max_iter=1, damping=1, prior=0)
    assert one.P[1].tolist() == [0, 0, 0.75, 0.25, 0]
    two = estimate(counts_of(HAND, K=5), K=5, max_iter=2, damping=1, prior=0)
    assert two.P[1].tolist() == [0, 0, 0.875, 0.125, 0]
    # uniform start: 1/4 each, so Pr = (1/4 + 1/4)/2 and 1/4; after one iteration Pr = (3/4 + 1/4)/2 and 3/4
    assert one.log_likelihood == pytest.approx((math.log(1 / 16), math.log(3 / 8)), rel=1e-12)


def test_damping_mixes_with_the_last_matrix() -> None:
    got = estimate(counts_of(HAND, K=5), K=5, max_iter=1, damping=0.6, prior=0)
    np.testing.assert_allclose(got.P[1], [0, 0.1, 0.4 * 0.25 + 0.6 * 0.75, 0.4 * 0.25 + 0.6 * 0.25, 0.1], atol=1e-15)


def test_frequency_shares_a_pair_equally_among_its_edges_once() -> None:
    pairs: list[Pair] = [((1, 2), (3,)), ((1,), (2, 3))]
    got = estimate(counts_of(pairs, K=5), K=5, prior=0.1, estimator="frequency")
    assert got.C[1].tolist() == [0, 0, 0.5, 1.0, 0]
    assert got.C[2].tolist() == [0, 0, 0, 0.5, 0]
    np.testing.assert_allclose(got.P[1], np.array([0, 0.1, 0.6, 1.1, 0.1]) / 1.9, atol=1e-15)
    assert (got.iterations, got.converged, len(got.log_likelihood)) == (1, True, 2)


def test_frequency_and_em_differ_where_a_label_is_ambiguous() -> None:
    em = estimate(counts_of(HAND, K=5), K=5, damping=1, prior=0.1)
    frequency = estimate(counts_of(HAND, K=5), K=5, prior=0.1, estimator="frequency")
    assert em.P[1, 2] > frequency.P[1, 2] + 0.05


def test_a_zero_sum_is_shared_uniformly_among_the_allowed_edges() -> None:
    counts = counts_of([((1, 4), (2, 3)), ((4,), (2,))], K=5)  # 4 is <stop>: only 1 -> 2 and 1 -> 3 are allowed
    shard = Shard.of(counts, n_TB=np.zeros((2, 0)), K=5)
    nothing = np.zeros((1, 5, 5))
    found = expect(shard, P_RKK=nothing, which=np.array([0]))
    assert found.C_RKK[0, 1].tolist() == [0, 0, 0.5, 0.5, 0]
    assert found.C_RKK.sum() == 1  # nothing of the second
    assert found.log_likelihood_R.tolist() == [-math.inf]


def test_converged_says_so_and_stops_early() -> None:
    pairs: list[Pair] = [((0,), (1,)), ((1,), (2,))]
    got = estimate(counts_of(pairs, K=3), K=3, damping=1, prior=0.1, max_iter=50)
    assert (got.converged, got.iterations) == (True, 2)  # the second iteration changes nothing


# --- laws --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(corpus=corpora())
def test_undamped_likelihood_without_prior_never_falls(corpus: tuple[int, list[Pair]]) -> None:
    K, pairs = corpus
    got = estimate(counts_of(pairs, K=K), K=K, max_iter=30, tol=0, damping=1, prior=0)
    assert np.isfinite(got.log_likelihood).all()
    assert (np.diff(got.log_likelihood) >= -1e-9).all()


@settings(deadline=None)
@given(corpus=corpora(single=True), prior=st.sampled_from([0.0, 0.1, 1.0]))
def test_singleton_sets_give_the_smoothed_frequency_in_one_iteration(
    corpus: tuple[int, list[Pair]], prior: float
) -> None:
    K, pairs = corpus
    smoothed = prior * allowed_mask(K)
    for (a,), (b,) in pairs:
        smoothed[a, b] += 1
    seen = smoothed.sum(axis=1) > 0
    for estimator in ("em", "frequency"):
        got = estimate(counts_of(pairs, K=K), K=K, max_iter=1, damping=1, prior=prior, estimator=estimator)
        np.testing.assert_allclose(got.P[seen], smoothed[seen] / smoothed[seen].sum(axis=1, keepdims=True), atol=1e-15)


@settings(deadline=None)
@given(
    corpus=corpora(),
    dp=st.floats(0.01, 1.0),
    prior=st.sampled_from([0.0, 0.1]),
    estimator=st.sampled_from(["em", "frequency"]),
)
def test_rows_sum_to_one_and_masked_entries_are_zero(
    corpus: tuple[int, list[Pair]], dp: float, prior: float, estimator: Any
) -> None:
    K, pairs = corpus
    got = estimate(counts_of(pairs, K=K), K=K, damping=dp, prior=prior, estimator=estimator)
    np.testing.assert_allclose(got.P.sum(axis=1), 1, atol=1e-12)
    assert (got.P[allowed_mask(K) == 0] == 0).all()
    assert (got.P >= 0).all()
    assert got.P[K - 1, K - 1] == pytest.approx(1, abs=1e-12)
    assert got.C.sum() == pytest.approx(len(pairs))


@settings(deadline=None)
@given(corpus=corpora(), factor=st.integers(2, 10**6))
def test_without_prior_the_size_of_the_corpus_does_not_matter(corpus: tuple[int, list[Pair]], factor: int) -> None:
    K, pairs = corpus
    assume(len(pairs) > 1)
    small = counts_of(pairs, K=K)
    large = Counts(small.source_sets, small.target_sets, small.n * factor, small.polarities)
    np.testing.assert_allclose(estimate(large, K=K, prior=0).P, estimate(small, K=K, prior=0).P, atol=1e-12)


def test_the_mask_by_hand() -> None:
    assert allowed_mask(4).tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]]


# --- what the user is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("polarities", "named"), [((-1,), "polarity -1"), ((1,), r"polarity \+1"), ((-1, 1), "-1 or")])
def test_an_empty_polarity_is_named(polarities: tuple[int, ...], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}.* was counted: its matrix cannot be estimated.*sample more"):
        estimate(counts_of([], K=5, polarities=polarities), K=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": 0}, "damping is 0; allowed is above 0 up to 1"),
        ({"damping": 1.1}, "damping is 1.1"),
        ({"prior": -0.1}, "prior is -0.1; allowed is 0 or more"),
        ({"max_iter": 0}, "max_iter is 0; allowed is 1 or more"),
        ({"estimator": "counting"}, "estimator is 'counting'; allowed are 'em' and 'frequency'"),
        ({"K": 3}, r"state set 13 is beyond K = 3 states"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(counts_of(HAND, K=5), **({"K": 5} | change))
