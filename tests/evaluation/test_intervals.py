"""Bootstrap intervals: by all resamples, by the normal interval, and beside scipy's."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap

from mralign.evaluation.intervals import bootstrap_interval, mean_or_none, rate


def test_bootstrap_finds_the_exact_quantiles_of_all_resamples():
    values = np.array([0.0, 1.0, 1.0, 5.0])
    means = [np.mean(pick) for pick in product(values, repeat=4)]  # all 256 resamples, equally likely
    exact = np.quantile(means, [0.1, 0.9])
    assert bootstrap_interval(values, level=0.8, samples=40_000) == pytest.approx(exact, abs=1e-9)


def test_bootstrap_covers_the_mean_of_a_normal_sample():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval(values, samples=4000)
    half = 1.96 * values.std() / 20  # the normal interval, which the bootstrap must agree with here
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_draws_of_one_question_go_together():
    accs = np.repeat([0.0, 1.0] * 25, 8)
    questions = np.repeat(np.arange(50), 8)
    clustered = bootstrap_interval(accs, clusters=questions, seed=3)
    assert clustered == bootstrap_interval(accs[::8], seed=3)  # eight equal draws say no more than one
    naive = bootstrap_interval(accs, seed=3)
    assert clustered[1] - clustered[0] > 2 * (naive[1] - naive[0])


def test_clusters_of_unequal_size_weigh_by_their_draws():
    values, clusters = np.array([1.0, 0.0, 0.0, 0.0]), np.array(["a", "b", "b", "b"])
    # Resamples aa, ab, ba, bb have the means 1, 1/4, 1/4, 0: their middle half is 1/4. A mean of means would be 1/2.
    assert bootstrap_interval(values, clusters=clusters, level=0.4, samples=20_000) == (0.25, 0.25)


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(0).random(200)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0], 1.0), ([1.0], 95)])
def test_bootstrap_refuses_what_has_no_interval(values, level):
    with pytest.raises(ValueError, match="needs values and a level"):
        bootstrap_interval(np.array(values), level=level)


@pytest.mark.parametrize("sizes", [[1] * 300, [1, 2, 5, 9] * 40])
def test_the_interval_is_that_of_scipy(sizes):
    dice = np.random.default_rng(7)
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    values = dice.random(len(clusters)) ** 2
    sums, counts = np.bincount(clusters, weights=values), np.array(sizes)

    def mean(sum_, count, axis):
        return sum_.sum(axis=axis) / count.sum(axis=axis)

    settings = {"paired": True, "vectorized": True, "n_resamples": 1000, "method": "percentile", "batch": 256}
    oracle = bootstrap((sums, counts), mean, confidence_level=0.9, rng=np.random.default_rng(4), **settings)
    found = bootstrap_interval(values, clusters=clusters, level=0.9, samples=1000, seed=4)
    assert found == pytest.approx(tuple(oracle.confidence_interval), abs=1e-12)


def test_a_rate_is_of_the_rows_that_have_a_value():
    found = rate("right", [True, None, False, True], questions=["a", "b", "c", "a"])
    assert found == {"right": pytest.approx(2 / 3), "right_ci": [0.0, 1.0]}
    assert rate("right", [None], questions=["a"]) == {"right": None, "right_ci": None}
    assert (mean_or_none([]), mean_or_none([1, 2])) == (None, 1.5)
