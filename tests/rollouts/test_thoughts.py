"""Which thoughts of an evaluated model are labelled anew, and what becomes of the others."""

import pytest
from rollouts.test_candidates import generation

from mralign.config import parse
from mralign.rollouts.stage import thoughts_stage
from mralign.rollouts.thoughts import draw_questions, thoughts_of, unanswered
from mralign.rows.subjects import Subject

IDS = [f"nq/{n}" for n in range(1000)]


def test_questions_are_drawn_by_id_and_seed_alone():
    chosen = draw_questions(IDS, count=100, seed=3)
    assert len(set(chosen)) == 100
    assert draw_questions(reversed(IDS), count=100, seed=3) == chosen
    assert draw_questions(IDS, count=50, seed=3) == chosen[:50]
    assert len(set(chosen) & set(draw_questions(IDS, count=100, seed=4))) < 30  # 10 are expected
    assert sum(int(one[3:]) for one in chosen) / 100 == pytest.approx(499.5, abs=4 * 289 / 10)  # no corner of them
    assert sorted(draw_questions(["b", "a", "b"], count=5, seed=0)) == ["a", "b"]


def test_only_draw_0_of_the_chosen_questions_thinking_on_is_taken():
    rows = [
        generation("q1", "on", 0, "Paris", segments=2),
        generation("q1", "on", 1, "Paris"),
        generation("q1", "off", 0, "Paris"),
        generation("q1", "on", 0, "Paris") | {"mode": "on/feedback-1", "row_id": "q1/on/0/feedback-1"},
        generation("q2", "on", 0, "Rome", segments=30, thought_tokens=5000),  # no length filter here
        generation("q3", "on", 0, "Paris"),
        generation("q4", "on", 0, "", invalid="truncated", dataset="sciq"),
        generation("q5", "on", 0, "Paris", segments=0),
    ]
    kept, rejects = thoughts_of(rows, questions={"q1", "q2", "q4", "q5"}, match="exact")
    assert [(row["row_id"], row["polarity"], len(row["segment_start"]), row["em_answer"]) for row in kept] == [
        ("q1/on/0", 0, 2, True),
        ("q2/on/0", 0, 30, False),
    ]
    first = kept[0]
    spans = zip(first["segment_start"], first["segment_end"], strict=True)
    assert [first["text"][start:end] for start, end in spans] == ["\npart 0 Paris", "part 1 Paris"]
    assert [(r.row_id, r.reason, r.detail) for r in rejects] == [
        ("q4/on/0", "truncated", "dataset=sciq"),
        ("q5/on/0", "empty_thought", "dataset=nq"),
    ]


def test_a_question_that_was_not_asked_is_a_reject():
    (reject,) = unanswered(["q1", "q2"], heard={"q1/on/0"})
    assert (reject.row_id, reject.reason, reject.raw) == ("q2/on/0", "no_response", "q2")


def test_a_model_that_is_not_asked_to_think_is_refused_before_the_run():
    questions = {"train": [{"name": "a", "path": "a"}]}
    config = parse({"questions": questions, "evaluation": {"reannotate": 5, "trained_methods": ["self_refine"]}})
    thoughts_stage(Subject.BASE).check(config)
    with pytest.raises(ValueError, match=r"put think_on into evaluation\.trained_methods, or give"):
        thoughts_stage(Subject.TRAINED).check(config)
