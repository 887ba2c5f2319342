"""Agreement of two annotations (METHOD.md §2c), worked by hand."""

import math

import numpy as np
import pyarrow as pa
import pytest

from mralign.annotation.agreement import agreement, kappa, label_sets, mean_l1, to_macro
from mralign.annotation.taxonomy import PAPER
from mralign.schema import ANNOTATIONS

X = [{"framing"}, {"framing"}, {"retrieval", "analogy"}, {"chaining"}]
Y = [{"framing"}, {"framing", "chaining"}, {"analogy", "retrieval"}, {"framing"}]


def test_strict_entail_and_chance_by_hand() -> None:
    result = agreement(X, y=Y)
    assert result.steps == 4
    assert result.strict == 2 / 4  # steps 0 and 2
    assert result.entail == 3 / 4  # and step 1: {framing} is inside {framing, chaining}
    # P_X: framing 2/4, retrieval+analogy 1/4, chaining 1/4
    # P_Y: framing 2/4, retrieval+analogy 1/4, framing+chaining 1/4
    assert result.chance == pytest.approx(2 / 4 * 2 / 4 + 1 / 4 * 1 / 4, abs=1e-15)
    assert result.kappa_strict == pytest.approx((0.5 - 0.3125) / 0.6875, abs=1e-15)
    assert result.kappa_entail == pytest.approx((0.75 - 0.3125) / 0.6875, abs=1e-15)


def test_agreement_does_not_depend_on_who_is_first() -> None:
    assert agreement(X, y=Y) == agreement(Y, y=X)


def test_both_kappas_of_the_paper_rest_on_one_chance() -> None:
    """Table 10, macro level: strict 0.4836 -> 0.2943 and entail 0.9782 -> 0.9702 need the same p_e = 0.268."""
    assert kappa(0.4836, chance=0.268) == pytest.approx(0.2943, abs=5e-4)
    assert kappa(0.9782, chance=0.268) == pytest.approx(0.9702, abs=5e-5)
    for observed, published in ((0.4836, 0.2943), (0.9782, 0.9702)):
        assert (observed - published) / (1 - published) == pytest.approx(0.268, abs=1e-3)


def test_macro_level_joins_labels_of_one_strategy() -> None:
    x = to_macro([{"framing", "evaluation"}, {"retrieval"}], taxonomy=PAPER)
    y = to_macro([{"backtracking"}, {"chaining"}], taxonomy=PAPER)
    assert x == [{"Meta-cognitive Regulation"}, {"Knowledge Operations"}]
    assert agreement(x, y=y).strict == 0.5


def test_an_unknown_label_has_no_macro() -> None:
    with pytest.raises(ValueError, match="'guessing' is not in the taxonomy"):
        to_macro([{"guessing"}], taxonomy=PAPER)


def test_empty_sets_are_entailed_and_counted() -> None:
    result = agreement([set(), {"framing"}], y=[{"framing"}, {"framing"}])
    assert (result.unlabelled, result.strict, result.entail) == (1, 0.5, 1.0)


def test_two_constant_annotators_have_no_kappa() -> None:
    result = agreement([{"framing"}] * 3, y=[{"framing"}] * 3)
    assert (result.strict, result.chance) == (1.0, 1.0)
    assert math.isnan(result.kappa_strict)


def test_lists_must_be_of_the_same_steps() -> None:
    with pytest.raises(ValueError, match="4 and 3 steps given"):
        agreement(X, y=Y[:3])
    with pytest.raises(ValueError, match="0 and 0 steps given"):
        agreement([], y=[])


def test_label_sets_of_each_annotator_come_from_the_table() -> None:
    steps = [
        {"labels": ["framing"], "labels_a": ["framing"], "labels_b": []},
        {"labels": [], "labels_a": [], "labels_b": ["analogy", "chaining"]},
    ]
    table = pa.Table.from_pylist([{"row_id": "r", "polarity": 1, "steps": steps}], schema=ANNOTATIONS)
    assert label_sets(table, field="labels_a") == [{"framing"}, set()]
    assert label_sets(table, field="labels_b") == [set(), {"analogy", "chaining"}]


def test_mean_l1_divides_by_all_entries() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    q = np.array([[0.9, 0.1], [0.5, 0.5]])
    assert mean_l1(p, other=q) == pytest.approx(0.2 / 4, abs=1e-15)
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and \(3, 3\)"):
        mean_l1(p, other=np.eye(3))
