"""The tables of cluster/README.md on large runs are those that the measured unit costs give, and the sums are right."""

import pytest
from large_runs import ROOT, UnitCosts, large_run, measured_table, plan_table

from mralign.config import load
from mralign.presets import PRESETS

README = (ROOT / "cluster" / "README.md").read_text()


@pytest.mark.parametrize("table", [measured_table, plan_table])
def test_the_page_has_the_table_as_it_is_computed(table):
    assert f"\n\n{table()}\n\n" in README, f"write it anew: python tests/large_runs.py\n{table()}"


def test_a_large_run_by_hand():
    """The paper's setting: three draws a mode of 626 and 9 tokens, 7 % of the questions kept, batches of 64."""
    each = {"questions": 1.0, "rollouts": 0.01, "candidates": 0.001, "annotation": 0.5, "matrices": 99.0}
    config = load("paper", overrides=(), presets_dir=PRESETS)
    found = large_run(640_000, config=config, costs=UnitCosts(each))
    draws = 640_000 * 6
    assert found.requests == draws
    assert found.tokens == 640_000 * 3 * (626 + 9)
    assert found.parts == 60_000
    assert found.examples == pytest.approx(44_800)
    assert found.engine_h == pytest.approx(2 * 8.19073536e9 * 1_219_200_000 / 989e12 / 3600)
    assert found.core_h == pytest.approx((640_000 + draws * 0.011 + 44_800 * 0.5) / 3600)
    assert found.reading_h == pytest.approx(640_000 / 3600)
    assert found.storage_gib == pytest.approx((1_920_000 * 2664 + 44_800 * 2109) / 2**30)
    assert found.keys_gib == pytest.approx(640_000 * 60 / 2**30)
    assert found.ids_gib == pytest.approx(draws * 133 / 2**30)
    assert found.names_gib == pytest.approx(60_000 * 640 / 2**30)
    low, high = found.training_h  # 3 epochs of 686 tokens, 6 operations a parameter, 47 and 38 % of the peak
    trained = 6 * 8.19073536e9 * 44_800 * 686 * 3
    assert low == pytest.approx(trained / 989e12 / 0.47 / 3600)
    assert high == pytest.approx(trained / 989e12 / 0.38 / 3600)
