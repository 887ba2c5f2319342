"""Layouts of files: packings, encodings, separators, headers, documents; and how a broken file is told."""

import bz2
import csv
import gzip
import json
import lzma

import pyarrow as pa
import pytest

from mralign.questions import streams
from mralign.questions.records import Layout, Record, read_records
from mralign.questions.sources import check_source, read_batches

ROWS = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CELLS = b"question,answer\nq0,a0\nq1,a1\nq2,a2\n"


def zstd(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKINGS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}


def values(path, **layout):
    return [record.value for record in read_records(str(path), Layout(**layout))]


def write(path, data):
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


@pytest.mark.parametrize("packing", list(PACKINGS))
@pytest.mark.parametrize(("suffix", "data"), [(".jsonl", LINES), (".csv", CELLS), (".json", json.dumps(ROWS).encode())])
def test_a_packed_file_is_read_like_the_plain_one(tmp_path, packing, suffix, data):
    path = write(tmp_path / f"q{suffix}{packing}", PACKINGS[packing](data))
    assert values(path) == ROWS
    check_source(str(path), name="s", split="dev", fields={})


@pytest.mark.parametrize("packing", list(PACKINGS))
def test_two_packed_pieces_one_after_the_other_are_one_file(tmp_path, packing):
    first, rest = LINES.splitlines(keepends=True)[:1], LINES.splitlines(keepends=True)[1:]
    pack = PACKINGS[packing]
    path = write(tmp_path / f"q.jsonl{packing}", pack(b"".join(first)) + pack(b"".join(rest)))
    assert values(path) == ROWS


