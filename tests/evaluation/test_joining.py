"""Which question a prediction answers, by id, by text, or not at all."""

import pytest

from mralign.evaluation.joining import in_order, join
from mralign.evaluation.predictions import prediction_of
from mralign.evaluation.predictions_stage import responses_of
from mralign.rows import Mode

QUESTIONS = [
    {"question_id": "nq/1", "dataset": "nq", "question": "Who wrote Emma?"},
    {"question_id": "nq/2", "dataset": "nq", "question": "Who wrote Faust?"},
    {"question_id": "sci/1", "dataset": "sci", "question": "What is ice?"},
]


def said(**value):
    return prediction_of({"response": "x", **value}, place=value.pop("place", "line 1"))


@pytest.mark.parametrize(
    ("value", "question_id"),
    [
        ({"id": "nq/2"}, "nq/2"),
        ({"id": 2}, "nq/2"),
        ({"id": 1, "dataset": "sci"}, "sci/1"),
        ({"question": "who wrote EMMA"}, "nq/1"),
        ({"id": 2, "question": "Q: Who wrote Faust?\nA:"}, "nq/2"),  # a prompt holds its question
        ({"id": 2, "question": "Who wrote Emma?"}, "nq/1"),  # another numbering: the text decides
    ],
)
def test_a_prediction_finds_its_question(value, question_id):
    joined = join([said(**value)], questions=QUESTIONS)
    assert list(joined.by_place) == [(question_id, Mode.OFF, 0)]


@pytest.mark.parametrize("value", [{"id": 9}, {"question": "Who?"}, {}])
def test_what_answers_no_question_is_put_aside(value):
    joined = join([said(**value)], questions=QUESTIONS)
    assert not joined.by_place
    assert len(joined.unmatched) == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"id": 1}, r"line 1: its id is that of 2 questions, \['nq/1', 'sci/1'\]; give `dataset`"),
        ({"id": 2, "question": "Who wrote Ulysses?"}, "line 1: the id '2' is that of another question here"),
    ],
)
def test_what_could_mean_two_questions_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        join([said(**value)], questions=QUESTIONS)


def test_draws_are_numbered_from_0_by_question_and_mode():
    given = [
        said(id=2, draw=5, response="late", mode="off"),
        said(id=2, draw=3, response="early", mode="off"),
        said(id=2, response="<think>t</think>on"),
        said(id="nq/1", response="one", mode="off"),
        said(question="Who wrote Emma?", response="two", mode="off"),
    ]
    found = {place: one.response for place, one in join(given, questions=QUESTIONS).by_place.items()}
    assert found == {
        ("nq/2", Mode.OFF, 0): "early",
        ("nq/2", Mode.OFF, 1): "late",
        ("nq/2", Mode.ON, 0): "<think>t</think>on",
        ("nq/1", Mode.OFF, 0): "one",
        ("nq/1", Mode.OFF, 1): "two",
    }


def test_the_same_draw_twice_is_refused():
    with pytest.raises(ValueError, match="line 9: it is draw 0 of a question, and so is line 4"):
        in_order([said(draw=0, place="line 4"), said(draw=0, place="line 9")])


def test_a_response_that_is_missing_is_a_reject_and_a_mode_that_was_not_asked_for_is_left_out():
    questions = [{**row, "answers": ["x"]} for row in QUESTIONS[:2]]
    given = [said(id=1, response="<think>x</think>x", thought_tokens=7), said(id=2, mode="off")]
    joined = join(given, questions=questions)
    table, rejects = responses_of(joined, questions=questions, modes=[Mode.ON], draws=1)
    (row,) = table.to_pylist()
    assert (row["row_id"], row["answer"], row["thought_tokens"], row["completion_tokens"]) == (
        "nq/1/on/0",
        "x",
        7,
        None,
    )
    assert (row["thought_start"], row["thought_end"], row["invalid"]) == (7, 8, None)
    assert [(one.row_id, one.reason) for one in rejects] == [("nq/2/on/0", "no_prediction")]
