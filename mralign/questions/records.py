"""Plain files as streams of records: JSONL, CSV and Parquet piece by piece, a JSON array whole.

Enters: a path on this machine, a pyarrow.fs URI or an fsspec URL. Leaves: one `Record` after the other, as it stood
in the file, or with the fault that kept it from being parsed: one bad record never ends a file. What is held in memory
is the record at hand and a buffer, whatever the size of the file; only a JSON array is parsed as one text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa
from pyarrow import fs

from mralign.arrow_files import open_parquet
from mralign.store import open_filesystem

_BUFFER = 2**20  # bytes
_BATCH = 4096  # records of a Parquet file in memory


class MalformedError(Exception):
    """A record that cannot become a question: `reason` is a constant, the message its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """One record as it stood in its source: its parsed value, or the fault that kept it from being parsed.

    `key` names the record where its number in the source would not tell a person where to look.
    """

    value: Any
    raw: str
    fault: MalformedError | None = None
    key: str = ""


def suffix_of(path: str) -> str:
    """The lower-case suffix of a path or URL, its query left out."""
    return PurePosixPath(path.partition("?")[0] if "://" in path else path).suffix.lower()


def is_file(path: str) -> bool:
    """Whether there is a file. ValueError for a URL of unknown scheme."""
    filesystem, inner = open_filesystem(path)
    return bool(filesystem.get_file_info(inner).type == fs.FileType.File)


def read_records(path: str) -> Iterator[Record]:
    """The records of a .jsonl, .json, .csv or .parquet file, in order.

    Raises ValueError for a file that is not of its format as a whole; OSError where reading fails.
    """
    filesystem, inner = open_filesystem(path)
    return READERS[suffix_of(path)](filesystem, inner, path)


def read_bytes(path: str) -> bytes:
    """A file whole."""
    with _stream(*open_filesystem(path)) as stream:
        return stream.read()


def read_jsonl(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    """Records of a JSONL file, line by line; blank lines are no records."""
    with _stream(filesystem, inner) as stream:
        for number, line in enumerate(stream):
            bare = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if bare.strip():
                yield _json_record(bare.removesuffix(b"\n"))


def parse_array(data: bytes, *, path: str) -> Iterator[Record]:
    """Records of a JSON array, parsed as one text. ValueError if it is not one, with `path` in the message."""
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"question file {path!r} is not valid JSON ({error}); mend it or convert it to JSONL"
        ) from error
    if not isinstance(values, list):
        raise ValueError(f"question file {path!r} holds a {type(values).__name__}; a .json file must be one array")
    return (Record(value, json.dumps(value)) for value in values)


@contextmanager
def _stream(filesystem: fs.FileSystem, inner: str) -> Iterator[io.BufferedReader]:
    # compression=None: pyarrow would otherwise unpack by suffix what the name of the file does not say it is.
    with filesystem.open_input_stream(inner, compression=None) as raw:
        yield io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)


def _json_record(line: bytes) -> Record:
    raw = line.decode(errors="replace").rstrip("\r")
    try:
        return Record(json.loads(line.decode()), raw)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a bottomless nest of brackets
        return Record(None, raw, MalformedError("malformed_json", str(error)))


def _read_json(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    with _stream(filesystem, inner) as stream:
        return parse_array(stream.read(), path=path)


def _read_csv(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    with _stream(filesystem, inner) as stream:
        # surrogateescape: one badly encoded cell rejects its row, not the file.
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.DictReader(text)
        try:
            _ = reader.fieldnames
        except csv.Error as error:
            raise ValueError(f"question file {path!r} has no readable CSV header: {error}; mend it") from error
        while (record := _next_row(reader)) is not None:
            yield record


def _next_row(reader: csv.DictReader) -> Record | None:
    try:
        value = next(reader)
    except StopIteration:
        return None
    except csv.Error as error:  # a field beyond csv.field_size_limit: most often a quote left open
        return Record(None, f"line {reader.line_num}", MalformedError("malformed_csv", str(error)))
    raw = json.dumps(value, skipkeys=True, ensure_ascii=False)
    surplus = len(value.get(None, []))  # DictReader's key for cells without a header
    fault = MalformedError("malformed_csv", f"{surplus} cells more than the header has") if surplus else None
    return Record(value, raw, fault)


def _read_parquet(filesystem: fs.FileSystem, inner: str, path: str) -> Iterator[Record]:
    try:
        with filesystem.open_input_file(inner) as file:
            for batch in open_parquet(file, name=path).iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    yield Record(value, json.dumps(value, default=str))
    except pa.ArrowInvalid as error:
        raise ValueError(f"question file {path!r} is not valid Parquet: {error}; write it again") from error


READERS: dict[str, Callable[[fs.FileSystem, str, str], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
