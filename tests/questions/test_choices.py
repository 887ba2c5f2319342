"""Multiple choice: where choices stand in a record, how the answer names one of them, and what is gold."""

import json

import pytest

from mralign.questions.choices import Choices, offered, resolve
from mralign.questions.sources import read_batches

TEXTS = ("lid", "spout", "handle", "foot")


def read(tmp_path, *rows, fields=None, **settings):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps({"question": "what?", **row}) + "\n" for row in rows))
    fields = fields or {"answers": "answer", "choices": "choices"}
    ((table, rejects),) = read_batches(str(path), name="s", split="dev", fields=fields, **settings)
    return table.to_pylist(), rejects


@pytest.mark.parametrize(
    "choices",
    [
        list(TEXTS),
        dict(zip("ABCD", TEXTS, strict=True)),
        {"text": list(TEXTS), "label": ["A", "B", "C", "D"]},
        [{"label": letter, "text": text} for letter, text in zip("ABCD", TEXTS, strict=True)],
        "['lid', 'spout', 'handle', 'foot']",
        "['lid' 'spout' 'handle' 'foot']",
        [f"{letter}. {text}" for letter, text in zip("ABCD", TEXTS, strict=True)],
        [f"({letter}) {text}" for letter, text in zip("ABCD", TEXTS, strict=True)],
    ],
)
@pytest.mark.parametrize("answer", [1, 1.0, "1", "B", "b", "(B)", "B.", "spout", " spout ", "B) spout"])
def test_choices_and_answers_in_every_form_they_come_in(tmp_path, choices, answer):
    (row,), rejects = read(tmp_path, {"choices": choices, "answer": answer})
    assert (row["choices"], row["answers"], rejects) == (list(TEXTS), ["spout", "B", "B) spout"], [])
    assert json.loads(row["extra"]) == {}


def test_columns_hold_a_choice_each_and_blank_ones_at_the_end_are_none(tmp_path):
    rows = [
        {**dict(zip("ABCD", TEXTS, strict=True)), "answer": "D"},
        {"A": "yes", "B": "no", "C": "", "D": None, "answer": "B"},
    ]
    found, rejects = read(tmp_path, *rows, fields={"answers": "answer", "choices": ["A", "B", "C", "D"]})
    assert [row["choices"] for row in found] == [list(TEXTS), ["yes", "no"]]
    assert [row["answers"] for row in found] == [["foot", "D", "D) foot"], ["no", "B", "B) no"]]
    assert rejects == []


def test_labels_of_the_source_name_a_choice_but_letters_are_shown(tmp_path):
    choices = {"text": list(TEXTS), "label": ["1", "2", "3", "4"]}
    (row,), _ = read(tmp_path, {"choices": choices, "answer": "4"}, answer_is="letter")
    assert row["answers"] == ["foot", "D", "D) foot"]


def test_an_answer_that_names_two_choices_is_put_aside_until_it_is_said_what_it_is(tmp_path):
    row = {"choices": ["1", "2", "3", "4"], "answer": "2"}
    found, (reject,) = read(tmp_path, row)
    assert (found, reject.reason) == ([], "ambiguous_answer")
    assert "C by index, B by text" in reject.detail and "answer_is" in reject.detail
    golds = {"text": ["2", "B", "B) 2"], "index": ["3", "C", "C) 3"], "number": ["2", "B", "B) 2"]}
    for reading, expected in golds.items():
        (kept,), _ = read(tmp_path, row, answer_is=reading)
        assert kept["answers"] == expected
    (kept,), _ = read(tmp_path, row | {"answer": 2})  # a number that is none of the texts is an index
    assert kept["answers"] == ["3", "C", "C) 3"]
    _, (reject,) = read(tmp_path, row | {"choices": [1, 2, 3, 4], "answer": 2})
    assert reject.reason == "ambiguous_answer"


