"""Paired differences and their test: by hand, against scipy, and against what makes no sense to compare."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest, false_discovery_control, permutation_test

from mralign.evaluation.benchmarks.longfact import f1_at_k
from mralign.evaluation.intervals import bootstrap_interval
from mralign.evaluation.paired import EXACT, compare, holm, paired_difference, question_means, sign_flip_p
from mralign.evaluation.scoring import SCORES


def scores(values, *, column="acc", dataset="d", method="m"):
    """Rows of SCORES from question -> the values of its draws."""
    rows = [
        {"row_id": f"{q}/on/{k}", "question_id": str(q), "dataset": dataset, "method": method, column: value}
        for q, draws in values.items()
        for k, value in enumerate(draws)
    ]
    return pa.Table.from_pylist(rows, schema=SCORES)


def joined(*tables):
    return pa.concat_tables(tables)


def test_a_difference_by_hand():
    a = scores({"x": [True, True], "y": [True, False], "z": [False, False]})
    b = scores({"z": [False], "y": [False], "x": [True]})
    found = paired_difference(a, b, samples=5000)
    assert (found.a, found.b) == pytest.approx((1 / 2, 1 / 3))
    assert found.difference == pytest.approx(1 / 6)  # 0, 1/2, 0
    assert (found.n, found.only_a, found.only_b) == (3, 0, 0)
    assert found.ci == (0.0, 0.5)  # 2^3/3^3 and 1/27 of the resamples lie at the ends
    assert found.p == 1.0  # one difference: both of its signs are as far from 0
    assert paired_difference(b, a, samples=5000).ci == (-0.5, 0.0)
    same = paired_difference(a, a)
    assert (same.difference, same.ci, same.p) == (0.0, (0.0, 0.0), 1.0)


def test_pairing_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(500) < 0.5
    gain = rng.random(500) < 0.02
    a = scores({i: [bool(h or g)] for i, (h, g) in enumerate(zip(hard, gain, strict=True))})
    b = scores({i: [bool(h)] for i, h in enumerate(hard)})
    found = paired_difference(a, b)
    low, high = found.ci
    wide = bootstrap_interval((hard | gain).astype(float))
    assert high - low < 0.5 * (wide[1] - wide[0])
    assert low > 0


def test_other_questions_are_refused_or_left_out_and_counted():
    a = scores({"x": [True], "y": [True], "u": [None]})  # a question without a value does not stand there
    b = scores({"y": [False], "z": [True], "w": [True]})
    with pytest.raises(ValueError, match=r"paired acc .* 1 stand only in the first, 2 only in the second"):
        paired_difference(a, b)
    found = paired_difference(a, b, common=True)
    assert (found.a, found.b, found.n, found.only_a, found.only_b) == (1.0, 0.0, 1, 1, 2)
    with pytest.raises(ValueError, match="no question has acc on both sides: 1 stand only in the first, 1 only in"):
        paired_difference(scores({"x": [True]}), scores({"y": [True]}), common=True)


def test_draws_without_a_value_do_not_count():
    table = scores({"x": [0.25, None, 0.75], "y": [None], "z": [1.0]}, column="f1")
    assert question_means(table, column="f1") == {"x": 0.5, "z": 1.0}
    assert question_means(scores({"x": [True, False, True]}), column="acc") == {"x": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 1, 1, 0], 2 / 8),  # +++ and ---
        ([3, -1, 1], 6 / 8),  # the sums are 5, 3, 3, 1 and their negatives: six are as far from 0 as 3
        ([0.1, 0.2, 0.3, -0.6], 1.0),  # a sum of 0 up to rounding
        ([0.0, 0.0], 1.0),
        ([2, 1], 2 / 4),
    ],
)
def test_the_exact_test_by_hand(differences, p):
    assert sign_flip_p(np.array(differences, dtype=float)) == p
    assert sign_flip_p(-np.array(differences, dtype=float)) == p


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_test_is_that_of_scipy(seed):
    values = np.random.default_rng(seed).normal(0.4, 1.0, size=9).round(1)
    oracle = permutation_test((values,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", n_resamples=1e6)
    assert sign_flip_p(values) == pytest.approx(oracle.pvalue, abs=1e-12)


@pytest.mark.parametrize(("won", "lost"), [(5, 1), (7, 7), (12, 4), (0, 16), (3, 0)])
def test_single_right_or_wrong_answers_give_mcnemars_exact_test(won, lost):
    outcomes = [(True, False)] * won + [(False, True)] * lost + [(True, True)] * 30 + [(False, False)] * 9
    a, b = (scores({i: [pair[side]] for i, pair in enumerate(outcomes)}) for side in (0, 1))
    assert won + lost <= EXACT
    assert paired_difference(a, b).p == pytest.approx(binomtest(won, won + lost).pvalue, abs=1e-12)


def test_many_differences_are_tested_by_random_signs_close_to_mcnemars_exact_test():
    for won, lost in ((34, 18), (100, 90)):
        values = np.array([1.0] * won + [-1.0] * lost + [0.0] * 50)
        exact = binomtest(won, won + lost).pvalue
        found = sign_flip_p(values, permutations=20_000, seed=1)
        assert found == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 20_000))
        assert found == sign_flip_p(values, permutations=20_000, seed=1)
        assert found != sign_flip_p(values, permutations=20_000, seed=2)


def test_random_signs_never_give_a_p_of_zero():
    assert sign_flip_p(np.ones(60), permutations=999) == 1 / 1000


def test_under_the_hypothesis_the_p_values_are_uniform():
    rng = np.random.default_rng(5)
    found = [sign_flip_p(rng.normal(size=24), permutations=399, seed=seed) for seed in range(400)]
    for share in (0.05, 0.25, 0.5):
        assert np.mean(np.array(found) <= share) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 400))


@pytest.mark.parametrize(("values", "permutations"), [([], 10), ([1.0], 0)])
def test_nothing_to_test_is_refused(values, permutations):
    with pytest.raises(ValueError, match="a test needs differences and permutations"):
        sign_flip_p(np.array(values), permutations=permutations)


def test_every_measure_that_both_have_is_compared_data_set_by_data_set():
    off = joined(scores({"x": [True], "y": [True]}, dataset="nq"), scores({"t": [0.5]}, column="f1", dataset="long"))
    on_rows = [
        {"question_id": "x", "acc": True, "mis": False, "dataset": "nq"},
        {"question_id": "y", "acc": False, "mis": True, "dataset": "nq"},
        {"question_id": "t", "f1": 0.25, "dataset": "long"},
        {"question_id": "u", "truthful": True, "informative": False, "dataset": "tqa"},
    ]
    found = compare(off, pa.Table.from_pylist(on_rows, schema=SCORES), samples=500)
    assert [(row["dataset"], row["measure"]) for row in found] == [("nq", "acc"), ("long", "f1")]
    acc, f1 = found
    assert (acc["a"], acc["b"], acc["difference"], acc["n"], acc["p"]) == (1.0, 0.5, 0.5, 2, 1.0)
    assert (f1["a"], f1["b"], f1["difference"], f1["ci"]) == (0.5, 0.25, 0.25, (0.25, 0.25))
    assert set(acc) == {*("dataset", "measure", "a", "b", "difference", "ci", "p", "p_holm", "n", "only_a", "only_b")}


def test_the_refusal_names_the_data_set():
    with pytest.raises(ValueError, match="nq: paired acc must be of the same questions: 0 stand only in the first, 1"):
        compare(scores({"x": [True]}, dataset="nq"), scores({"x": [True], "y": [True]}, dataset="nq"))
    (row,) = compare(scores({"x": [True]}, dataset="nq"), scores({"x": [True], "y": [True]}, dataset="nq"), common=True)
    assert (row["n"], row["only_a"], row["only_b"]) == (1, 0, 1)


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, never below the one before
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_lies_between_no_adjustment_and_bonferroni():
    p = np.random.default_rng(0).random(20) ** 3
    adjusted = np.array(holm(list(p)))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, 20 * p)).all()
    assert (adjusted >= false_discovery_control(p) - 1e-12).all()  # Holm controls more than Benjamini-Hochberg


def test_f1_is_compared_at_the_k_of_the_reference():
    def side(k, claims, supported):
        f1 = f1_at_k(supported, claims=claims, k=k)
        row = {"question_id": "q", "dataset": "lf", "claims": claims, "supported": supported, "f1": f1, "k": k}
        return pa.Table.from_pylist([dict.fromkeys(SCORES.names) | row], schema=SCORES)

    (same,) = compare(side(20, 10, 10), side(10, 10, 10))  # the same claims, scored with another K
    assert (same["a"], same["b"], same["difference"]) == (1.0, 1.0, 0.0)
    (other,) = compare(side(10, 10, 10), side(20, 10, 5))
    assert (other["a"], other["b"]) == pytest.approx((2 / 3, 1 / 3))  # P 1, R 1/2; P 1/2, R 1/4


def test_a_measure_without_a_common_question_is_left_out():
    def side(question, other):
        rows = [{"question_id": question, "truthful": True}, {"question_id": other}]
        rows = [dict.fromkeys(SCORES.names) | {"dataset": "d", "acc": True} | row for row in rows]
        return pa.Table.from_pylist(rows, schema=SCORES)

    found = compare(side("q", "r"), side("r", "q"), common=True)
    assert [row["measure"] for row in found] == ["acc"]
