"""Alignment, rules 1-3 and validation of method.md §2a."""

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.consensus import FinalStep, align, consensus, consolidate, validate
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.rows.columns import cast
from mralign.rows.schema import ANNOTATIONS


def step(first: int, last: int, **confidences: float) -> StepLabels:
    return StepLabels(first, last, tuple(confidences), tuple(confidences.values()))


def never(spans: Sequence[tuple[int, int]]) -> list[StepLabels]:
    raise AssertionError(f"the adjudicator was called for {spans}")


def decide(a: StepLabels, b: StepLabels) -> tuple[tuple[str, ...], tuple[float, ...], str] | None:
    final = consolidate(a, b=b, taxonomy=PAPER)
    return None if final is None else (final.labels, final.confidences, final.rule)


# --- alignment ---------------------------------------------------------------------------------------------------


def test_neighbours_share_a_step_only_where_both_annotators_join_them() -> None:
    a = [step(0, 2, framing=9), step(3, 4, retrieval=8), step(5, 5, evaluation=8)]
    b = [step(0, 1, framing=9), step(2, 4, retrieval=8, analogy=3), step(5, 5, evaluation=8)]
    aligned = [
        (left.first_segment, left.last_segment, left.labels, right.labels) for left, right in align(a, b, segments=6)
    ]
    assert aligned == [
        (0, 1, ("framing",), ("framing",)),
        (2, 2, ("framing",), ("retrieval", "analogy")),
        (3, 4, ("retrieval",), ("retrieval", "analogy")),
        (5, 5, ("evaluation",), ("evaluation",)),
    ]


def test_no_segments_give_no_steps() -> None:
    assert consensus([], [], segments=0, taxonomy=PAPER, adjudicate=never) == []


# --- rule 1 ------------------------------------------------------------------------------------------------------


def test_rule_1_accepts_equal_single_labels_with_the_confidence_of_a() -> None:
    assert decide(step(0, 0, framing=2), step(0, 0, framing=9)) == (("framing",), (2,), "equal")


def test_rule_1_ignores_the_order_of_labels_and_sorts_by_the_confidence_of_a() -> None:
    a, b = step(0, 0, framing=4, retrieval=6), step(0, 0, framing=9, retrieval=1)
    assert decide(a, b) == (("retrieval", "framing"), (6, 4), "equal")


# --- rule 2 ------------------------------------------------------------------------------------------------------


def test_rule_2_keeps_the_common_label_with_the_higher_confidence_and_adds_a_confident_one() -> None:
    a, b = step(0, 0, framing=5), step(0, 0, framing=6, analogy=8)
    assert decide(a, b) == (("analogy", "framing"), (8, 6), "intersection")


def test_rule_2_adds_the_more_confident_of_two() -> None:
    a, b = step(0, 0, framing=5, retrieval=8), step(0, 0, framing=6, analogy=7.5)
    assert decide(a, b) == (("retrieval", "framing"), (8, 6), "intersection")


def test_rule_2_fills_an_empty_intersection_from_both_sides() -> None:
    a, b = step(0, 0, framing=8, chaining=9), step(0, 0, retrieval=8.5, analogy=3)
    assert decide(a, b) == (("chaining", "retrieval"), (9, 8.5), "confident")


def test_rule_2_settles_with_two_confident_labels_of_one_annotator() -> None:
    assert decide(step(0, 0), step(0, 0, framing=8, chaining=9)) == (("chaining", "framing"), (9, 8), "confident")


def test_rule_2_breaks_ties_in_taxonomy_order() -> None:
    a, b = step(0, 0, summarization=8, retrieval=8), step(0, 0, analogy=8, framing=8)
    assert decide(a, b) == (("framing", "retrieval"), (8, 8), "confident")


def test_rule_2_needs_more_than_the_threshold() -> None:
    a, b = step(0, 0, framing=9), step(0, 0, framing=9, analogy=7)
    assert decide(a, b) is None
    settled = consolidate(a, b=b, taxonomy=PAPER, threshold=6.9)
    assert settled is not None
    assert settled.labels == ("framing", "analogy")


