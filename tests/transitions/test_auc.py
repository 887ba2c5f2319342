"""The AUC against SciPy and scikit-learn; its interval against DeLong's formula written out, and against simulation."""

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from mralign.transitions.auc import auc, auc_difference, auc_interval, components

Z = norm.ppf(0.975)


def literal_delong(positive, negative):
    """AUC and its standard error, pair by pair (DeLong, DeLong and Clarke-Pearson 1988)."""
    psi = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive]
    V10 = [sum(row) / len(negative) for row in psi]
    V01 = [sum(row[j] for row in psi) / len(positive) for j in range(len(negative))]
    A = sum(V10) / len(V10)
    S10 = sum((v - A) ** 2 for v in V10) / (len(V10) - 1)
    S01 = sum((v - A) ** 2 for v in V01) / (len(V01) - 1)
    return A, math.sqrt(S10 / len(V10) + S01 / len(V01))


@pytest.mark.parametrize("seed", range(5))
def test_the_auc_is_that_of_scipy_and_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    score_N, positive_N = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
    found = auc(score_N, positive_N=positive_N)
    statistic = mannwhitneyu(score_N[positive_N], score_N[~positive_N]).statistic
    assert found == pytest.approx(statistic / (positive_N.sum() * (~positive_N).sum()), abs=1e-12)
    assert found == pytest.approx(roc_auc_score(positive_N, score_N), abs=1e-12)


def test_components_by_hand():
    score_N = np.array([3.0, 1.0, 2.0, 1.0])
    positive_N = np.array([True, True, False, False])
    # 3 beats both; 1 beats none and ties with one. 2 is beaten by one of two, 1 by one and tied by the other.
    assert components(score_N, positive_N=positive_N).tolist() == [1.0, 0.25, 0.5, 0.75]
    assert auc(score_N, positive_N=positive_N) == 0.625


def test_the_interval_of_single_trajectories_is_delongs():
    rng = np.random.default_rng(3)
    score_N, positive_N = rng.integers(0, 20, 40).astype(float), np.arange(40) < 15
    A, error = literal_delong(score_N[positive_N].tolist(), score_N[~positive_N].tolist())
    found = auc_interval(score_N, positive_N=positive_N, question_N=np.arange(40))
    assert (found.value, found.low, found.high) == pytest.approx((A, A - Z * error, A + Z * error), abs=1e-6)


def test_draws_of_one_question_that_are_all_alike_add_nothing():
    rng = np.random.default_rng(4)
    score_N, positive_N = rng.normal(size=40), np.arange(40) < 15
    once = auc_interval(score_N, positive_N=positive_N, question_N=np.arange(40))
    thrice = auc_interval(
        np.repeat(score_N, 3), positive_N=np.repeat(positive_N, 3), question_N=np.repeat(np.arange(40), 3)
    )
    assert (thrice.value, thrice.low, thrice.high) == pytest.approx((once.value, once.low, once.high), abs=1e-12)
    as_single = auc_interval(np.repeat(score_N, 3), positive_N=np.repeat(positive_N, 3), question_N=np.arange(120))
    assert as_single.high - as_single.low < 0.7 * (once.high - once.low)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, shift, covered = np.random.default_rng(5), 0.7, 0
    truth = norm.cdf(shift / math.sqrt(2))
    question_N = np.repeat(np.arange(50), 2)
    positive_N = question_N < 20
    for _ in range(1000):
        question_effect = rng.normal(scale=math.sqrt(0.5), size=50)[question_N]  # two draws of a question are alike
        score_N = question_effect + rng.normal(scale=math.sqrt(0.5), size=100) + shift * positive_N
        found = auc_interval(score_N, positive_N=positive_N, question_N=question_N)
        covered += found.low <= truth <= found.high
    assert 925 <= covered <= 975


def test_the_difference_has_the_spread_that_it_has_over_data_sets():
    rng = np.random.default_rng(6)
    positive_N, values, widths = np.arange(80) < 30, [], []
    for _ in range(400):
        shared = rng.normal(size=80) + 0.8 * positive_N
        score_N, other_N = shared + rng.normal(scale=0.5, size=80), shared + rng.normal(scale=1.0, size=80)
        found = auc_difference(score_N, other=other_N, positive_N=positive_N, question_N=np.arange(80))
        values.append(found.value)
        widths.append((found.high - found.low) / (2 * Z))
        separate = auc(score_N, positive_N=positive_N) - auc(other_N, positive_N=positive_N)
        assert found.value == pytest.approx(separate, abs=1e-12)
    assert np.mean(widths) == pytest.approx(np.std(values), rel=0.12)


def test_a_score_is_no_better_than_itself():
    score_N, positive_N = np.array([3.0, 1.0, 2.0, 1.0, 0.0]), np.array([True, True, False, False, False])
    found = auc_difference(score_N, other=score_N, positive_N=positive_N, question_N=np.arange(5))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_single_question_of_a_side_tells_no_interval_and_none_leaves_its_range():
    score_N = np.array([3.0, 4.0, 1.0, 2.0])
    positive_N = np.array([True, True, False, False])
    found = auc_interval(score_N, positive_N=positive_N, question_N=np.array([0, 0, 1, 2]))
    assert (found.value, found.low, found.high) == (1.0, 0.0, 1.0)
    noisy = np.array([5.0, 1.0, 2.0, 0.0, 0.5])
    wide = auc_interval(noisy, positive_N=np.array([True, True, False, False, False]), question_N=np.arange(5))
    assert 0 <= wide.low < wide.value < wide.high == 1.0
