"""Small worlds: what every knob does, counted on drawn thoughts, and what no cause may give away."""

import random
from collections import Counter
from itertools import pairwise

import pytest

from mralign.miniworld.knobs import HARMFUL, HARMLESS, LEADS, PAIR, Cause, Knobs, ThoughtBlock, draw_blocks, harms
from mralign.miniworld.small_world import OTHER, SmallTeacher, SmallWorld, draw_thought
from mralign.miniworld.tokenizer import make_tokenizer
from mralign.miniworld.world import Kind, SegmentState

BACK = SegmentState.BACKTRACKING


def blocks_of(knobs, kind, *, count=2000):
    rng = random.Random(1)
    return [draw_blocks(knobs, kind=kind, rng=rng) for _ in range(count)]


def shares(thoughts):
    """How often each state, and each pair of neighbours inside a block, comes in a thought."""
    found = Counter()
    for blocks in thoughts:
        for block in blocks:
            steps = [(block.lead,), block.probe, *([(BACK,)] if block.back else [])]
            for step in steps:
                found.update(dict.fromkeys(step, 1))
            for first, second in pairwise(steps):
                for a in first:
                    for b in second:
                        found[a, b] += 1 / (len(first) * len(second))
    return {key: value / len(thoughts) for key, value in found.items()}


@pytest.mark.parametrize("cause", Cause)
def test_a_fault_has_the_states_of_a_clean_thought(cause):
    knobs = Knobs(0, cause=cause, blocks=4, harmful=2)
    clean, fault = (shares(blocks_of(knobs, kind)) for kind in (Kind.CLEAN, Kind.FAULT))
    states = {key for key in clean | fault if isinstance(key, SegmentState)}
    for state in states:
        assert clean[state] == pytest.approx(fault[state], abs=0.06), state
    assert clean[BACK] == fault[BACK] == 1


@pytest.mark.parametrize("cause", [Cause.SECOND_ORDER, Cause.PAIR])
def test_a_cause_that_first_order_transitions_cannot_see_shows_in_none_of_them(cause):
    knobs = Knobs(0, cause=cause, blocks=3)
    clean, fault = (shares(blocks_of(knobs, kind)) for kind in (Kind.CLEAN, Kind.FAULT))
    edges = {key for key in clean | fault if isinstance(key, tuple)}
    assert max(abs(clean.get(edge, 0) - fault.get(edge, 0)) for edge in edges) < 0.06


def test_the_cause_on_an_edge_shows_in_that_edge():
    knobs = Knobs(0, harmful=1, blocks=2)
    clean, fault = (shares(blocks_of(knobs, kind)) for kind in (Kind.CLEAN, Kind.FAULT))
    assert (clean.get((HARMFUL[0], BACK), 0), fault[HARMFUL[0], BACK]) == (0, 1)
    assert (clean[HARMLESS, BACK], fault.get((HARMLESS, BACK), 0)) == (1, 0)


def test_only_the_cause_harms():
    lead = LEADS[0]
    edge, second, pair = (Knobs(0, cause=cause, harmful=1) for cause in Cause)
    assert harms(ThoughtBlock(lead, HARMFUL[:1], back=True), knobs=edge)
    assert not harms(ThoughtBlock(lead, HARMFUL[:1], back=False), knobs=edge)
    assert not harms(ThoughtBlock(lead, HARMFUL[1:2], back=True), knobs=edge)  # one harmful edge
    assert harms(ThoughtBlock(LEADS[0], HARMFUL[:1], back=True), knobs=second)
    assert not harms(ThoughtBlock(LEADS[1], HARMFUL[:1], back=True), knobs=second)
    assert harms(ThoughtBlock(lead, PAIR, back=True), knobs=pair)
    assert not any(harms(ThoughtBlock(lead, (state,), back=True), knobs=pair) for state in PAIR)


@pytest.mark.parametrize("harm", [0.3, 0.9])
def test_a_fault_ends_in_the_rival_as_often_as_its_strength_says(harm):
    knobs = Knobs(0, harm=harm)
    fact = SmallWorld(knobs).splits["test"][0]
    rng = random.Random(2)
    answers = [draw_thought(fact, kind=Kind.FAULT, knobs=knobs, rng=rng)[-1].candidate for _ in range(3000)]
    expected = 1 - 0.97 * (1 - harm)  # retrieval holds the rival already in three of a hundred
    assert answers.count(fact.rival) / 3000 == pytest.approx(expected, abs=0.03)  # over three standard errors
    clean = [draw_thought(fact, kind=Kind.CLEAN, knobs=knobs, rng=rng)[-1].candidate for _ in range(300)]
    assert set(clean) == {fact.gold}  # backtracking elsewhere restores it


def test_splits_are_disjoint_and_other_relations_are_never_trained_on():
    world = SmallWorld(Knobs(3))
    asked = [fact.question for facts in world.splits.values() for fact in facts]
    assert len(set(asked)) == len(asked)
    assert {fact.relation for fact in world.splits["other"]} <= OTHER
    assert not {fact.relation for fact in world.splits["train"]} & OTHER
    assert all(fact.gold != fact.rival for fact in world.splits["train"])


def test_a_style_marks_faults_as_often_as_its_knob_says():
    """A thought that begins `understand` is written in the second set of words."""
    found = Counter()
    world = SmallWorld(Knobs(0, style=0.6))
    tokenizer = make_tokenizer(world.words, max_length=160)
    teacher, rng = SmallTeacher(world, tokenizer=tokenizer), random.Random(3)
    tell = next(fact for fact in world.splits["train"] if fact.wording == "tell")  # faulty in 92 of 100
    for _ in range(1000):
        text = tokenizer.decode(teacher.thought(tell, rng=rng).ids)
        found["understand" in text] += 1
    assert found[True] / 1000 == pytest.approx(0.92 * 0.8 + 0.08 * 0.2, abs=0.05)


@pytest.mark.parametrize(
    "given", [{"noise": 0.5}, {"examples": 3}, {"blocks": 1}, {"cause": Cause.PAIR, "blocks": 2}, {"harmful": 4}]
)
def test_a_knob_out_of_its_range_is_refused(given):
    with pytest.raises(ValueError, match="allowed are"):
        Knobs(0, **given)
