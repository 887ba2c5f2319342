"""Plain files, read as streams: what becomes a question, what is put aside, how much memory it takes."""

import csv
import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mralign.questions.sources import check_source, read_batches
from mralign.rows.schema import QUESTIONS
from mralign.run.rejects import to_table


def read(path, *, name="set", split="train", fields=None, **arguments):
    """All batches as one table and one list of rejects."""
    batches = list(read_batches(str(path), name=name, split=split, fields=fields or {}, **arguments))
    return pa.concat_tables([QUESTIONS.empty_table(), *(table for table, _ in batches)]).combine_chunks(), [
        reject for _, rejects in batches for reject in rejects
    ]


def write_jsonl(path, *lines):
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_jsonl_rows_become_questions(tmp_path):
    path = write_jsonl(
        tmp_path / "q.jsonl",
        {"answer": ["14\u00a0December 1972 ", " "], "question": " who? ", "level": {"x": 1}},
        {"question": "when?", "answer": "1690", "key": 7},
    )
    questions, rejects = read(path, fields={"answers": "answer", "id": "key"})
    assert rejects == []
    assert questions.schema == QUESTIONS
    assert questions.to_pylist() == [
        {
            "question_id": "set/0",
            "dataset": "set",
            "split": "train",
            "question": "who?",
            "answers": ["14\u00a0December 1972"],
            "choices": None,
            "extra": '{"level": {"x": 1}}',
        },
        {
            "question_id": "set/7",
            "dataset": "set",
            "split": "train",
            "question": "when?",
            "answers": ["1690"],
            "choices": None,
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
        ({"question": "q", "answers": [float("nan"), None]}, "missing_answers"),
        ({"question": "q", "answers": [["a"], {"b": 1}]}, "wrong_type"),
        ({"question": "q", "answers": ["\u200b", "\u00ad\ufeff"]}, "unmatchable_answers"),
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


def test_answers_that_normalisation_empties_are_kept(tmp_path):
    lines = [{"question": "q", "answers": answers} for answers in (["A"], ["+"], ["The The"], ["\u200b", "x"])]
    table, rejects = read(write_jsonl(tmp_path / "q.jsonl", *lines))
    assert table.column("answers").to_pylist() == [line["answers"] for line in lines] and rejects == []


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
    questions, rejects = read(path, fields={"question": "problem", "answers": "answer"})
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
    lines = ({"question": "a", "answers": "1"}, "{\n", {"question": "b", "answers": "2"})
    path = write_jsonl(tmp_path / "q.jsonl", *lines)
    questions, rejects = read(path, split="dev", limit=2)
    assert (questions.num_rows, len(rejects)) == (1, 1)
    assert questions.column("split").to_pylist() == ["dev"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_batches_hold_at_most_so_many_records_and_together_the_file(tmp_path, suffix):
    rows = [{"question": f"q{n}", "answers": "" if n % 3 == 1 else f"a{n}"} for n in range(8)]
    path = tmp_path / f"q.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, *rows)
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    elif suffix == "csv":
        path.write_text("question,answers\n" + "".join(f"{r['question']},{r['answers']}\n" for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=5)
    batches = list(read_batches(str(path), name="set", split="test", fields={}, rows=3))
    assert [[row["question"] for row in table.to_pylist()] for table, _ in batches] == [
        ["q0", "q2"],
        ["q3", "q5"],
        ["q6"],
    ]
    assert [[(r.row_id, r.reason) for r in rejects] for _, rejects in batches] == [
        [("set/row1", "missing_answers")],
        [("set/row4", "missing_answers")],
        [("set/row7", "missing_answers")],
    ]
    assert batches[2][0].column("question_id").to_pylist() == ["set/6"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_an_empty_file_has_no_batches(tmp_path, suffix):
    path = tmp_path / f"q.{suffix}"
    path.touch()
    assert list(read_batches(str(path), name="set", split="train", fields={})) == []


def test_a_csv_without_a_readable_header_is_refused_whole(tmp_path):
    path = tmp_path / "q.csv"
    path.write_text("x" * (csv.field_size_limit() + 1) + "\nquestion,answers\n")
    with pytest.raises(ValueError, match=r"q\.csv.*no readable CSV header"):
        read(path)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_one_file_can_be_two_data_sets_that_share_no_record(tmp_path, suffix):
    rows = [{"question": f"q{n}", "answers": "" if n == 4 else f"a{n}"} for n in range(7)]
    path = tmp_path / f"q.{suffix}"
    if suffix == "jsonl":
        write_jsonl(path, *rows)
    elif suffix == "csv":
        path.write_text("question,answers\n" + "".join(f"{r['question']},{r['answers']}\n" for r in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    first, none = read(path, name="first", limit=3)
    second, rejects = read(path, name="second", skip=3, limit=3, rows=2)
    rest, _ = read(path, name="rest", skip=6)
    assert first.column("question").to_pylist() == ["q0", "q1", "q2"]
    assert none == []
    # A record keeps its number in the file, so that its id does not depend on where the file is cut.
    assert second.column("question_id").to_pylist() == ["second/3", "second/5"]
    assert second.column("question").to_pylist() == ["q3", "q5"]
    assert [(reject.row_id, reject.reason) for reject in rejects] == [("second/row4", "missing_answers")]
    assert rest.column("question_id").to_pylist() == ["rest/6"]
    assert read(path, skip=7)[0].num_rows == 0


def test_a_sample_comes_from_everywhere_and_is_always_the_same(tmp_path):
    path = tmp_path / "q.jsonl"
    write_jsonl(path, *({"question": f"q{n}", "answers": "a"} for n in range(400)))
    numbers = [int(name.removeprefix("set/")) for name in read(path, sample=40)[0].column("question_id").to_pylist()]
    assert numbers == sorted(set(numbers)) and len(numbers) == 40
    by_quarter = [sum(n // 100 == quarter for n in numbers) for quarter in range(4)]
    assert min(by_quarter) >= 4  # 10 expected; fewer than 4 in one of them has a probability below .02, and is fixed
    again = read(path, sample=20, name="other")[0].column("question_id").to_pylist()
    assert {int(name.removeprefix("other/")) for name in again} < set(numbers)  # a smaller sample lies in a larger one
    cut = read(path, skip=100, limit=50, sample=10)[0].column("question").to_pylist()
    assert len(cut) == 10 and {f"q{n}" for n in range(100, 150)} > set(cut)
    assert read(path, sample=1000)[0].num_rows == 400


@pytest.fixture
def server(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def test_files_are_read_over_http(tmp_path, server):
    rows = [{"question": f"q{n}", "answers": "a" * 1000} for n in range(3000)]  # 3 MB: several buffers
    local = write_jsonl(tmp_path / "q.jsonl", *rows)
    with (tmp_path / "q.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answers"])
        writer.writeheader()
        writer.writerows(rows)
    expected = read(local)
    assert expected[0].num_rows == 3000
    assert read(f"{server}/q.jsonl?token=1") == expected
    assert read(f"{server}/q.csv") == expected
    with pytest.raises(ValueError, match=r"none\.jsonl' does not exist"):
        read(f"{server}/none.jsonl")


# VmHWM, not ru_maxrss: that one starts at the size of the process that forked.
_CHILD = """
import re, sys
from mralign.questions.sources import read_batches
batches = read_batches(sys.argv[1], name="set", split="train", fields={}, rows=2000)
print(sum(table.num_rows for table, _ in batches), re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.parametrize(
    "suffix", [*(pytest.param(one, marks=pytest.mark.long) for one in ("jsonl", "csv")), "parquet"]
)
def test_memory_is_bounded_by_the_batch_not_by_the_file(tmp_path, suffix):
    peaks = {}
    for rows in (40_000, 400_000):
        path = tmp_path / f"{rows}.{suffix}"
        records = ({"id": f"key-{n}", "question": f"question {n} " + "x" * 200, "answers": "a"} for n in range(rows))
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(list(records)), path, row_group_size=20_000)
        else:
            with path.open("w") as file:
                file.write("id,question,answers\n" if suffix == "csv" else "")
                file.writelines(
                    ",".join(r.values()) + "\n" if suffix == "csv" else json.dumps(r) + "\n" for r in records
                )
        done = subprocess.run([sys.executable, "-c", _CHILD, str(path)], capture_output=True, text=True, check=True)
        read_rows, peaks[rows] = map(int, done.stdout.split())  # the second in KiB
        assert read_rows == rows
    assert peaks[400_000] - peaks[40_000] < 40 * 1024, f"peak KiB by rows: {peaks}"  # the larger file: 100 MB


def check(path, *, name="set", split="test", format="auto", fields=None):
    check_source(str(path), name=name, split=split, format=format, fields=fields or {})


def test_wrong_arguments_say_what_to_do(tmp_path):
    path = write_jsonl(tmp_path / "q.jsonl", {"question": "a", "answers": "1"})
    check(path)
    with pytest.raises(ValueError, match=r"nowhere\.jsonl.*does not exist.*give a local path or a URI"):
        check(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match=r"'\.txt'.*\.jsonl, \.json, \.csv, \.parquet"):
        check(tmp_path / "q.txt")
    with pytest.raises(ValueError, match=r"\['answer'\].*allowed are"):
        check(path, fields={"answer": "answer"})
    with pytest.raises(ValueError, match="must not be empty or hold a '/'"):
        check(path, name="hub/set")
    with pytest.raises(ValueError, match=r"split 'valid'.*allowed are train, dev, test"):
        check(path, split="valid")
    with pytest.raises(ValueError, match=r"format 'squad'.*nq_open, sciq, simpleqa, truthfulqa, longfact"):
        check(path, format="squad")
    with pytest.raises(ValueError, match=r"FActScore source .* has no gold answers.*questions.dev or questions.test"):
        check(path, format="factscore", split="train")
    check(path, format="factscore")
    with pytest.raises(ValueError, match=r"'nq_open' has its own field names.*'problem'"):
        check(path, format="nq_open", fields={"question": "problem"})
    with pytest.raises(ValueError, match=r"'\.jsonl'; allowed are \.csv for format 'simpleqa'"):
        check(path, format="simpleqa")
    with pytest.raises(ValueError, match=r"zzz://.*allowed are local paths"):
        check("zzz://somewhere/q.jsonl")
    for wrong in ({"limit": 0}, {"sample": 0}, {"rows": 0}, {"skip": -1}, {"name": "a/b"}):
        with pytest.raises(
            ValueError, match=r"limit 0|sample 0|rows 0|skip -1|hold a '/'"
        ):  # before the first batch is asked for
            read_batches(str(path), **{"name": "set", "split": "test", "fields": {}, **wrong})


@pytest.mark.parametrize(("name", "content"), [("bad.json", "{"), ("object.json", "{}"), ("bad.parquet", "no")])
def test_a_file_that_is_not_of_its_format_is_refused_by_name(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)
