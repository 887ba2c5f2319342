"""Laws of validation, alignment and rules 1-3 for any two opinions and any taxonomy (method.md §2a).

The oracles are method.md's sentences word for word, on base segments and in loops. Where the annotators' order does not
matter, and where it does (rule 1 takes the confidences of A, and so the order of the labels), is held here as well.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hypothesis import event, given, settings
from hypothesis import strategies as st

from mralign.annotation.consensus import FinalStep, Span, align, consensus, consolidate, validate
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER, Taxonomy

CONFIDENCES = [0.0, -0.0, 3.0, 7.0, math.nextafter(7.0, 8.0), 7.5, 8.0, 9.0, 10.0]


@dataclass(frozen=True)
class Case:
    """Two valid opinions, and what the adjudicator would say of each segment's step."""

    a: tuple[StepLabels, ...]
    b: tuple[StepLabels, ...]
    segments: int
    taxonomy: Taxonomy
    rulings: tuple[StepLabels, ...]
    threshold: float

    def adjudicate(self, spans: Sequence[Span]) -> list[StepLabels]:
        return [replace(self.rulings[first], first_segment=first, last_segment=last) for first, last in spans]

    def final(self) -> list[FinalStep]:
        return consensus(
            self.a,
            self.b,
            segments=self.segments,
            taxonomy=self.taxonomy,
            adjudicate=self.adjudicate,
            threshold=self.threshold,
        )


@st.composite
def taxonomies(draw: st.DrawFn) -> Taxonomy:
    """1 to 64 labels, in an order that is not the alphabet's."""
    labels = [f"label {number}" for number in range(draw(st.integers(1, 64)))]
    random.Random(draw(st.integers(0, 99))).shuffle(labels)
    return Taxonomy(labels=tuple(labels), macro=dict.fromkeys(labels, "all"))


@st.composite
def opinions(draw: st.DrawFn, taxonomy: Taxonomy, cuts: Sequence[int]) -> tuple[StepLabels, ...]:
    """Steps between the cuts; few different labels, so that annotators agree in part."""
    known = draw(st.lists(st.sampled_from(taxonomy.labels), min_size=1, max_size=4, unique=True))
    steps = []
    for first, end in pairwise(cuts):
        labels = draw(st.lists(st.sampled_from(known), max_size=2, unique=True))
        confidences = [draw(st.sampled_from(CONFIDENCES)) for _ in labels]
        steps.append(StepLabels(first, end - 1, tuple(labels), tuple(confidences)))
    return tuple(steps)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    taxonomy, segments = draw(taxonomies()), draw(st.integers(0, 8))
    few = replace(taxonomy, labels=taxonomy.labels[-3:], macro=dict.fromkeys(taxonomy.labels[-3:], "all"))

    def opinion() -> tuple[StepLabels, ...]:
        inner = sorted(draw(st.sets(st.integers(1, segments - 1)))) if segments > 1 else []
        return draw(opinions(few, [0, *inner, segments])) if segments else ()

    rulings = draw(opinions(taxonomy, range(segments + 1)))
    return Case(opinion(), opinion(), segments, taxonomy, rulings, draw(st.sampled_from([7.0, 7.0, 0.0, 10.0])))


# --- the oracle: docs/method.md's sentences ---------------------------------------------------------------------------


def together(steps: Sequence[StepLabels], segment: int) -> bool:
    """The annotator puts the segment and the next one in one step."""
    return any(step.first_segment <= segment and segment + 1 <= step.last_segment for step in steps)


def projected(steps: Sequence[StepLabels], first: int, last: int) -> dict[str, float]:
    """The union of the annotator's labels over the segments first to last."""
    return {
        label: confidence
        for segment in range(first, last + 1)
        for step in steps
        if step.first_segment <= segment <= step.last_segment
        for label, confidence in zip(step.labels, step.confidences, strict=True)
    }


