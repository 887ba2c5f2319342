"""Trajectories as the page shows them: gold answers, sides, outcomes, shelves."""

import json

import pytest

from mralign.report.blocks import to_script
from mralign.report.gold_marks import gold_spans, pieces
from mralign.report.record_shelves import moves_of, shelve
from mralign.report.trajectory_records import (
    LONGEST,
    Found,
    ShownSide,
    ShownStep,
    TrajectoryRecord,
    evaluated_side,
    outcome_of,
    rejected_record,
    training_record,
)


@pytest.mark.parametrize(
    ("text", "answers", "marked"),
    [
        ("It was Dawkins, Richard Dawkins!", ["Richard Dawkins", "Dawkins"], ["Dawkins", "Richard Dawkins"]),
        ("the party of art", ["art"], ["art"]),  # on token boundaries only
        ("In the  United\nStates of America.", ["United States"], ["United\nStates"]),
        ("(the) “Beatles” sang", ["The Beatles"], ["Beatles"]),  # articles and punctuation are not of the answer
        ("says DAWKINS's book", ["dawkins"], []),  # dawkinss is another token, as for EM
        ("巴黎在法国", ["巴黎"], ["巴黎"]),  # no spaces: each character is a token
        ("nothing here", ["gold"], []),
        ("A is right", ["A"], []),
    ],
)
def test_gold_answers_are_marked_where_they_stand(text, answers, marked):
    spans = gold_spans(text, answers)
    assert [text[start:end] for start, end in spans] == marked


def test_pieces_are_the_text_again_and_every_second_is_gold():
    text = "one Paris two Paris three"
    spans = gold_spans(text, ["Paris"])
    assert pieces(text, spans, start=0, end=len(text)) == ["one ", "Paris", " two ", "Paris", " three"]
    assert pieces(text, spans, start=6, end=16) == ["", "ris", " two ", "Pa", ""]  # a span that reaches over both ends
    assert pieces(text, [], start=4, end=9) == ["Paris"]


def row(text, *, start=-1, end=-1, **more):
    return {
        "row_id": "q/1/on/0",
        "question_id": "q/1",
        "dataset": "q",
        "question": "Where?",
        "answers": ["Paris"],
        "text": text,
        "thought_start": start,
        "thought_end": end,
        "polarity": 1,
        "em_thought": True,
        "em_answer": True,
        "method": "mralign",
        "invalid": None,
        "completion_tokens": 9,
        **more,
    }


THOUGHT = "<think>Where?\n\nParis it is.\n\nYes.</think>Paris"


def test_a_training_trajectory_has_its_steps_opinions_weights_and_token_counts():
    said = row(THOUGHT, start=7, end=THOUGHT.index("</think>"))
    steps = [
        {"first_segment": 0, "last_segment": 1, "labels": ["framing"], "rule": "intersection"}
        | {"labels_a": ["framing", "retrieval"], "confidences_a": [9.0, 6.5], "labels_b": ["framing"]},
        {"first_segment": 2, "last_segment": 2, "labels": ["analogy"], "confidences": [8.0], "rule": "adjudicated"}
        | {"labels_a": [], "labels_b": None},
    ]
    found = Found(steps, [2.0, 1.0], [0, 0, 0, 1, -1, -1])
    record = training_record(said, found=found, names=("gpt", "deep", "judge"), closing="</think>")
    first, second = record.sides[0].steps
    assert first.segments == [["Where?"], ["", "Paris", " it is."]]
    assert (first.weight, first.tokens, second.weight, second.tokens) == (2.0, 3, 1.0, 1)
    assert [(one.who, one.labels) for one in first.opinions] == [
        ("gpt", [("framing", 9.0), ("retrieval", 6.5)]),
        ("deep", [("framing", None)]),
    ]
    assert [(one.who, one.labels) for one in second.opinions] == [("gpt", []), ("judge", [("analogy", 8.0)])]
    assert record.sides[0].answer == ["", "Paris", ""]
    assert record.outcome == "positive"


def test_an_evaluated_side_without_a_thought_shows_its_whole_text():
    said = row("It is <b>Paris</b>", invalid="no_thought", em_answer=False)
    score = {"em_thought": False, "em_answer": False, "mis": None}
    side = evaluated_side(said, score=score, role="trained", found=Found(), names=(), closing="</think>")
    assert "".join(side.answer) == "It is <b>Paris</b>" and not side.steps
    assert (side.invalid, side.verdict) == ("no_thought", {"thought holds gold": False, "answer right": False})


