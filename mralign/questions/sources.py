"""Data sets and user files as one table of questions.

Enters: a JSONL, JSON (one array), CSV or Parquet file, on this machine or behind any pyarrow.fs URI. Leaves: a table
of schema QUESTIONS and the rows that could not become one, each with its reason and its raw text. Duplicates and
questions shared with an evaluation split are put aside the same way, by normalised question. METHOD.md section 1.

Row numbers count records from 0 (blank lines of JSONL are no records), as SimpleQA's published ids do.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mralign.questions.matching import normalize
from mralign.rejects import Reject
from mralign.schema import QUESTIONS, cast
from mralign.store import open_filesystem

FIELDS = ("id", "question", "answers")


class _MalformedError(Exception):
    """A record that cannot become a question: `reason` is a constant, the message its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class _Record:
    """One record of a file as it stood there: its parsed value, or the fault that kept it from being parsed."""

    value: Any
    raw: str
    fault: _MalformedError | None = None


def read_questions(
    path: str, *, name: str, split: str, fields: Mapping[str, str], limit: int | None = None
) -> tuple[pa.Table, list[Reject]]:
    """Questions of one file (schema QUESTIONS) and its rejected rows.

    `path`: local path or pyarrow.fs URI ending in .jsonl, .json, .csv or .parquet. `name`: the data set, prefix of
    every question_id. `split`: train | dev | test. `fields`: our `id`, `question`, `answers` -> the file's names
    (default: the same). `limit`: read the first so many records. Question and aliases lose white space at their edges;
    blank aliases are dropped; all other fields go to `extra` as JSON; a record without an id gets its row number.

    Reject reasons: malformed_json, malformed_csv, missing_question, missing_answers, wrong_type, duplicate_id.
    Raises ValueError for a missing or unreadable file, an unknown suffix, and wrong arguments.
    """
    names = _field_names(fields)
    if "/" in name or not name:
        raise ValueError(f"data set name {name!r} must not be empty or hold a '/': question ids are name/id; rename it")
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} allows no question; give a number from 1, or leave it out to read the file")
    reader = _reader(path)
    rows: dict[str, dict] = {}
    rejects: list[Reject] = []
    for number, record in enumerate(islice(reader(_read_bytes(path), path), limit)):
        try:
            row = _question(record, names=names, number=number, name=name)
            if row["question_id"] in rows:
                raise _MalformedError("duplicate_id", f"an earlier row has the id {row['question_id']}")
        except _MalformedError as fault:
            rejects.append(Reject(f"{name}/row{number}", fault.reason, str(fault), record.raw))
        else:
            rows[row["question_id"]] = {**row, "dataset": name, "split": split}
    return pa.Table.from_pylist(list(rows.values()), schema=QUESTIONS), rejects