def highest_first(confidences: dict[str, float], taxonomy: Taxonomy) -> list[tuple[str, float]]:
    """Highest confidence first; ties: taxonomy order."""
    rest, order = dict(confidences), []
    while rest:
        best = max(rest.values())
        label = next(name for name in taxonomy.labels if rest.get(name) == best)
        order.append((label, rest.pop(label)))
    return order


def settled(a: dict[str, float], b: dict[str, float], taxonomy: Taxonomy, threshold: float) -> dict[str, float] | None:
    """Rules 1 and 2, with their confidences; None is rule 3."""
    if set(a) == set(b) != set():
        return a
    kept = set(a) & set(b)
    by_one = {label: confidence for label, confidence in [*a.items(), *b.items()] if label not in kept}
    for label, confidence in highest_first(by_one, taxonomy):
        if len(kept) < 2 and confidence > threshold:
            kept.add(label)
    if len(kept) < 2:
        return None
    return {label: max(labels[label] for labels in (a, b) if label in labels) for label in kept}


def oracle(case: Case) -> list[tuple]:
    """(first, last, labels with confidences, of A, of B, decided by the annotators) of every final step."""
    spans, first = [], 0
    for segment in range(case.segments):
        if segment == case.segments - 1 or not (together(case.a, segment) and together(case.b, segment)):
            spans.append((first, segment))
            first = segment + 1
    final = []
    for first, last in spans:
        a, b = projected(case.a, first, last), projected(case.b, first, last)
        chosen = settled(a, b, case.taxonomy, case.threshold)
        ruling = case.rulings[first]
        by_ruling = dict(zip(ruling.labels, ruling.confidences, strict=True))
        ordered = [
            highest_first(labels, case.taxonomy)[:2] for labels in (by_ruling if chosen is None else chosen, a, b)
        ]
        final.append((first, last, *ordered, chosen is not None))
    return final


# --- consensus ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=250)
@given(case=cases())
def test_consensus_is_the_method_word_for_word(case: Case) -> None:
    final = [
        (
            step.first_segment,
            step.last_segment,
            list(zip(step.labels, step.confidences, strict=True)),
            list(zip(step.labels_a, step.confidences_a, strict=True)),
            list(zip(step.labels_b, step.confidences_b, strict=True)),
            step.rule in ("equal", "intersection", "confident"),
        )
        for step in case.final()
    ]
    assert final == oracle(case)


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_no_step_has_an_unknown_label_or_more_than_two(case: Case) -> None:
    """And a final list of steps is itself a valid opinion."""
    final = case.final()
    steps = [StepLabels(s.first_segment, s.last_segment, s.labels, s.confidences) for s in final]
    assert validate(steps, segments=case.segments, taxonomy=case.taxonomy) is None
    for step in final:
        event(step.rule)
        assert set(step.labels) | set(step.labels_a) | set(step.labels_b) <= set(case.taxonomy.labels)
        assert len(set(step.labels)) == len(step.labels) <= 2
        a, b = set(step.labels_a), set(step.labels_b)
        match step.rule:
            case "equal":
                assert set(step.labels) == a == b != set()
            case "intersection":
                assert len(a & b) == 1 and a & b < set(step.labels) <= a | b
            case "confident":
                assert not a & b and set(step.labels) <= a | b and min(step.confidences) > case.threshold
            case "adjudicated":
                assert step.labels
            case other:
                assert other == "unlabelled" and step.labels == ()


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_which_annotator_is_a_matters_to_rule_1_only(case: Case) -> None:
    """Rules 2 and 3 are blind to the order of A and B; rule 1 takes A's confidences and with them A's order."""
    swapped = replace(case, a=case.b, b=case.a).final()
    for step, mirror in zip(case.final(), swapped, strict=True):
        expected = replace(
            step,
            labels_a=step.labels_b,
            confidences_a=step.confidences_b,
            labels_b=step.labels_a,
            confidences_b=step.confidences_a,
        )
        if step.rule == "equal":
            assert set(mirror.labels) == set(step.labels)
            assert (step.labels, step.confidences) == (step.labels_a, step.confidences_a)
            expected = replace(expected, labels=step.labels_b, confidences=step.confidences_b)
        assert mirror == expected