def test_one_confident_label_is_not_enough() -> None:
    assert decide(step(0, 0, framing=9), step(0, 0)) is None
    assert decide(step(0, 0, framing=9), step(0, 0, analogy=7)) is None


# --- rule 3 ------------------------------------------------------------------------------------------------------


def test_rule_3_asks_once_for_all_disputed_spans_and_its_word_is_final() -> None:
    calls = []

    def adjudicate(spans: Sequence[tuple[int, int]]) -> list[StepLabels]:
        calls.append(list(spans))
        return [step(0, 1, evaluation=3, comparison=6), step(3, 3)]

    a = [step(0, 1, framing=9), step(2, 2, retrieval=8), step(3, 3)]
    b = [step(0, 1, chaining=2), step(2, 2, retrieval=3), step(3, 3)]
    final = consensus(a, b, segments=4, taxonomy=PAPER, adjudicate=adjudicate)
    assert calls == [[(0, 1), (3, 3)]]
    assert final == [
        FinalStep(0, 1, ("comparison", "evaluation"), (6, 3), "adjudicated", ("framing",), (9,), ("chaining",), (2,)),
        FinalStep(2, 2, ("retrieval",), (8,), "equal", ("retrieval",), (8,), ("retrieval",), (3,)),
        FinalStep(3, 3, (), (), "unlabelled", (), (), (), ()),
    ]


def test_the_adjudicator_is_not_called_without_a_dispute() -> None:
    same = [step(0, 0, framing=9), step(1, 1, retrieval=9)]
    assert [s.rule for s in consensus(same, same, segments=2, taxonomy=PAPER, adjudicate=never)] == ["equal", "equal"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], r"answered for spans \[\]; it was asked for \[\(0, 0\)\]"),
        ([step(1, 1, framing=9)], r"answered for spans \[\(1, 1\)\]"),
        ([step(0, 0, guessing=9)], r"adjudicator: span \(0, 0\) has unknown labels \['guessing'\]"),
        ([step(0, 0, framing=9, chaining=9, retrieval=9)], "at most two different"),
        ([step(0, 0, framing=float("nan"))], "numbers from 0 to 10"),
    ],
)
def test_a_bad_adjudication_is_refused(answer: list[StepLabels], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        consensus([step(0, 0)], [step(0, 0)], segments=1, taxonomy=PAPER, adjudicate=lambda spans: answer)


def test_an_invalid_annotator_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="annotator B: step 0 has unknown labels"):
        consensus([step(0, 0)], [step(0, 0, guessing=9)], segments=1, taxonomy=PAPER, adjudicate=never)


# --- validation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([step(0, 0)], "segments 1 to 2 are in no step"),
        ([step(1, 2)], "step 0 begins at segment 1, expected 0"),
        ([step(0, 1), step(1, 2)], "step 1 begins at segment 1, expected 2"),
        ([step(0, 0), step(2, 2)], "step 1 begins at segment 2, expected 1"),
        ([step(0, 3)], "step 0 ends at segment 3; allowed are 0 to 2"),
        ([step(0, 1), step(2, 1)], "step 1 ends at segment 1; allowed are 2 to 2"),
        ([step(0, 2, guessing=5)], "step 0 has unknown labels ['guessing']; allowed are ['framing',"),
        ([step(0, 2, framing=5, chaining=5, analogy=5)], "at most two different ones"),
        ([StepLabels(0, 2, ("framing", "framing"), (5, 5))], "at most two different ones"),
        ([StepLabels(0, 2, ("framing",), ())], "0 confidences for 1 labels"),
        ([step(0, 2, framing=10.5)], "confidences [10.5]; allowed are numbers from 0 to 10"),
        ([step(0, 2, framing=-1)], "confidences [-1]"),
        ([step(0, 2, framing=float("nan"))], "confidences [nan]"),
        ([step(0, 2, framing=float("inf"))], "confidences [inf]"),
    ],
)
def test_validation_quotes_the_fault(steps: list[StepLabels], message: str) -> None:
    fault = validate(steps, segments=3, taxonomy=PAPER)
    assert fault is not None
    assert message in fault


