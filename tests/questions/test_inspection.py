"""A look at a source before anything runs: what is empty, broken or misnamed is told, with its columns and a map."""

import gzip
import json

import pytest

from mralign.config import parse
from mralign.questions.inspection import Yield, check_yield, proposal
from mralign.questions.stage import QUESTIONS_STAGE
from mralign.run.rejects import Reject


def check(path, *, split="train", **settings):
    QUESTIONS_STAGE.check(parse({"questions": {split: [{"name": "mine", "path": str(path), **settings}]}}))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("row", "proposed"),
    [
        (
            {"problem": "q?", "answer": "a"},
            r"Columns found: \['problem', 'answer'\]\. Try fields: \{question: problem\}",
        ),
        ({"question": "q?", "answers": ["a"]}, r"Try fields: \{answers: answers\}"),
        ({"query": "q?", "output": [{"answer": "a"}]}, r"\{question: query, answers: output\[\]\.answer\}"),
        (
            {"Question": "q?", "Answer": {"Aliases": ["a"], "Type": "t"}},
            r"\{question: Question, answers: Answer\.Aliases\}",
        ),
        ({"question": "q?", "answer_0": "a", "answer_1": "b"}, r"Try fields: \{answers: answer_\*\}"),
        ({"utterance": "q?", "possible_answers": "['a']"}, r"\{question: utterance, answers: possible_answers\}"),
        ({"question": "q?", "answer": {"x": 1}}, r"Give `fields`, our names -> the file's"),
        ({"zzz": 1, "yyy": 2}, r"Columns found: \['zzz', 'yyy'\]\. Give `fields`"),
    ],
)
def test_a_misnamed_field_is_told_with_the_columns_and_a_proposal(tmp_path, row, proposed):
    path = write(tmp_path / "q.jsonl", *[row] * 3)
    with pytest.raises(
        ValueError, match=r"questions\.train, source 'mine': .*none of 3 records is a question"
    ) as error:
        check(path)
    assert error.match(proposed)


def test_what_is_proposed_works(tmp_path):
    path = write(tmp_path / "q.jsonl", {"query": "q?", "output": [{"answer": "a"}]})
    check(path, fields={"question": "query", "answers": "output[].answer"})


@pytest.mark.parametrize("name", ["q.jsonl", "q.csv", "q.json"])
def test_an_empty_source_is_an_error(tmp_path, name):
    path = tmp_path / name
    path.write_text("[]" if name == "q.json" else "")
    for split in ("train", "dev", "test"):
        with pytest.raises(ValueError, match=rf"questions\.{split}, source 'mine': .*{name} holds no record"):
            check(path, split=split)


def test_a_header_alone_and_too_many_skipped_records_are_empty(tmp_path):
    (tmp_path / "q.csv").write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"q\.csv holds no record"):
        check(tmp_path / "q.csv")
    path = write(tmp_path / "q.jsonl", {"question": "q?", "answer": "a"})
    with pytest.raises(ValueError, match="holds no record behind the first 5"):
        check(path, skip=5)


def test_a_wrong_delimiter_and_a_broken_file_are_found_before_the_run(tmp_path):
    (tmp_path / "q.csv").write_text("question;answer\nq?;a\n")
    with pytest.raises(ValueError, match=r"\['question;answer'\]\. Give the `delimiter`"):
        check(tmp_path / "q.csv")
    check(tmp_path / "q.csv", delimiter=";")
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(b'{"question": "q?", "answer": "a"}\n' * 9)[:-9])
    with pytest.raises(ValueError, match=r"source 'mine': .*q\.jsonl\.gz' cannot be unpacked"):
        check(tmp_path / "q.jsonl.gz")
    pretty = tmp_path / "array.jsonl"
    pretty.write_text(json.dumps([{"question": "q?", "answer": "a"}], indent=1))
    with pytest.raises(ValueError, match=r"malformed_json.*is the file what its suffix says \(else give `file`"):
        check(pretty)
    check(pretty, file="json")


def test_one_question_among_the_first_records_is_enough(tmp_path):
    bad = [{"question": "q?"}] * 60
    check(write(tmp_path / "q.jsonl", *bad, {"question": "q?", "answer": "a"}))
    path = write(tmp_path / "r.jsonl", *bad, *bad, {"question": "q?", "answer": "a"})
    with pytest.raises(ValueError, match="none of 100 records is a question"):
        check(path)
    check(path, skip=110)


def test_the_limit_is_a_share_of_the_source():
    source = parse({"questions": {"dev": [{"name": "mine", "path": "q.csv"}]}}).questions.dev[0]
    rejects = [Reject("mine/row0", "missing_answers", "no field 'answer'", '{"question": "q?", "reply": "a"}')]
    check_yield(source, Yield(80, {"missing_answers": 20}, rejects), limit=0.2)
    with pytest.raises(ValueError, match=r"21 of 101 records were rejected \(20\.8%\), above run\.reject_limit=0\.2"):
        check_yield(source, Yield(80, {"missing_answers": 21}, rejects), limit=0.2)
    check_yield(source, Yield(1, {"missing_answers": 99}, rejects), limit=1.0)
    with pytest.raises(ValueError, match="none of 50 records is a question"):
        check_yield(source, Yield(0, {"missing_answers": 50}, rejects), limit=1.0)
    assert "Columns found: ['question', 'reply']" in proposal(rejects, source=source)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"answer": 2, "choices": ["lid", "spout", "foot"], "tags": ["a"]}, "such as '2'.*in ['choices']"),
        ({"answer": "C", "choices": "['lid' 'spout' 'foot']"}, "such as 'C'.*in ['choices']"),
        ({"answer": "B", "options": {"A": "lid", "B": "spout"}}, "such as 'B'.*in ['options']"),
        ({"answer": "B", "A": "lid", "B": "spout", "note": "x"}, "such as 'B'.*in ['A', 'B']"),
        ({"answer": 2, "level": 3, "tags": ["x"]}, None),
        ({"answer": "B", "note": "x"}, None),
        ({"answer": 7, "choices": ["lid", "spout"]}, None),
        ({"answer": "spout", "choices": ["lid", "spout"]}, None),
    ],
)
def test_answers_that_name_choices_which_are_not_shown_are_a_warning(tmp_path, caplog, row, told):
    path = write(tmp_path / "q.jsonl", *[{"question": "what?", **row}] * 3)
    with caplog.at_level("WARNING", logger="mralign"):
        check(path)
        assert (told is None) == (caplog.text == "")
        for part in (told or "").split(".*"):
            assert part in caplog.text
        caplog.clear()
        if told and "choices" in row:
            check(path, fields={"choices": "choices"})
    assert caplog.text == ""