def test_rule_1_does_depend_on_which_annotator_is_a() -> None:
    """So the most confident label, which `labels: single` keeps, depends on it as well."""
    a = StepLabels(0, 0, ("framing", "retrieval"), (9.0, 2.0))
    b = StepLabels(0, 0, ("framing", "retrieval"), (1.0, 8.0))
    one, other = consolidate(a, b=b, taxonomy=PAPER), consolidate(b, b=a, taxonomy=PAPER)
    assert one is not None and other is not None
    assert (one.labels, one.confidences) == (("framing", "retrieval"), (9.0, 2.0))
    assert (other.labels, other.confidences) == (("retrieval", "framing"), (8.0, 1.0))


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_the_order_in_which_a_step_names_its_labels_does_not_matter(case: Case) -> None:
    def reverse(steps: Sequence[StepLabels]) -> tuple[StepLabels, ...]:
        return tuple(replace(step, labels=step.labels[::-1], confidences=step.confidences[::-1]) for step in steps)

    backwards = replace(case, a=reverse(case.a), b=reverse(case.b), rulings=reverse(case.rulings))
    assert backwards.final() == case.final()


@settings(deadline=None, max_examples=100)
@given(case=cases())
def test_the_adjudicator_is_asked_once_for_exactly_the_open_steps_and_decides_no_other(case: Case) -> None:
    calls: list[list[Span]] = []

    def nothing(spans: Sequence[Span]) -> list[StepLabels]:
        calls.append(list(spans))
        return [StepLabels(first, last, (), ()) for first, last in spans]

    final = consensus(
        case.a,
        case.b,
        segments=case.segments,
        taxonomy=case.taxonomy,
        adjudicate=nothing,
        threshold=case.threshold,
    )
    spans = [(step.first_segment, step.last_segment) for step in final if step.rule == "unlabelled"]
    assert calls == ([spans] if spans else [])
    decided = [step for step in case.final() if step.rule not in ("adjudicated", "unlabelled")]
    assert [step for step in final if step.rule != "unlabelled"] == decided


# --- alignment ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(case=cases())
def test_alignment_is_the_coarsest_partition_that_refines_both(case: Case) -> None:
    pairs = align(case.a, case.b, segments=case.segments)
    spans = [(left.first_segment, left.last_segment) for left, _ in pairs]
    assert spans == [(right.first_segment, right.last_segment) for _, right in pairs]
    assert [index for first, last in spans for index in range(first, last + 1)] == list(range(case.segments))

    def inside(first: int, last: int) -> bool:
        return all(
            any(step.first_segment <= first and last <= step.last_segment for step in steps)
            for steps in (case.a, case.b)
        )

    assert all(inside(*span) for span in spans)
    assert not any(inside(first, last) for (first, _), (_, last) in pairwise(spans))


@settings(deadline=None, max_examples=50)
@given(case=cases())
def test_an_opinion_aligned_with_itself_is_itself(case: Case) -> None:
    assert align(case.a, case.a, segments=case.segments) == [(step, step) for step in case.a]


def test_equal_steps_that_stand_next_to_each_other_stay_two() -> None:
    """Only what BOTH annotators join is joined, however alike the labels are."""
    one, two = StepLabels(0, 0, ("framing",), (9.0,)), StepLabels(1, 1, ("framing",), (9.0,))
    whole = StepLabels(0, 1, ("framing",), (9.0,))
    assert [left for left, _ in align([one, two], [whole], segments=2)] == [one, two]
    assert [left for left, _ in align([whole], [one, two], segments=2)] == [one, two]