def test_validation_passes_what_is_right() -> None:
    steps = [step(0, 1, framing=0, chaining=10), step(2, 2)]
    assert validate(steps, segments=3, taxonomy=PAPER) is None
    assert validate([], segments=0, taxonomy=PAPER) is None


# --- laws --------------------------------------------------------------------------------------------------------

LABELS = st.lists(st.sampled_from(PAPER.labels[:5]), max_size=2, unique=True)


@st.composite
def opinions(draw: st.DrawFn, segments: int) -> list[StepLabels]:
    """A valid annotator's steps over the given number of segments."""
    cuts = sorted(draw(st.sets(st.integers(1, segments - 1)))) if segments > 1 else []
    steps = []
    for first, end in zip([0, *cuts], [*cuts, segments], strict=True):
        labels = draw(LABELS)
        confidences = draw(st.tuples(*[st.sampled_from([0.0, 3.0, 7.0, 7.5, 9.0, 10.0])] * len(labels)))
        steps.append(StepLabels(first, end - 1, tuple(labels), confidences))
    return steps


@settings(deadline=None)
@given(data=st.data(), segments=st.integers(1, 7))
def test_consensus_is_total_and_keeps_every_promise(data: st.DataObject, segments: int) -> None:
    a, b = data.draw(opinions(segments)), data.draw(opinions(segments))
    assert validate(a, segments=segments, taxonomy=PAPER) is None
    asked: list[tuple[int, int]] = []

    def adjudicate(spans: Sequence[tuple[int, int]]) -> list[StepLabels]:
        asked.extend(spans)
        return [StepLabels(*span, labels=("synthesis",), confidences=(1.0,)) for span in spans]

    final = consensus(a, b, segments=segments, taxonomy=PAPER, adjudicate=adjudicate)
    covered = [index for item in final for index in range(item.first_segment, item.last_segment + 1)]
    assert covered == list(range(segments))
    starts = {item.first_segment for item in final}
    assert starts == {item.first_segment for item in a} | {item.first_segment for item in b}
    for item in final:
        assert 1 <= len(item.labels) <= 2
        assert list(item.confidences) == sorted(item.confidences, reverse=True)
        if item.rule == "adjudicated":
            assert (item.first_segment, item.last_segment) in asked
            assert item.labels == ("synthesis",)
        else:
            both = set(item.labels_a) & set(item.labels_b)
            assert both <= set(item.labels) <= set(item.labels_a) | set(item.labels_b)
            assert (item.rule == "equal") == (set(item.labels_a) == set(item.labels_b) != set())
            assert item.rule == "equal" or len(item.labels) == 2
    assert len(asked) == sum(item.rule == "adjudicated" for item in final)


@settings(deadline=None)
@given(data=st.data(), segments=st.integers(1, 5))
def test_swapping_the_annotators_changes_no_label_set(data: st.DataObject, segments: int) -> None:
    a, b = data.draw(opinions(segments)), data.draw(opinions(segments))

    def silent(spans: Sequence[tuple[int, int]]) -> list[StepLabels]:
        return [StepLabels(*span, labels=(), confidences=()) for span in spans]

    one = consensus(a, b, segments=segments, taxonomy=PAPER, adjudicate=silent)
    other = consensus(b, a, segments=segments, taxonomy=PAPER, adjudicate=silent)
    assert [set(item.labels) for item in one] == [set(item.labels) for item in other]


def test_final_steps_fit_the_schema() -> None:
    steps = consensus([step(0, 1, framing=9)], [step(0, 1, framing=8)], segments=2, taxonomy=PAPER, adjudicate=never)
    row = {"row_id": "q/on/0", "question_id": "q", "dataset": "d", "polarity": 1, "segments": 2}
    row |= {"confidence_a": None, "confidence_b": None, "steps": [asdict(s) for s in steps]}
    table = cast(pa.Table.from_pylist([row], schema=ANNOTATIONS), ANNOTATIONS)
    assert table.to_pylist()[0]["steps"] == [
        {
            "first_segment": 0,
            "last_segment": 1,
            "labels": ["framing"],
            "confidences": [9.0],
            "rule": "equal",
            "labels_a": ["framing"],
            "confidences_a": [9.0],
            "labels_b": ["framing"],
            "confidences_b": [8.0],
        }
    ]
