"""Data sets and user files as tables of questions, batch by batch.

Enters: where a data set lies and how it is written. Leaves: tables of schema QUESTIONS and the records that could not
become a question, each with its reason and its raw text. One batch is in memory at a time. METHOD.md section 1.

Record numbers count from 0, as SimpleQA's published ids do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow as pa

from mralign.questions import hub
from mralign.questions.formats import FORMATS, Format, check_path, plain
from mralign.questions.records import MalformedError, Record
from mralign.rejects import Reject
from mralign.schema import QUESTIONS

FIELDS = ("id", "question", "answers")


def read_batches(
    path: str,
    *,
    name: str,
    split: str,
    format: str = "auto",
    fields: Mapping[str, str],
    limit: int | None = None,
    rows: int = 2_000,
) -> Iterator[tuple[pa.Table, list[Reject]]]:
    """Questions of one source, at most `rows` records a time: (schema QUESTIONS, the rejects of those records).

    `path`: local path, pyarrow.fs URI, fsspec URL, or hub://OWNER/NAME. `name`: the data set, prefix of every
    question_id. `split`: train | dev | test. `format`: auto and plain go by the suffix, the others are the published
    ones (questions/formats.py). `fields`: of a plain source, our `id`, `question`, `answers` -> its own names (default:
    the same). `limit`: read the first so many records. Question and aliases lose white space at their edges; blank
    aliases are dropped; all other fields go to `extra` as JSON; a record without an id gets its number. Ids are not
    compared here: `repeats.py` does that.

    Reject reasons: malformed_json, malformed_csv, malformed_metadata, missing_question, missing_answers, wrong_type.
    Raises ValueError for a missing or unreadable file, an unknown suffix or format, and wrong arguments.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} allows no question; give a number from 1, or leave it out to read the file")
    chosen = _chosen(path, name=name, split=split, format=format, fields=fields)
    records = hub.read_records(path, split=split) if path.startswith(hub.SCHEME) else chosen.records(path, split)
    numbered = enumerate(islice(records, limit))
    while batch := list(islice(numbered, rows)):
        kept, rejects = [], []
        for number, record in batch:
            try:
                kept.append({**_question(record, format=chosen, number=number, name=name), "split": split})
            except MalformedError as fault:
                rejects.append(Reject(f"{name}/row{number}", fault.reason, str(fault), record.raw))
        yield pa.Table.from_pylist(kept, schema=QUESTIONS), rejects


def check_source(path: str, *, name: str, split: str, format: str, fields: Mapping[str, str]) -> None:
    """Raise ValueError, without reading, for what `read_batches` would refuse."""
    chosen = _chosen(path, name=name, split=split, format=format, fields=fields)
    if path.startswith(hub.SCHEME):
        hub.check(path, split=split)
    else:
        check_path(path, format=chosen)


def _chosen(path: str, *, name: str, split: str, format: str, fields: Mapping[str, str]) -> Format:
    if "/" in name or not name:
        raise ValueError(f"data set name {name!r} must not be empty or hold a '/': question ids are name/id; rename it")
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field names {unknown}; allowed are {list(FIELDS)}; all others are kept in `extra`")
    if format in ("auto", "plain"):
        return plain({ours: fields.get(ours, ours) for ours in FIELDS})
    if format not in FORMATS:
        raise ValueError(f"format {format!r} of {path!r} is not known; allowed are auto, plain, {', '.join(FORMATS)}")
    if fields:
        raise ValueError(f"source {name!r}: format {format} knows its fields; leave out `fields`, or use format: plain")
    if split in FORMATS[format].refused:
        raise ValueError(f"{format} at {path!r} is no source of {split} questions: {FORMATS[format].refused[split]}")
    return FORMATS[format]


def _question(record: Record, *, format: Format, number: int, name: str) -> dict[str, Any]:
    if record.fault is not None:
        raise record.fault
    if not isinstance(record.value, dict):
        raise MalformedError("wrong_type", f"a record must be an object, this is a {type(record.value).__name__}")
    value, names = format.mend(record.value), format.fields
    row = {
        "question_id": f"{name}/{_id(value.get(names['id']), field=names['id'], number=number)}",
        "dataset": name,
        "question": _text(value, field=names["question"]),
        "answers": [] if format.without_answers else _aliases(value, field=names["answers"]),
    }
    _refuse_surrogates(row)
    extra = {key: item for key, item in value.items() if key not in names.values()}
    return {**row, "extra": json.dumps(extra, default=str)}


def _id(value: Any, *, field: str, number: int) -> str:
    if value is None or value == "":
        return str(number)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedError("wrong_type", f"field {field!r} must be text or an integer, not {type(value).__name__}")
    return str(value)


def _text(record: dict[str, Any], *, field: str) -> str:
    value = record.get(field)
    if value is None:
        raise MalformedError("missing_question", f"no field {field!r}; the row has {list(record)}")
    if not isinstance(value, str):
        raise MalformedError("wrong_type", f"field {field!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise MalformedError("missing_question", f"field {field!r} is blank")
    return value.strip()


def _aliases(record: dict[str, Any], *, field: str) -> list[str]:
    value = record.get(field)
    if value is None:
        raise MalformedError("missing_answers", f"no field {field!r}; the row has {list(record)}")
    aliases = [value] if isinstance(value, str) else value
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise MalformedError("wrong_type", f"field {field!r} must be text or a list of texts, not {value!r:.80}")
    kept = [alias.strip() for alias in aliases if alias.strip()]
    if not kept:
        raise MalformedError("missing_answers", f"field {field!r} holds no answer")
    return kept


def _refuse_surrogates(row: dict[str, Any]) -> None:
    # JSON may spell half a character (\ud83d); Arrow, like UTF-8, cannot hold it.
    try:
        "".join([row["question_id"], row["question"], *row["answers"]]).encode()
    except UnicodeEncodeError as error:
        raise MalformedError("wrong_type", f"not valid Unicode: {error.reason}") from error
