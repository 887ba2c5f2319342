"""Dotted names, patterns, and values as a person writes them."""

import datetime
import json
from decimal import Decimal

import pytest

from mralign.questions.fields import fetch, number_text, texts_of
from mralign.questions.sources import read_batches

RECORD = {
    "answer": {"aliases": ["a", "b"], "value": "v"},
    "output": [{"answer": "x"}, {"provenance": []}, {"answer": ["y", "z"]}],
    "choices": [{"message": {"reasoning_content": "hm", "content": "c"}}, {"message": {"content": "d"}}],
    "answer_1": "one",
    "answer_10": "ten",
    "answer_2": "two",
    "spelled": "{'aliases': ['p', 'q']}",
    "a.b": "literal",
    "a": {"b": "nested"},
    "odd [name]": 1,
    "none": None,
    "deep": [[["w"]]],
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("answer.aliases", ["a", "b"]),
        ("answer.value", "v"),
        ("output[].answer", ["x", "y", "z"]),
        ("output.answer", ["x", "y", "z"]),
        ("output[0].answer", "x"),
        ("output[-1].answer", ["y", "z"]),
        ("output[7].answer", None),
        ("choices[0].message.reasoning_content", "hm"),
        ("choices.0.message.content", "c"),
        ("choices[].message.reasoning_content", ["hm"]),
        ("answer_*", ["one", "two", "ten"]),
        ("spelled.aliases", ["p", "q"]),
        ("a.b", "literal"),
        ("odd [name]", 1),
        ("none", None),
        ("none.x", None),
        ("answer.gone", None),
        ("answer.value.x", None),
        ("gone", None),
        ("gone*", None),
        ("output.gone", None),
    ],
)
def test_a_name_leads_into_objects_and_lists(name, found):
    assert fetch(RECORD, name) == found


def test_a_record_that_is_no_object_has_no_fields():
    assert fetch(["a"], "x") is None
    assert fetch("text", "x") is None
    assert fetch(None, "x") is None


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        (3, ["3"]),
        (3.0, ["3"]),
        (-0.5, ["-0.5"]),
        (0.1, ["0.1"]),
        (1e22, ["1e+22"]),
        (10**20, ["100000000000000000000"]),
        (Decimal("12.50"), ["12.5"]),
        (Decimal("3.0"), ["3"]),
        (True, ["yes", "true"]),
        (False, ["no", "false"]),
        (float("nan"), []),
        (None, []),
        (" ", []),
        (" 3.0 ", ["3.0"]),  # a text stays as it was written
        ("TRUE", ["TRUE"]),
        (datetime.date(1802, 5, 3), ["1802-05-03"]),
        ([1690, "1690", [" a "]], ["1690", "1690", "a"]),
        ({"Value": "v", "Aliases": ["a"]}, ["v", "a"]),
        ({"other": "v"}, None),
        (b"bytes", None),
        ([{"other": 1}], None),
    ],
)
def test_a_value_becomes_what_a_person_would_write(value, texts):
    assert texts_of(value) == texts


def test_numbers_without_end_and_lists_without_bottom_do_no_harm():
    assert number_text(float("inf")) == "inf"
    deep: list = []
    for _ in range(500):
        deep = [deep]
    assert texts_of(deep) is None
    assert fetch({"a": deep}, "a.b") is None


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(1690, ["1690"]), (1690.0, ["1690"]), (True, ["yes", "true"]), ([1, 2], ["1", "2"]), ({"text": ["t"]}, ["t"])],
)
def test_answers_of_any_type_become_texts(tmp_path, answer, expected):
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "q", "answer": answer}) + "\n")
    ((table, rejects),) = read_batches(str(tmp_path / "q.jsonl"), name="s", split="dev", fields={"answers": "answer"})
    assert (table.column("answers").to_pylist(), rejects) == ([expected], [])


def test_several_names_give_all_answers_once_and_the_first_question(tmp_path):
    rows = [
        {"q": "first?", "query": "second?", "answer": "a", "aliases": ["a", "b"]},
        {"query": "other?", "aliases": ["c"], "answer": None},
        {"q": "none?", "answer": "", "aliases": []},
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fields = {"question": ["q", "query"], "answers": ["answer", "aliases"]}
    ((table, rejects),) = read_batches(str(tmp_path / "q.jsonl"), name="s", split="dev", fields=fields)
    assert [(row["question"], row["answers"], row["extra"]) for row in table.to_pylist()] == [
        ("first?", ["a", "b"], "{}"),
        ("other?", ["c"], "{}"),
    ]
    assert [(reject.row_id, reject.reason) for reject in rejects] == [("s/row2", "missing_answers")]


def test_null_is_something_and_absence_is_nothing():
    record = {"a": None, "b": {"c": None}, "d": [{"e": None}, {}]}
    found = [fetch(record, name, default="none") for name in ("a", "b.c", "b.x", "x", "d[].e", "d[0].e", "d[5].e")]
    assert found == [None, None, "none", "none", "none", None, "none"]


def test_a_day_kept_as_a_time_stamp_is_that_day():
    assert texts_of(datetime.datetime(1815, 6, 9)) == ["1815-06-09"]
    assert texts_of(datetime.datetime(1815, 6, 9, 12, 30)) == ["1815-06-09T12:30:00"]