@pytest.mark.parametrize(
    ("choices", "answer", "reason"),
    [
        (list(TEXTS), 4, "answer_not_a_choice"),
        (list(TEXTS), -1, "answer_not_a_choice"),
        (list(TEXTS), "E", "answer_not_a_choice"),
        (list(TEXTS), "kettle", "answer_not_a_choice"),
        (list(TEXTS), True, "answer_not_a_choice"),
        (list(TEXTS), None, "missing_answers"),
        (list(TEXTS), [], "missing_answers"),
        (["lid", "spout", "lid"], "lid", "ambiguous_answer"),
        (["lid"], 0, "wrong_type"),
        (["lid", "", "foot"], 0, "wrong_type"),
        (["lid", ["a", "b"]], 0, "wrong_type"),
        ("lid or spout", 0, "wrong_type"),
        ([str(n) for n in range(27)], 0, "wrong_type"),
    ],
)
def test_what_cannot_be_a_question_with_choices_is_a_reject(tmp_path, choices, answer, reason):
    found, rejects = read(tmp_path, {"choices": choices, "answer": answer})
    assert (found, [reject.reason for reject in rejects]) == ([], [reason])


def test_several_right_choices_are_all_gold(tmp_path):
    (row,), _ = read(tmp_path, {"choices": list(TEXTS), "answer": [0, 3]})
    assert row["answers"] == ["lid", "A", "A) lid", "foot", "D", "D) foot"]


def test_a_row_without_choices_is_an_open_question(tmp_path):
    (row,), _ = read(tmp_path, {"answer": "B"})
    assert (row["choices"], row["answers"]) == (None, ["B"])


def test_shuffling_follows_the_id_and_keeps_the_right_one_right(tmp_path):
    rows = [{"id": f"k{n}", "choices": list(TEXTS), "answer": 2} for n in range(40)]
    plain, _ = read(tmp_path, *rows)
    shuffled, _ = read(tmp_path, *rows, shuffle_choices=True)
    other, _ = read(tmp_path, *rows[20:], shuffle_choices=True)
    assert {tuple(row["choices"]) for row in plain} == {TEXTS}
    assert [row["choices"] for row in shuffled[20:]] == [row["choices"] for row in other]
    assert len({tuple(row["choices"]) for row in shuffled}) > 10
    for row in shuffled:
        letter = "ABCD"[row["choices"].index("handle")]
        assert row["answers"] == ["handle", letter, f"{letter}) handle"]


def test_choices_resolve_without_a_file():
    found = offered({"A": "lid", "B": "spout"})
    assert resolve("B", found) == 1 and resolve(0, found) == 0
    with pytest.raises(ValueError, match="names no choice by text"):
        resolve("B", found, reading="text")
    assert Choices(TEXTS, (1,)).shuffled(by="x") == Choices(TEXTS, (1,)).shuffled(by="x")


@pytest.mark.parametrize("marks", [[0, 1, 0, 0], [False, True, False, False], [0.0, 1.0, 0.0, 0.0]])
def test_a_mark_for_each_choice_calls_the_marked_one_right(tmp_path, marks):
    (row,), _ = read(tmp_path, {"choices": list(TEXTS), "answer": marks})
    assert row["answers"] == [TEXTS[1], "B", f"B) {TEXTS[1]}"]


def test_the_numbers_of_columns_are_labels(tmp_path):
    rows = "".join(
        json.dumps({"question": "q", "one": "x", "option1": "lid", "option2": "spout", "answer": a}) + "\n"
        for a in ("1", "2")
    )
    path = tmp_path / "columns.jsonl"
    path.write_text(rows)
    fields = {"answers": "answer", "choices": ["option1", "option2"]}
    ((table, rejects),) = read_batches(str(path), name="s", split="dev", fields=fields)
    assert [row["answers"][0] for row in table.to_pylist()] == ["spout"]
    assert [reject.reason for reject in rejects] == ["ambiguous_answer"]  # "1": the first column, or index 1
    ((table, rejects),) = read_batches(str(path), name="s", split="dev", fields=fields, answer_is="number")
    assert [row["answers"][0] for row in table.to_pylist()] == ["lid", "spout"]


def test_a_full_width_letter_names_a_choice(tmp_path):
    (row,), _ = read(tmp_path, {"choices": list(TEXTS), "answer": "Ｂ"})
    assert row["answers"][0] == TEXTS[1]
