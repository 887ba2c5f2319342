"""The grammar of the thoughts, its causal rule, and the splits."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from mralign.miniworld.world import (
    PROBES,
    STATE_OF_CUE,
    TEMPLATES,
    WORDINGS,
    FactWorld,
    Kind,
    SegmentState,
    WorldParams,
    WorldSplit,
    WorldTrace,
    draw_kind,
    draw_trace,
    make_world,
    next_candidate,
    plan,
)

SURE = WorldParams(retrieval_gold=1.0, harm=1.0, heal=1.0)


@pytest.fixture(scope="module")
def world() -> FactWorld:
    return make_world(3, params=WorldParams())


@pytest.fixture(scope="module")
def traces(world: FactWorld) -> list[WorldTrace]:
    rng = random.Random(0)
    return [draw_trace(fact, world=world, rng=rng) for fact in world.facts for _ in range(10)]


def test_every_template_starts_with_a_word_of_its_own() -> None:
    assert set(TEMPLATES) == set(SegmentState)
    assert len(STATE_OF_CUE) == 2 * len(SegmentState)
    later = {word for pair in TEMPLATES.values() for text in pair for word in text.split()[1:]}
    assert not later & {"wait", "actually", "check", "verify", "recall", "remember"}


def test_backtracking_acts_by_the_probe_before_it(world: FactWorld) -> None:
    fact, rng = world.facts[0], random.Random(0)

    def after(previous: SegmentState, candidate: str) -> str | None:
        return next_candidate(candidate, previous, SegmentState.BACKTRACKING, fact=fact, rng=rng, params=SURE)

    assert after(SegmentState.SELF_VERIFICATION, fact.gold) == fact.rival
    assert after(SegmentState.SELF_VERIFICATION, fact.rival) == fact.rival
    assert after(SegmentState.COMPARISON, fact.rival) == fact.gold
    assert after(SegmentState.COMPARISON, fact.gold) == fact.gold
    for candidate in (fact.gold, fact.rival):
        assert after(SegmentState.EVALUATION, candidate) == candidate
        assert after(SegmentState.EXPLANATION, candidate) == candidate


def test_only_retrieval_and_backtracking_change_the_candidate(traces: list[WorldTrace]) -> None:
    for trace in traces:
        previous = None
        for segment, candidate in zip(trace.segments, trace.candidates, strict=True):
            if segment.state not in (SegmentState.RETRIEVAL, SegmentState.BACKTRACKING):
                assert candidate == previous
            previous = candidate


def test_kind_decides_the_answer_when_nothing_is_left_to_chance() -> None:
    sure = make_world(3, params=SURE)
    rng = random.Random(1)
    for fact in sure.facts:
        trace = draw_trace(fact, world=sure, rng=rng)
        assert trace.answer == (fact.rival if trace.kind is Kind.FAULT else fact.gold)
        assert trace.segments[-1].words[-1] == trace.answer


def test_segments_of_a_trace(traces: list[WorldTrace]) -> None:
    counts = [len(trace.segments) for trace in traces]
    assert (min(counts), max(counts)) == (10, 14)
    for trace in traces:
        states = [segment.state for segment in trace.segments]
        assert states[-2:] == [SegmentState.SYNTHESIS, SegmentState.SUMMARIZATION]
        assert [states.count(probe) for probe in PROBES] == [1, 1, 1]
        assert all(STATE_OF_CUE[segment.words[0]] is segment.state for segment in trace.segments)
        assert not any("{" in segment.text or "  " in segment.text for segment in trace.segments)


def test_recovered_traces_are_harmed_first_and_healed_later(traces: list[WorldTrace]) -> None:
    for trace in traces:
        states = [segment.state for segment in trace.segments]
        edges = list(pairwise(states))
        harm = (SegmentState.SELF_VERIFICATION, SegmentState.BACKTRACKING)
        heal = (SegmentState.COMPARISON, SegmentState.BACKTRACKING)
        assert (harm in edges) == (trace.kind is not Kind.CLEAN)
        if trace.kind is Kind.RECOVERED:
            assert edges.index(harm) < edges.index(heal)
        if trace.kind is Kind.FAULT:
            assert heal not in edges


def test_number_of_backtrackings_does_not_depend_on_the_wording() -> None:
    rng, params = random.Random(2), WorldParams()
    for wording in WORDINGS:
        two = sum(draw_kind(wording, rng=rng, params=params).two for _ in range(20_000)) / 20_000
        assert two == pytest.approx(params.two_backtrackings, abs=0.015)


@pytest.mark.parametrize("two", [False, True])
def test_state_counts_do_not_depend_on_the_kind(two: bool) -> None:
    means: dict[Kind, dict[SegmentState, float]] = {}
    for kind in Kind if two else (Kind.CLEAN, Kind.FAULT):
        rng, seen = random.Random(4), Counter[SegmentState]()
        for _ in range(8_000):
            seen.update(plan(kind, two=two, rng=rng, params=WorldParams()))
        means[kind] = {state: seen[state] / 8_000 for state in SegmentState}
        assert means[kind][SegmentState.BACKTRACKING] == 1 + two
        assert all(means[kind][probe] == 1 for probe in PROBES)
    for state in SegmentState:
        values = [mean[state] for mean in means.values()]
        assert max(values) - min(values) < 0.04


def test_two_backtrackings_are_as_frequent_in_clean_as_in_faulty_traces() -> None:
    rng = random.Random(5)
    two: dict[Kind, list[bool]] = defaultdict(list)
    for _ in range(40_000):
        wording = rng.choices(WORDINGS, weights=[w.share for w in WORDINGS])[0]
        drawn = draw_kind(wording, rng=rng, params=WorldParams())
        two[drawn.kind].append(drawn.two)
    clean, fault = (sum(two[kind]) / len(two[kind]) for kind in (Kind.CLEAN, Kind.FAULT))
    assert clean == pytest.approx(fault, abs=0.04)


def test_splits_are_disjoint_and_of_the_asked_sizes(world: FactWorld) -> None:
    ids = {split: {fact.fact_id for fact in facts} for split, facts in world.splits.items()}
    assert {split: len(names) for split, names in ids.items()} == {
        WorldSplit.TRAIN: 600,
        WorldSplit.DEV: 160,
        WorldSplit.TEST: 240,
    }
    assert len(set.union(*ids.values())) == 1000
    assert len({fact.question for fact in world.facts}) == 1000


def test_a_seed_gives_one_world() -> None:
    params = WorldParams(entities=20, train=10, dev=5, test=5)
    assert make_world(7, params=params) == make_world(7, params=params)
    assert make_world(7, params=params).splits == make_world(7, params=params).splits
    assert make_world(7, params=params) != make_world(8, params=params)


def test_gold_differs_from_rival_and_names_are_no_template_words(world: FactWorld) -> None:
    templates = {word for pair in TEMPLATES.values() for text in pair for word in text.split()}
    for fact in world.facts:
        assert fact.gold != fact.rival
        assert not {fact.entity, fact.gold, fact.rival} & templates


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 100"):
        WorldParams(entities=20, train=90, dev=10, test=10)
