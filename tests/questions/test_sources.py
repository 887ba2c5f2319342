import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.questions.sources import read_batches
from mralign.rejects import to_table
from mralign.schema import QUESTIONS


def read_questions(path, *, name="set", split="train", fields=(), rows=3, **arguments):
    """All batches of a source in one table, and the rejects."""
    batches = list(read_batches(str(path), name=name, split=split, fields=dict(fields), rows=rows, **arguments))
    assert all(table.num_rows + len(rejects) <= rows for table, rejects in batches)
    tables = [QUESTIONS.empty_table(), *(table for table, _ in batches)]
    return pa.concat_tables(tables).combine_chunks(), [reject for _, rejects in batches for reject in rejects]


def read(path, **fields):
    return read_questions(path, fields=fields)


def write_jsonl(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_jsonl_rows_become_questions(tmp_path):
    path = write_jsonl(
        tmp_path / "q.jsonl",
        {"answer": ["14\u00a0December 1972 ", " "], "question": " who? ", "level": {"x": 1}},
        {"question": "when?", "answer": "1690", "key": 7},
    )
    questions, rejects = read(path, answers="answer", id="key")
    assert rejects == []
    assert questions.schema == QUESTIONS
    assert questions.to_pylist() == [
        {
            "question_id": "set/0",
            "dataset": "set",
            "split": "train",
            "question": "who?",
            "answers": ["14\u00a0December 1972"],
            "extra": '{"level": {"x": 1}}',
        },
        {
            "question_id": "set/7",
            "dataset": "set",
            "split": "train",
            "question": "when?",
            "answers": ["1690"],
            "extra": "{}",
        },
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q", "answers": ["a"]\n', "malformed_json"),
        ("[" * 100_000 + "\n", "malformed_json"),
        ('["q", "a"]\n', "wrong_type"),
        ({"answers": ["a"]}, "missing_question"),
        ({"question": " \u00a0", "answers": ["a"]}, "missing_question"),
        ({"question": 5, "answers": ["a"]}, "wrong_type"),
        ({"question": "q"}, "missing_answers"),
        ({"question": "q", "answers": None}, "missing_answers"),
        ({"question": "q", "answers": []}, "missing_answers"),
        ({"question": "q", "answers": ["", " "]}, "missing_answers"),
        ({"question": "q", "answers": [1690]}, "wrong_type"),
        ({"question": "q", "answers": 1690}, "wrong_type"),
        ({"question": "q", "answers": {"a": 1}}, "wrong_type"),
        ({"question": "q", "answers": ["a"], "id": True}, "wrong_type"),
        ({"question": "half \ud83d", "answers": ["a"]}, "wrong_type"),
    ],
)
def test_a_malformed_row_is_a_reject_with_its_raw_text(tmp_path, line, reason):
    good = {"question": "good", "answers": ["a"], "id": "good"}
    path = write_jsonl(tmp_path / "q.jsonl", good, line, {"question": "later", "answers": "b"})
    questions, rejects = read(path)
    assert questions.column("question_id").to_pylist() == ["set/good", "set/2"]
    (reject,) = rejects
    assert (reject.row_id, reject.reason) == ("set/row1", reason)
    assert reject.raw == (line if isinstance(line, str) else json.dumps(line)).rstrip("\n")
    assert to_table(rejects).num_rows == 1


def test_jsonl_bytes_bom_crlf_blank_lines_and_bad_utf8(tmp_path):
    path = tmp_path / "q.jsonl"
    separator = "\u2028".encode()  # a line separator to str.splitlines, a character inside a JSON text
    path.write_bytes(
        b'\xef\xbb\xbf{"question": "a", "answers": "1"}\r\n\r\n'
        b'{"question": "b' + separator + b'c", "answers": "2"}\n'
        b'{"question": "caf\xe9", "answers": "3"}\n'
    )
    questions, rejects = read(path)
    assert questions.column("question").to_pylist() == ["a", "b\u2028c"]
    assert [(r.row_id, r.reason, r.raw) for r in rejects] == [
        ("set/row2", "malformed_json", '{"question": "caf\ufffd", "answers": "3"}')
    ]


def test_csv_keeps_digits_none_and_newlines_as_text(tmp_path):
    path = tmp_path / "q.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["problem", "answer", "metadata"], ["q0", "007", "{'a': 1}"], ["q1", "none", ""]])
        writer.writerows([["q2", "two\nlines", ""], ["q3", "", ""], ["q4", "a", "", "cell too many"], ["q5"]])
    questions, rejects = read(path, question="problem", answers="answer")
    assert questions.column("answers").to_pylist() == [["007"], ["none"], ["two\nlines"]]
    assert questions.column("question_id").to_pylist() == ["set/0", "set/1", "set/2"]
    assert json.loads(questions.column("extra")[0].as_py()) == {"metadata": "{'a': 1}"}
    assert [(r.row_id, r.reason) for r in rejects] == [
        ("set/row3", "missing_answers"),
        ("set/row4", "malformed_csv"),
        ("set/row5", "missing_answers"),
    ]
    assert '"q4"' in rejects[1].raw


def test_csv_faults_stay_in_their_rows(tmp_path):
    path = tmp_path / "q.csv"
    path.write_bytes(b"question,answers\ncaf\xe9,1\n" + b"x" * (csv.field_size_limit() + 1) + b",2\nlast,3\n")
    questions, rejects = read(path)
    assert questions.column("question").to_pylist() == ["last"]
    assert [r.reason for r in rejects] == ["wrong_type", "malformed_csv"]
    assert to_table(rejects).num_rows == 2


def test_parquet_and_json_array_agree_with_jsonl(tmp_path):
    rows = [{"id": 3, "question": "q", "answers": ["a", "b"], "n": 1}, {"id": 4, "question": None, "answers": []}]
    jsonl = write_jsonl(tmp_path / "q.jsonl", *rows)
    (tmp_path / "My Folder").mkdir()
    array = tmp_path / "My Folder" / "q.json"
    array.write_text(json.dumps(rows), encoding="utf-8-sig")
    parquet = tmp_path / "q.parquet"
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    first, rejects = read(jsonl)
    assert first.num_rows == 1
    for path in (array, parquet, tmp_path.as_uri() + "/q.parquet"):
        again, same = read(path)
        assert again == first
        assert [(r.row_id, r.reason) for r in same] == [(r.row_id, r.reason) for r in rejects]


def test_limit_counts_records_of_the_file(tmp_path):
    path = write_jsonl(
        tmp_path / "q.jsonl", {"question": "a", "answers": "1"}, "{\n", {"question": "b", "answers": "2"}
    )
    questions, rejects = read_questions(str(path), name="set", split="dev", fields={}, limit=2)
    assert (questions.num_rows, len(rejects)) == (1, 1)
    assert questions.column("split").to_pylist() == ["dev"]


def test_wrong_arguments_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl.*does not exist.*give a local path or a URI"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"'\.txt'.*\.jsonl, \.json, \.csv, \.parquet"):
        read(tmp_path / "q.txt")
    path = write_jsonl(tmp_path / "q.jsonl", {"question": "a", "answers": "1"})
    with pytest.raises(ValueError, match=r"\['answer'\].*allowed are"):
        read(path, answer="answer")
    with pytest.raises(ValueError, match="must not be empty or hold a '/'"):
        read_questions(str(path), name="hub/set", split="train", fields={})
    with pytest.raises(ValueError, match="limit 0"):
        read_questions(str(path), name="set", split="train", fields={}, limit=0)
    for name, content in (("bad.json", "{"), ("object.json", "{}"), ("bad.parquet", "no")):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=name):
            read(tmp_path / name)
