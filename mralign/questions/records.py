"""Files as streams of records.

A JSONL, JSON (one array), CSV or Parquet file enters, from this machine or behind any pyarrow or fsspec URL; its
records leave one by one, parsed or with the fault that kept them from being parsed. A file is never held whole, except
a JSON array. Records are counted from 0; blank lines of JSONL are no records.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mralign.store import open_filesystem

_BUFFER = 2**20


class MalformedError(Exception):
    """A record that cannot become a question: `reason` is a constant, the message its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """One record of a file as it stood there: its parsed value, or the fault that kept it from being parsed."""

    value: Any
    raw: str
    fault: MalformedError | None = None


def read_records(path: str) -> Iterator[Record]:
    """The records of one file, read as its suffix says. ValueError for a file that is not there or not of its kind."""
    reader = reader_of(path)
    filesystem, inner = find_file(path)
    with (
        filesystem.open_input_file(inner)
        if reader is from_parquet
        else filesystem.open_input_stream(inner, compression=None) as stream
    ):
        yield from reader(stream, path)


def find_file(path: str) -> tuple[fs.FileSystem, str]:
    """File system and inner path of a file that exists; ValueError for one that does not."""
    filesystem, inner = open_filesystem(path)
    if filesystem.get_file_info(inner).type != fs.FileType.File:
        raise ValueError(
            f"question file {path!r} does not exist or is no file; give a local path or a URI (s3://, gs://, https://, "
            f"file://) of an existing .jsonl, .json, .csv or .parquet file"
        )
    return filesystem, inner


def reader_of(path: str) -> Callable[[Any, str], Iterator[Record]]:
    """The reader for the suffix of `path`; ValueError for another suffix."""
    suffix = PurePosixPath(path.partition("?")[0] if "://" in path else path).suffix.lower()
    if suffix not in _READERS:
        raise ValueError(f"question file {path!r} has suffix {suffix!r}; allowed are {', '.join(_READERS)}; convert it")
    return _READERS[suffix]


def from_jsonl(stream: Any, path: str) -> Iterator[Record]:
    for number, line in enumerate(io.BufferedReader(stream, _BUFFER)):
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
        if not line.strip():
            continue
        raw = line.decode(errors="replace").rstrip("\r\n")
        try:
            yield Record(json.loads(line.decode()), raw)
        except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a bottomless nest of brackets
            yield Record(None, raw, MalformedError("malformed_json", str(error)))


def from_json(stream: Any, path: str) -> Iterator[Record]:
    try:
        values = json.loads(bytes(stream.read()).decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(
            f"question file {path!r} is not valid JSON ({error}); mend it or convert it to JSONL"
        ) from error
    if not isinstance(values, list):
        raise ValueError(f"question file {path!r} holds a {type(values).__name__}; a .json file must be one array")
    return (Record(value, json.dumps(value)) for value in values)


def from_csv(stream: Any, path: str) -> Iterator[Record]:
    # surrogateescape: one badly encoded cell rejects its row, not the file.
    text = io.TextIOWrapper(io.BufferedReader(stream, _BUFFER), "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.DictReader(text)
    while True:
        try:
            value = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # a field beyond csv.field_size_limit: most often a quote left open
            yield Record(None, f"line {reader.line_num}", MalformedError("malformed_csv", str(error)))
            continue
        raw = json.dumps(value, skipkeys=True, ensure_ascii=False)
        surplus = len(value.get(None, []))
        fault = MalformedError("malformed_csv", f"{surplus} cells more than the header has") if surplus else None
        yield Record(value, raw, fault)


def from_parquet(stream: Any, path: str) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(stream)
    except pa.ArrowInvalid as error:
        raise ValueError(f"question file {path!r} is not valid Parquet: {error}; write it again") from error
    for batch in file.iter_batches():
        for value in batch.to_pylist():
            yield Record(value, json.dumps(value, default=str))


_READERS = {".jsonl": from_jsonl, ".json": from_json, ".csv": from_csv, ".parquet": from_parquet}