def test_a_response_that_judges_scored_has_their_verdicts():
    score = {
        "row_id": "q",
        "em_answer": None,
        "truthful": True,
        "informative": False,
        "f1_at_k": 0.12345,
        "claims": None,
    }
    side = evaluated_side(row("No."), score=score, role="base", found=Found(), names=(), closing="</think>")
    assert side.verdict == {"truthful": True, "informative": False, "f1 at k": 0.123}


def test_a_very_long_text_is_cut_and_says_so():
    text = "<think>" + "x" * (LONGEST + 1000) + "</think>Paris"
    said = row(text, start=7, end=text.index("</think>"))
    side = training_record(said, found=Found(), names=(), closing="</think>").sides[0]
    assert side.cut == len(text) - LONGEST
    assert sum(len(piece) for piece in side.steps[0].segments[0]) == LONGEST - 7
    assert side.answer == [""]
    raw = {"row_id": "r", "raw": "y" * (LONGEST + 5), "dataset": "d", "polarity": None, "reason": "odd", "detail": ""}
    assert rejected_record(raw, stage="questions").sides[0].cut == 5


@pytest.mark.parametrize(
    ("before", "after", "outcome"),
    [
        *[(0.0, 1.0, "won"), (1.0, 0.0, "lost"), (1.0, 1.0, "kept"), (0.0, 0.0, "missed")],
        *[(0.25, 0.5, "won"), (0.5, 0.25, "lost"), (None, 1.0, "right"), (0.0, None, "wrong")],
        (None, None, "not scored"),
    ],
)
def test_the_outcome_of_a_question_is_what_training_changed(before, after, outcome):
    assert outcome_of(before, after) == outcome


def test_moves_go_from_start_over_every_pair_of_neighbouring_labels_to_stop():
    assert moves_of([("a", "b"), ("c",)]) == {
        *[("<start>", "a"), ("<start>", "b"), ("a", "c"), ("b", "c")],
        ("c", "<stop>"),
    }
    assert moves_of([]) == set()


def labelled(number, *, text="t"):
    steps = [ShownStep([[text]], ["framing"]), ShownStep([[text]], []), ShownStep([[text]], ["retrieval"])]
    return TrajectoryRecord(
        f"q/{number}", "training", "q", "positive", question=f"no {number}", sides=[ShownSide("m", "base", steps, [""])]
    )


def test_shelves_hold_every_record_once_and_their_index_says_where():
    shelves = shelve((labelled(number, text="x" * 200) for number in range(7)), chunk_bytes=2000)
    assert len(shelves.chunks) > 2
    stored = [json.loads(chunk) for chunk in shelves.chunks]
    columns, names = shelves.index["columns"], shelves.index["names"]
    assert [record["row_id"] for chunk in stored for record in chunk] == columns["id"] == [f"q/{i}" for i in range(7)]
    assert [len(chunk) for chunk in stored] == [columns["chunk"].count(i) for i in range(len(stored))]
    assert all(len(chunk) <= 2000 or len(json.loads(chunk)) == 1 for chunk in shelves.chunks)
    moves = {(names["labels"][a], names["labels"][b]) for a, b in zip(*[iter(columns["moves"][0])] * 2, strict=True)}
    assert moves == {("<start>", "framing"), ("framing", "retrieval"), ("retrieval", "<stop>")}
    assert [names["labels"][code] for code in columns["labels"][0]] == ["framing", "retrieval"]


def test_a_row_id_that_comes_twice_gets_two_anchors():
    assert shelve([labelled(1), labelled(1), labelled(2)]).index["columns"]["id"] == ["q/1", "q/1~2", "q/2"]


HOSTILE = "</script><!--\u202e\x00\x1b[31m\ud800\u2028&'\"" + "a" * 10


def test_a_script_is_ascii_and_holds_nothing_that_html_knows():
    text = to_script({"a": [HOSTILE, float("nan"), float("inf"), 1.5], HOSTILE: None})
    assert text.isascii() and not set("<>&\n\r") & set(text)
    assert json.loads(text) == {"a": [HOSTILE, None, None, 1.5], HOSTILE: None}
