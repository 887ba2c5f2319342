"""Agreement of two annotations (method.md §2c), worked by hand."""

import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.agreement import (
    agreement,
    agreement_of,
    count_pairs,
    kappa,
    macro_pairs,
    mean_l1,
    to_macro,
)
from mralign.annotation.taxonomy import PAPER
from mralign.rows.schema import ANNOTATIONS

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


def annotations(*trajectories: list[tuple[list[str], list[str]]]) -> pa.Table:
    """Steps of (labels_a, labels_b), one list a trajectory."""
    steps = [[{"labels": [], "labels_a": a, "labels_b": b} for a, b in steps] for steps in trajectories]
    rows = [{"row_id": str(n), "polarity": 1, "steps": found} for n, found in enumerate(steps)]
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS)


def test_pairs_of_sets_are_counted_whatever_the_order_of_their_labels() -> None:
    table = annotations(
        [(["framing"], []), (["analogy", "chaining"], ["chaining", "analogy"])],
        [(["chaining", "analogy"], ["chaining", "analogy"])],
        [],
    )
    both = frozenset({"analogy", "chaining"})
    assert count_pairs(table, x="labels_a", y="labels_b") == {
        (frozenset({"framing"}), frozenset()): 1,
        (both, both): 2,
    }
    assert count_pairs(table, x="labels_b", y="labels")[both, frozenset()] == 2


def test_a_table_without_a_step_has_no_pair_and_no_agreement() -> None:
    assert not count_pairs(annotations(), x="labels_a", y="labels_b")
    assert not count_pairs(annotations([]), x="labels_a", y="labels_b")
    with pytest.raises(ValueError, match="0 steps given"):
        agreement_of({})


labels = st.lists(st.sampled_from(PAPER.labels), max_size=2, unique=True)
corpora = st.lists(st.lists(st.tuples(labels, labels), max_size=5), min_size=1, max_size=8).filter(any)


def same(left: object, right: object) -> bool:
    """Equal, nan included: repr keeps every bit of a float."""
    return repr(left) == repr(right)


@settings(deadline=None)
@given(corpora)
def test_counts_say_what_the_lists_say(corpus: list[list[tuple[list[str], list[str]]]]) -> None:
    x, y = zip(*(pair for steps in corpus for pair in steps), strict=True)
    counted = count_pairs(annotations(*corpus), x="labels_a", y="labels_b")
    assert same(agreement_of(counted), agreement(x, y=y))
    macro = agreement(to_macro(x, taxonomy=PAPER), y=to_macro(y, taxonomy=PAPER))
    assert same(agreement_of(macro_pairs(counted, taxonomy=PAPER)), macro)


@settings(deadline=None)
@given(corpora)
def test_both_kappas_follow_the_formula_written_out(corpus: list[list[tuple[list[str], list[str]]]]) -> None:
    """The oracle: p_e as the share of ALL combinations of a step of X with a step of Y that have the same set."""
    pairs = [(frozenset(a), frozenset(b)) for steps in corpus for a, b in steps]
    n = len(pairs)
    chance = Fraction(sum(a == b for a, _ in pairs for _, b in pairs), n * n)
    result = agreement([a for a, _ in pairs], y=[b for _, b in pairs])
    assert result.chance == pytest.approx(float(chance), abs=1e-15)
    for found, hits in (
        (result.kappa_strict, sum(a == b for a, b in pairs)),
        (result.kappa_entail, sum(not a - b or not b - a for a, b in pairs)),
    ):
        if chance == 1:
            assert math.isnan(found)
        else:
            assert found == pytest.approx(float((Fraction(hits, n) - chance) / (1 - chance)), abs=1e-9)


@settings(deadline=None)
@given(corpora)
def test_agreement_is_symmetric_and_bounded(corpus: list[list[tuple[list[str], list[str]]]]) -> None:
    table = annotations(*corpus)
    found = agreement_of(count_pairs(table, x="labels_a", y="labels_b"))
    assert same(found, agreement_of(count_pairs(table, x="labels_b", y="labels_a")))
    assert 0 <= found.strict <= found.entail <= 1
    assert 0 <= found.chance <= 1
    if found.chance < 1:
        assert -1 - 1e-9 <= found.kappa_strict <= found.kappa_entail <= 1


@settings(deadline=None)
@given(corpora)
def test_macro_sets_agree_wherever_the_labels_do(corpus: list[list[tuple[list[str], list[str]]]]) -> None:
    """Equal sets have equal macro sets, and a subset stays one; kappa may fall, as chance rises as well."""
    pairs = count_pairs(annotations(*corpus), x="labels_a", y="labels_b")
    fine, macro = agreement_of(pairs), agreement_of(macro_pairs(pairs, taxonomy=PAPER))
    assert (macro.steps, macro.unlabelled) == (fine.steps, fine.unlabelled)
    assert macro.strict >= fine.strict
    assert macro.entail >= fine.entail
    assert macro.chance >= fine.chance


def test_kappa_may_fall_at_macro_level() -> None:
    x = [{"framing"}, {"evaluation"}, {"retrieval"}, {"framing"}]
    y = [{"framing"}, {"evaluation"}, {"framing"}, {"retrieval"}]
    fine, macro = agreement(x, y=y), agreement(to_macro(x, taxonomy=PAPER), y=to_macro(y, taxonomy=PAPER))
    assert (fine.strict, fine.chance) == (0.5, (4 + 1 + 1) / 16)
    assert (macro.strict, macro.chance) == (0.5, (9 + 1) / 16)
    assert macro.kappa_strict < 0 < fine.kappa_strict


@settings(deadline=None)
@given(corpora, st.randoms(use_true_random=False))
def test_no_sharding_and_no_order_changes_a_figure(corpus: list[list[tuple[list[str], list[str]]]], random) -> None:
    whole = count_pairs(annotations(*corpus), x="labels_a", y="labels_b")
    shuffled = random.sample(corpus, len(corpus))
    shards, end = Counter(), 0
    while end < len(shuffled):
        begin, end = end, end + random.randint(1, 3)
        shards.update(count_pairs(annotations(*shuffled[begin:end]), x="labels_a", y="labels_b"))
    assert shards == whole
    assert same(agreement_of(shards), agreement_of(whole))


@settings(deadline=None)
@given(corpora, st.integers(2, 10**9))
def test_a_corpus_repeated_agrees_as_far(corpus: list[list[tuple[list[str], list[str]]]], times: int) -> None:
    pairs = count_pairs(annotations(*corpus), x="labels_a", y="labels_b")
    once, often = agreement_of(pairs), agreement_of({pair: n * times for pair, n in pairs.items()})
    assert often.steps == once.steps * times
    assert same(replace(often, steps=once.steps, unlabelled=once.unlabelled), once)


def test_mean_l1_divides_by_all_entries() -> None:
    p = np.array([[1.0, 0.0], [0.5, 0.5]])
    q = np.array([[0.9, 0.1], [0.5, 0.5]])
    assert mean_l1(p, other=q) == pytest.approx(0.2 / 4, abs=1e-15)
    with pytest.raises(ValueError, match=r"shape \(2, 2\) and \(3, 3\)"):
        mean_l1(p, other=np.eye(3))
