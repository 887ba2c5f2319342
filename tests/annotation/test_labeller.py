"""A labeller learned from a rule that is known; its scores against the design matrix that it is learned from."""

from zlib import crc32

import numpy as np
import pytest
from taught_panel import SECOND, lessons, random_labeller

from mralign.annotation import labeller_fit
from mralign.annotation.consensus import validate
from mralign.annotation.label_sets import label_probabilities, set_probabilities
from mralign.annotation.labeller import chosen_steps
from mralign.annotation.labeller_fit import fit
from mralign.annotation.segment_features import COLUMNS, SLOTS, segment_features
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER


@pytest.fixture(scope="module")
def taught():
    return fit(lessons(100), labels=PAPER.labels)


def test_features_are_words_pairs_and_openings_each_once():
    found = segment_features(["Wait, wait", "1990 !"])
    first, second = np.split(found.slot_F, found.begin_S[1:])
    names = {"wait", ",", "wait ,", ", wait", "^", "^wait", "^wait ,", "^wait , wait"}
    assert set(first.tolist()) == {crc32(name.encode()) % SLOTS for name in names}
    names = {"0", "!", "0 !", "^", "^0", "^0 !"}
    assert set(second.tolist()) == {crc32(name.encode()) % SLOTS for name in names}
    assert np.add.reduceat(found.value_F**2, found.begin_S) == pytest.approx(1)


def test_every_segment_has_a_feature():
    assert segment_features(["", "\u200b", "_"]).length_S.min() >= 1


def test_scores_are_those_of_the_columns_that_it_is_learned_from():
    labeller, (lesson,) = random_labeller(), lessons(1, seed=4)
    design = labeller_fit._design([lesson], labels=PAPER.labels, encoder=None)
    score_NL = (design.features @ labeller.weight_CH + labeller.intercept_H)[:, :-1]
    wanted = set_probabilities(score_NL, calibration=labeller.calibration)
    spans = [(step.first_segment, step.last_segment) for step in lesson.steps]
    assert any(first < last for first, last in spans)  # a step of several segments is among them
    found = labeller.predict_steps(lesson.segments, spans=spans)
    assert found.probability_NM == pytest.approx(wanted, rel=1e-4)
    begins = (design.begins @ labeller.weight_CH + labeller.intercept_H)[:, -1] > 0
    assert labeller.predict(lesson.segments).first_N.tolist() == [0, *(np.flatnonzero(begins) + 1)]


def test_a_known_rule_is_learned_with_its_steps_and_second_labels(taught):
    fresh = lessons(60, seed=9)
    opinions = [taught.labeller.annotate(lesson.segments) for lesson in fresh]
    spans = [[(s.first_segment, s.last_segment) for s in opinion.steps] for opinion in opinions]
    assert spans == [[(s.first_segment, s.last_segment) for s in lesson.steps] for lesson in fresh]
    own = [set(step.labels) for opinion in opinions for step in opinion.steps]
    panel = [set(step.labels) for lesson in fresh for step in lesson.steps]
    assert np.mean([x == y for x, y in zip(own, panel, strict=True)]) > 0.97
    assert any(SECOND in labels for labels in own)


def test_what_is_held_out_was_not_learned_from():
    """A word that only one fold has, with a label of its own, is unknown to the labeller of that fold alone."""
    folds = [crc32(lesson.question_id.encode()) % labeller_fit.FOLDS for lesson in lessons(100)]
    own = PAPER.labels[-1]
    known = []
    for fold, lesson in zip(folds, lessons(100), strict=True):
        segments, steps = lesson.segments, lesson.steps
        if fold == 0:
            segments = tuple("mark mark mark" for _ in segments)
            steps = tuple(StepLabels(place, place, (own,), (9.0,)) for place in range(len(segments)))
        known.append(labeller_fit.LabelledThought(lesson.question_id, segments, steps))
    found = fit(known, labels=PAPER.labels)
    for fold, lesson, prediction in zip(folds, known, found.held_out, strict=True):
        named = {label for step in chosen_steps(prediction, labels=PAPER.labels) for label in step.labels}
        assert own not in named
        if fold == 0:
            assert {step.labels for step in found.labeller.annotate(lesson.segments).steps} == {(own,)}


def test_an_opinion_is_valid_and_its_confidences_are_probabilities(taught):
    for lesson in lessons(20, seed=3):
        opinion = taught.labeller.annotate(lesson.segments)
        assert validate(opinion.steps, segments=len(lesson.segments), taxonomy=PAPER) is None
        prediction = taught.labeller.predict(lesson.segments)
        probability_NL = label_probabilities(prediction.probability_NM, L=len(PAPER.labels))
        for step, probability_L in zip(opinion.steps, probability_NL, strict=True):
            named = [10 * probability_L[PAPER.labels.index(label)] for label in step.labels]
            assert list(step.confidences) == pytest.approx(named, abs=1e-3)
            assert list(step.confidences) == sorted(step.confidences, reverse=True)


def test_an_adjudicator_labels_the_steps_that_it_is_given(taught):
    lesson = lessons(1, seed=5)[0]
    spans = [(s.first_segment, s.last_segment) for s in lesson.steps][1:]
    found = taught.labeller.adjudicate(lesson.segments, spans=spans)
    assert [(s.first_segment, s.last_segment) for s in found] == spans
    assert [set(s.labels) for s in found] == [set(s.labels) for s in lesson.steps[1:]]


def test_equal_lessons_give_equal_labellers():
    one, other = (fit(lessons(40), labels=PAPER.labels).labeller for _ in range(2))
    assert np.array_equal(one.weight_CH, other.weight_CH) and one.calibration == other.calibration
    assert one.weight_CH.shape == (COLUMNS, len(PAPER.labels) + 1)


def test_too_few_questions_are_refused():
    with pytest.raises(ValueError, match="19 annotated questions are left to learn from; a labeller needs at least 20"):
        fit(lessons(19), labels=PAPER.labels)