def shifted(count: int) -> tuple[list[StepLabels], list[StepLabels]]:
    """Steps of two segments, and the same moved by one; they differ in the last segment only."""
    a = [StepLabels(index, index + 1, ("framing",), (9.0,)) for index in range(0, count, 2)]
    b = [StepLabels(0, 0, ("framing",), (9.0,))]
    b += [StepLabels(index, index + 1, ("framing",), (8.0,)) for index in range(1, count - 1, 2)]
    return a, [*b, StepLabels(count - 1, count - 1, ("chaining",), (8.0,))]


def test_ten_thousand_steps_against_ten_thousand() -> None:
    a, b = shifted(20_000)
    final = consensus(a, b, segments=20_000, taxonomy=PAPER, adjudicate=list)
    assert [(step.first_segment, step.last_segment) for step in final] == [(i, i) for i in range(20_000)]
    assert [step.rule for step in final] == ["equal"] * 19_999 + ["confident"]


def test_validation_and_alignment_look_at_each_step_once() -> None:
    """Were each segment looked up in all steps, this would take many minutes."""
    count = 100_000
    a, b = shifted(count)
    assert validate(a, segments=count, taxonomy=PAPER) is None
    assert validate(b[:-1], segments=count, taxonomy=PAPER) is not None
    pairs = align(a, b, segments=count)
    assert [left.first_segment for left, _ in pairs] == list(range(count))
    assert {right.confidences for _, right in pairs[1:]} == {(8.0,)}


# --- validation --------------------------------------------------------------------------------------------------


@st.composite
def drafts(draw: st.DrawFn) -> tuple[list[StepLabels], int, Taxonomy]:
    """A valid opinion with up to two of its numbers or labels changed."""
    taxonomy, segments = draw(taxonomies()), draw(st.integers(1, 6))
    cuts = [0, *sorted(draw(st.sets(st.integers(1, segments - 1)))), segments] if segments > 1 else [0, 1]
    steps = list(draw(opinions(taxonomy, cuts)))
    for _ in range(draw(st.integers(0, 2))):
        if not steps:
            break
        at = draw(st.integers(0, len(steps) - 1))
        step = steps[at]
        change = draw(st.sampled_from(["first", "last", "drop", "twice", "label", "more", "confidence", "fewer"]))
        if change == "first":
            steps[at] = replace(step, first_segment=step.first_segment + draw(st.integers(-2, 2)))
        elif change == "last":
            steps[at] = replace(step, last_segment=step.last_segment + draw(st.integers(-2, 2)))
        elif change == "drop":
            del steps[at]
        elif change == "twice":
            steps.insert(at, step)
        elif change == "label":
            steps[at] = replace(step, labels=("label 64", *step.labels[1:]))
        elif change == "more":
            labels = draw(st.lists(st.sampled_from(taxonomy.labels), min_size=1, max_size=3))
            steps[at] = replace(step, labels=tuple(labels), confidences=(5.0,) * len(labels))
        elif change == "confidence":
            odd = draw(st.sampled_from([-1.0, 10.5, math.nan, math.inf, -math.inf, 10.0]))
            steps[at] = replace(step, confidences=(*step.confidences[1:], odd))
        else:
            steps[at] = replace(step, confidences=step.confidences[1:])
    return steps, segments, taxonomy


@settings(deadline=None, max_examples=400)
@given(draft=drafts())
def test_validation_is_the_method_word_for_word(draft: tuple[list[StepLabels], int, Taxonomy]) -> None:
    """Known labels only; indices ascending, contiguous, in range, disjoint, together covering all."""
    steps, segments, taxonomy = draft
    indices = [index for step in steps for index in range(step.first_segment, step.last_segment + 1)]
    valid = (
        indices == list(range(segments))
        and all(step.first_segment <= step.last_segment for step in steps)
        and all(label in taxonomy.labels for step in steps for label in step.labels)
        and all(len(step.labels) == len(set(step.labels)) <= 2 for step in steps)
        and all(len(step.labels) == len(step.confidences) for step in steps)
        and all(0 <= confidence <= 10 for step in steps for confidence in step.confidences)
    )
    event(f"valid: {valid}")
    assert (validate(steps, segments=segments, taxonomy=taxonomy) is None) == valid
