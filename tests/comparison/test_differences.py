"""Effects over worlds and seeds, against scipy, hand-worked cases and simulations whose truth is known."""

from itertools import product

import numpy as np
import pytest
from measured_rows import row
from scipy import stats

from mralign.comparison.differences import effect, hierarchical_bootstrap, latest, paired_values, values_of
from mralign.comparison.run_sheets import difference_sheet, differences, verdict

RNG = np.random.default_rng(5)


def test_the_interval_is_scipys_of_the_world_means():
    by_world = [RNG.normal(0.1, 1.0, size=3) for _ in range(8)]
    means = [values.mean() for values in by_world]
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    found = effect(by_world)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.mean == pytest.approx(np.mean(means))
    signs = list(product((1, -1), repeat=8))
    sums = [abs(np.dot(sign, means)) for sign in signs]
    assert found.p == np.mean([value >= sums[0] - 1e-12 for value in sums])


def test_the_bootstrap_of_one_world_is_that_of_its_seeds():
    """Two seeds, 0 and 1: the mean of two draws is 0, 1/2, 1 with odds 1/4, 1/2, 1/4."""
    by_world = [np.array([0.0, 1.0])]
    assert hierarchical_bootstrap(by_world, level=0.4) == (0.5, 0.5)
    assert hierarchical_bootstrap(by_world, level=0.9) == (0.0, 1.0)


def test_the_bootstrap_of_single_seeds_is_scipys_over_worlds():
    by_world = [np.array([value]) for value in RNG.normal(size=12)]
    means = (np.concatenate(by_world),)
    expected = stats.bootstrap(means, np.mean, method="percentile", n_resamples=20000, rng=1).confidence_interval
    found = hierarchical_bootstrap(by_world, samples=20000)
    assert found == pytest.approx((expected.low, expected.high), abs=0.02)


def test_students_interval_holds_its_level_and_the_bootstrap_of_eight_worlds_less():
    """1000 studies of 8 worlds × 3 seeds with a true effect of .2: three standard errors of .95 are .021."""
    rng, hits, hits_of_bootstrap = np.random.default_rng(7), 0, 0
    for number in range(1000):
        worlds = 0.2 + rng.normal(0, 0.3, size=(8, 1)) + rng.normal(0, 0.2, size=(8, 3))
        found = effect(list(worlds)) if number < 200 else None
        means = worlds.mean(axis=1)
        half = stats.t.ppf(0.975, 7) * means.std(ddof=1) / np.sqrt(8)
        hits += abs(means.mean() - 0.2) <= half
        if found is not None:
            assert found.high - found.mean == pytest.approx(half)
            hits_of_bootstrap += found.bootstrap[0] <= 0.2 <= found.bootstrap[1]
    assert hits / 1000 == pytest.approx(0.95, abs=0.021)
    assert 0.8 < hits_of_bootstrap / 200 < 0.97


def test_one_world_has_no_interval_and_none_is_refused():
    assert np.isnan(effect([np.array([0.1, 0.3])]).low)
    with pytest.raises(ValueError, match="at least one world"):
        effect([])


def test_pairs_are_of_one_world_and_seed():
    rows = [row("a", acc=0.5, seed=1, split="test"), row("b", acc=0.25, seed=1, split="test")]
    rows += [row("a", acc=1.0, seed=2, split="test"), row("b", acc=0.9, seed=1, world="w1", split="test")]
    rows += [row("a", acc=0.0, seed=1), row("a", acc=0.75, seed=1, world="w2", split="test")]
    (found,) = paired_values(rows, method="a", reference="b", measure="acc")
    assert found.tolist() == [0.25]
    assert [values.tolist() for values in values_of(rows, method="a", measure="acc")] == [[0.5, 1.0], [0.75]]
    assert values_of(rows, method="a", measure="kl") == []


def test_of_several_marks_the_last_row_counts():
    assert [one.acc for one in latest([row(acc=0.1), row(acc=0.2, mark="new"), row("b")])] == [0.2, 0.5]


def test_a_verdict_says_no_more_than_its_interval():
    assert [verdict(0.01, 0.2), verdict(-0.2, -0.01), verdict(-0.01, 0.2)] == ["pays", "costs", "cannot be told from 0"]
    assert verdict(0.01, 0.2, p_holm=0.06) == "cannot be told from 0"
    assert verdict(np.nan, np.nan) == "cannot be told from 0"


def test_the_table_of_differences_adjusts_by_holm():
    """Eight worlds on one side: p = 2/256 for both, adjusted by two; three of eight against: far from it."""
    rows = []
    for world in range(8):
        given = {"world": f"w{world}", "seed": 1, "split": "test"}
        rows += [row("mralign", acc=0.8 + world / 100, **given), row("kto", acc=0.7, **given)]
        rows += [row("sft", acc=0.9 if world < 3 else 0.75, **given)]
    found = differences(rows, method="mralign", references=["kto", "sft", "gone"])
    assert list(found) == ["kto", "sft"]
    ((kto, sft),) = difference_sheet(found, method="mralign").blocks
    assert [cell.text for cell in kto][1] == "+0.135"
    assert [cell.text for cell in kto][4:] == ["0.008", "0.016", "8", "pays"]
    assert sft[-1].text == "cannot be told from 0"