def deduplicate(table: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """`table` (schema QUESTIONS) with the first of each normalised question, and the others as duplicate_question."""
    keys, ids = _question_keys(table), _column(table, "question_id")
    first: dict[str, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    drop = [first[key] != position for position, key in enumerate(keys)]
    return _put_aside(table, drop=drop, reason="duplicate_question", same_as=[ids[first[key]] for key in keys])


def drop_evaluation_overlap(train: pa.Table, held_out: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """`train` without the questions whose normal form stands in `held_out`; those leave as in_evaluation_split."""
    held = dict(zip(_question_keys(held_out), _column(held_out, "question_id"), strict=True))
    keys = _question_keys(train)
    drop = [key in held for key in keys]
    return _put_aside(train, drop=drop, reason="in_evaluation_split", same_as=[held.get(key, "") for key in keys])


def _put_aside(table: pa.Table, *, drop: list[bool], reason: str, same_as: list[str]) -> tuple[pa.Table, list[Reject]]:
    rejects = [
        Reject(question_id, reason, f"same question as {other}", question)
        for question_id, question, dropped, other in zip(
            _column(table, "question_id"), _column(table, "question"), drop, same_as, strict=True
        )
        if dropped
    ]
    keep = pa.array([not dropped for dropped in drop], pa.bool_())
    return cast(table.filter(keep), QUESTIONS), rejects


def _column(table: pa.Table, name: str) -> list[str]:
    return table.column(name).to_pylist()


def _question_keys(table: pa.Table) -> list[str]:
    # A question of nothing but punctuation and articles has an empty normal form: it is its own key.
    return [normalize(question) or question for question in _column(table, "question")]


def _field_names(fields: Mapping[str, str]) -> dict[str, str]:
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field names {unknown}; allowed are {list(FIELDS)}; all others are kept in `extra`")
    return {ours: fields.get(ours, ours) for ours in FIELDS}


def _question(record: _Record, *, names: dict[str, str], number: int, name: str) -> dict:
    if record.fault is not None:
        raise record.fault
    value = record.value
    if not isinstance(value, dict):
        raise _MalformedError("wrong_type", f"a record must be an object, this is a {type(value).__name__}")
    row = {
        "question_id": f"{name}/{_id(value.get(names['id']), field=names['id'], number=number)}",
        "question": _text(value, field=names["question"]),
        "answers": _aliases(value, field=names["answers"]),
    }
    _refuse_surrogates(row)
    extra = {key: item for key, item in value.items() if key not in names.values()}
    return {**row, "extra": json.dumps(extra, default=str)}


def _id(value: Any, *, field: str, number: int) -> str:
    if value is None or value == "":
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _MalformedError("wrong_type", f"field {field!r} must be text or an integer, not {type(value).__name__}")
    return str(value)


def _text(record: dict, *, field: str) -> str:
    value = record.get(field)
    if value is None:
        raise _MalformedError("missing_question", f"no field {field!r}; the row has {list(record)}")
    if not isinstance(value, str):
        raise _MalformedError("wrong_type", f"field {field!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise _MalformedError("missing_question", f"field {field!r} is blank")
    return value.strip()


def _aliases(record: dict, *, field: str) -> list[str]:
    value = record.get(field)
    if value is None:
        raise _MalformedError("missing_answers", f"no field {field!r}; the row has {list(record)}")
    aliases = [value] if isinstance(value, str) else value
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise _MalformedError("wrong_type", f"field {field!r} must be text or a list of texts, not {value!r:.80}")
    kept = [alias.strip() for alias in aliases if alias.strip()]
    if not kept:
        raise _MalformedError("missing_answers", f"field {field!r} holds no answer")
    return kept


def _refuse_surrogates(row: dict) -> None:
    # JSON may spell half a character (\ud83d); Arrow, like UTF-8, cannot hold it.
    try:
        "".join([row["question_id"], row["question"], *row["answers"]]).encode()
    except UnicodeEncodeError as error:
        raise _MalformedError("wrong_type", f"not valid Unicode: {error.reason}") from error


def _reader(path: str) -> Callable[[bytes, str], Iterator[_Record]]:
    readers = {".jsonl": _from_jsonl, ".json": _from_json, ".csv": _from_csv, ".parquet": _from_parquet}
    suffix = PurePosixPath(path.partition("?")[0] if "://" in path else path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"question file {path!r} has suffix {suffix!r}; allowed are {', '.join(readers)}; convert it")
    return readers[suffix]


def _read_bytes(path: str) -> bytes:
    filesystem, inner = open_filesystem(path)
    if filesystem.get_file_info(inner).type != fs.FileType.File:
        raise ValueError(
            f"question file {path!r} does not exist or is no file; give a local path or a URI (s3://, gs://, file://) "
            f"of an existing .jsonl, .json, .csv or .parquet file"
        )
    with filesystem.open_input_stream(inner, compression=None) as stream:
        return stream.read()


def _from_jsonl(data: bytes, path: str) -> Iterator[_Record]:
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if not line.strip():
            continue
        raw = line.decode(errors="replace").rstrip("\r")
        try:
            yield _Record(json.loads(line.decode()), raw)
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a bottomless nest of brackets
            yield _Record(None, raw, _MalformedError("malformed_json", str(error)))


def _from_json(data: bytes, path: str) -> Iterator[_Record]:
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            f"question file {path!r} is not valid JSON ({error}); mend it or convert it to JSONL"
        ) from error
    if not isinstance(values, list):
        raise ValueError(f"question file {path!r} holds a {type(values).__name__}; a .json file must be one array")
    return (_Record(value, json.dumps(value)) for value in values)


def _from_csv(data: bytes, path: str) -> Iterator[_Record]:
    # surrogateescape: one badly encoded cell rejects its row, not the file.
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    while True:
        try:
            value = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field beyond csv.field_size_limit: most often a quote left open
            yield _Record(None, f"line {reader.line_num}", _MalformedError("malformed_csv", str(error)))
            continue
        raw = json.dumps(value, skipkeys=True, ensure_ascii=False)
        surplus = len(value.get(None, []))
        fault = _MalformedError("malformed_csv", f"{surplus} cells more than the header has") if surplus else None
        yield _Record(value, raw, fault)


def _from_parquet(data: bytes, path: str) -> Iterator[_Record]:
    try:
        table = pq.read_table(pa.BufferReader(data))
    except pa.ArrowInvalid as error:
        raise ValueError(f"question file {path!r} is not valid Parquet: {error}; write it again") from error
    for batch in table.to_batches():
        for value in batch.to_pylist():
            yield _Record(value, json.dumps(value, default=str))