@pytest.mark.parametrize("packing", list(PACKINGS))
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_a_packed_file_that_is_cut_or_is_none_is_an_error_with_its_name(tmp_path, packing, suffix):
    many = "".join(json.dumps({"question": f"{n * n * 7919}?", "answer": str(n)}) + "\n" for n in range(20_000))
    packed = PACKINGS[packing](many.encode())
    for name, data in (("cut", packed[: len(packed) // 2]), ("none", LINES)):
        path = write(tmp_path / f"{name}{suffix}{packing}", data)
        with pytest.raises(ValueError, match=rf"{name}{suffix}{packing}' cannot be unpacked"):
            values(path)
    line = read_until_error(tmp_path / f"cut{suffix}{packing}") if suffix == ".jsonl" else ""
    assert suffix != ".jsonl" or "after line" in line


def read_until_error(path):
    try:
        for _ in read_records(str(path)):
            pass
    except ValueError as error:
        return str(error)
    raise AssertionError("no error")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "gb18030", "cp1252"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json", ".tsv"])
def test_other_encodings_are_read_by_their_mark_or_by_name(tmp_path, encoding, suffix):
    row = {"question": "où est le thé\u00a0?", "answer": "là"}
    if encoding == "gb18030":
        row = {"question": "壶在哪里？", "answer": "盖山"}
    mark = "," if suffix == ".csv" else "\t"
    document = json.dumps([row] if suffix == ".json" else row, ensure_ascii=False)
    table = f"question{mark}answer\n{row['question']}{mark}{row['answer']}\n"
    text = table if suffix in (".csv", ".tsv") else document
    path = write(tmp_path / f"q{suffix}", text.encode(encoding))
    named = {} if encoding in ("utf-8-sig", "utf-16") else {"encoding": encoding}
    assert values(path, **named) == [row]


def test_a_byte_that_is_not_of_the_encoding_costs_its_record_only(tmp_path):
    path = write(tmp_path / "q.jsonl", '{"question": "a", "answers": "1"}\n'.encode("utf-16-le"))
    ((table, rejects),) = read_batches(str(path), name="s", split="dev", fields={}, encoding="utf-16-le")
    assert (table.num_rows, rejects) == (1, [])
    path = write(
        tmp_path / "g.csv", "question,answers\n壶,1\n".encode("gb18030") + b"\xff\xff,2\n" + "盖,3\n".encode("gb18030")
    )
    ((table, rejects),) = read_batches(str(path), name="s", split="dev", fields={}, encoding="gb18030")
    assert table.column("question").to_pylist() == ["壶", "盖"]
    assert [(reject.row_id, reject.reason) for reject in rejects] == [("s/row1", "wrong_type")]
    with pytest.raises(ValueError, match="encoding 'utf-9' is not known"):
        check_source(str(path), name="s", split="dev", fields={}, encoding="utf-9")


def test_separators_quotes_and_missing_headers(tmp_path):
    assert values(write(tmp_path / "a.csv", "question;answer\nwhat, if any?;1\n"), delimiter=";") == [
        {"question": "what, if any?", "answer": "1"}
    ]
    assert values(write(tmp_path / "b.tsv", 'question\tanswer\n"a\tb"\t1\n')) == [{"question": "a\tb", "answer": "1"}]
    assert values(write(tmp_path / "c.tsv", 'question\tanswer\n"Heroes" by?\tB\n"open\tC\n'), quotes=False) == [
        {"question": '"Heroes" by?', "answer": "B"},
        {"question": '"open', "answer": "C"},
    ]
    assert values(write(tmp_path / "d.csv", "q0,a0\n\nq1,a1\n"), columns=("question", "answer")) == ROWS[:2]
    assert values(write(tmp_path / "e.csv", "question , answer\nq0,a0\n")) == ROWS[:1]
    assert values(write(tmp_path / "f.txt", CELLS), file="csv") == ROWS
    assert values(write(tmp_path / "g.ndjson", LINES)) == ROWS


def test_lines_before_the_header_are_skipped_by_number_or_by_the_name_of_a_column(tmp_path):
    path = write(tmp_path / "q.csv", '"A note, in\ntwo lines",\n,\nid,question,answer\n1,q0,a0\n')
    expected = [{"id": "1", "question": "q0", "answer": "a0"}]
    assert values(path, skip_lines=3) == expected
    assert values(path, header=("question",)) == expected
    (record,) = read_records(str(path), Layout(skip_lines=3))
    assert record.line == 5
    with pytest.raises(ValueError, match=r"q\.csv': none of the first 4 rows names a column problem"):
        values(path, header=("problem",))
    assert values(write(tmp_path / "q.jsonl", b"# a note\n" + LINES), skip_lines=1) == ROWS


def test_documents_of_several_shapes(tmp_path):
    nested = {"version": 1, "data": [{"paragraphs": [{"qas": ROWS[:2]}]}, {"paragraphs": [{"qas": ROWS[2:]}]}]}
    path = write(tmp_path / "squad.json", json.dumps(nested))
    assert values(path, records="data[].paragraphs[].qas") == ROWS
    with pytest.raises(ValueError, match=r"squad\.json' holds an object.*its lists are \['data'\].*`records`"):
        values(path)
    with pytest.raises(ValueError, match=r"squad\.json' holds an object, and records='Data' leads to no list"):
        values(path, records="Data")
    assert values(write(tmp_path / "array.json", json.dumps(ROWS)), records="Data") == ROWS
    assert values(write(tmp_path / "lines.json", LINES)) == ROWS
    broken = list(read_records(str(write(tmp_path / "lines2.json", LINES + b"{\n"))))
    assert [record.line for record in broken] == [1, 2, 3, 4]
    assert broken[3].fault is not None and "line 4" in str(broken[3].fault)
    with pytest.raises(ValueError, match=r"cut\.json' is not valid JSON.*line 1 column"):
        values(write(tmp_path / "cut.json", json.dumps(ROWS)[:-3]))


def test_faults_of_records_name_their_line(tmp_path):
    path = write(tmp_path / "q.jsonl", b'\n{"question": "a"}\n\n{"question": \n')
    good, bad = read_records(str(path))
    assert (good.line, bad.line) == (2, 4)
    assert str(bad.fault).startswith("line 4: ")
    path = write(tmp_path / "q.csv", 'question,answer\n"two\nlines",1\na,b,c\n')
    good, bad = read_records(str(path))
    assert (good.line, bad.line, str(bad.fault)) == (2, 4, "line 4: 1 cells more than the header has")


def test_very_long_lines_and_cells_are_read(tmp_path):
    long = "x" * 3_000_000
    assert values(write(tmp_path / "q.csv", f'question,answer\n"{long}",1\n')) == [{"question": long, "answer": "1"}]
    assert values(write(tmp_path / "q.jsonl", json.dumps({"question": long}) + "\n")) == [{"question": long}]
    open_quote = 'question,answer\n"' + "x\n" * (csv.field_size_limit() // 2 + 10)
    (record,) = list(read_records(str(write(tmp_path / "open.csv", open_quote))))[:1]
    assert isinstance(record, Record) and record.fault is not None and "line 2" in str(record.fault)


def test_a_packed_parquet_file_is_refused_before_it_is_read(tmp_path):
    path = write(tmp_path / "q.parquet.gz", gzip.compress(b"PAR1"))
    with pytest.raises(ValueError, match="packed Parquet file cannot be read piece by piece; unpack it"):
        check_source(str(path), name="s", split="dev", fields={})


# A packed file of kilobytes may hold terabytes: here limits of a few bytes stand for those of the real ones.
@pytest.mark.parametrize("name", ["q.jsonl.gz", "q.csv.gz", "q.tsv.gz", "q.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_line_without_end_ends_the_file_not_the_memory(tmp_path, monkeypatch, name, encoding):
    monkeypatch.setattr(streams, "LONGEST_LINE", 1_000)
    text = ("question,answer\n" if "jsonl" not in name else "") + "x" * 2_000
    data = text.encode(encoding)
    path = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(ValueError, match=r"q\..*is longer than 1000 characters; no record is that long.*`file`"):
        values(path, encoding=encoding)


def test_a_row_without_end_ends_the_file_not_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LONGEST_LINE", 1_000)
    endless = 'question,answer\n"' + '\n","' * 1_000
    with pytest.raises(ValueError, match=r"row that begins on line 2 is longer than 1000 characters.*`quotes: false`"):
        values(write(tmp_path / "q.csv", endless))


def test_a_packed_document_is_read_up_to_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "LARGEST_UNPACKED", 1_000)
    small, large = json.dumps(ROWS).encode(), json.dumps(ROWS * 100).encode()
    assert values(write(tmp_path / "small.json.gz", gzip.compress(small))) == ROWS
    assert values(write(tmp_path / "large.json", large)) == ROWS * 100  # its size is no surprise
    with pytest.raises(ValueError, match=r"large\.json\.gz' unpacks to more than 1000 bytes.*convert it to JSONL"):
        values(write(tmp_path / "large.json.gz", gzip.compress(large)))
