"""Files as streams of records: JSONL, CSV, TSV and Parquet piece by piece, a JSON document whole; packed or not.

Enters: a path on this machine, a pyarrow.fs URI or an fsspec URL, and a `Layout` where the name does not say all.
Leaves: one `Record` after the other, as it stood in the file, or with the fault that kept it from being parsed: one bad
record never ends a file. What is held in memory is the record at hand and a buffer, whatever the size of the file; only
a .json document is parsed as one text. `fields.fetch` takes a field from a record by its dotted name.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from pyarrow import fs

from mralign.questions import streams
from mralign.questions.fields import fetch
from mralign.questions.streams import encoding_of, lines_of, open_bytes, read_whole, split_suffix, text_of
from mralign.run.arrow_files import open_parquet
from mralign.run.filesystems import open_filesystem

_BATCH = 4096  # records of a Parquet file in memory
_HEADER_ROWS = 50  # among which a header is looked for
# The library's own limit of 128 KiB is of the whole process; a passage may be longer, and a quote left open must end.
csv.field_size_limit(max(csv.field_size_limit(), 2**24))


class MalformedError(Exception):
    """A record that cannot become a question: `reason` is a constant, the message its detail."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Record:
    """One record as it stood in its source: its parsed value, or the fault that kept it from being parsed.

    `key` names the record where its number in the source would not tell a person where to look; `line`: the line of the
    text file on which it begins, from 1; 0 where there are no lines.
    """

    value: Any
    raw: str
    fault: MalformedError | None = None
    key: str = ""
    line: int = 0


@dataclass(frozen=True)
class Layout:
    """How a file is laid out, where its name does not say it; the fields of config.Source of the same names."""

    file: str = "auto"  # auto | jsonl | json | csv | tsv | parquet
    records: str = ""
    columns: tuple[str, ...] = ()
    delimiter: str | None = None
    quotes: bool = True
    skip_lines: int = 0
    encoding: str = "utf-8"
    header: tuple[str, ...] = ()  # CSV: names of which the header has one; rows before it are skipped


def suffix_of(path: str) -> str:
    """The lower-case suffix of a path or URL, its query and that of a packing left out."""
    return split_suffix(path)[0]


def is_file(path: str) -> bool:
    """Whether there is a file. ValueError for a URL of unknown scheme."""
    filesystem, inner = open_filesystem(path)
    return bool(filesystem.get_file_info(inner).type == fs.FileType.File)


def read_records(path: str, layout: Layout | None = None) -> Iterator[Record]:
    """The records of a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, in order, unpacked where the name says so.

    Raises ValueError, with the file and where there are lines the line, for a file that is not of its format as a whole
    or cannot be unpacked; OSError where reading fails.
    """
    layout = layout or Layout()
    suffix = suffix_of(path) if layout.file == "auto" else f".{layout.file}"
    filesystem, inner = open_filesystem(path)
    return READERS[suffix](filesystem, inner, path, layout)


def read_bytes(path: str) -> bytes:
    """A file whole."""
    filesystem, inner = open_filesystem(path)
    with open_bytes(filesystem, inner, path=path) as stream:
        return read_whole(stream, path=path)


def read_jsonl(filesystem: fs.FileSystem, inner: str, path: str, layout: Layout | None = None) -> Iterator[Record]:
    """Records of a JSONL file, line by line; blank lines are no records."""
    layout = layout or Layout()
    number = 0
    with open_bytes(filesystem, inner, path=path) as stream:
        try:
            encoding = encoding_of(stream.peek(4)[:4], default=layout.encoding)
            for number, line in enumerate(_lines(stream, encoding=encoding), 1):
                if number > layout.skip_lines and line.strip():
                    yield _json_record(line, number=number)
        except ValueError as error:
            raise ValueError(f"question file {path!r}, after line {number}: {error}") from error


def _lines(stream: io.BufferedReader, *, encoding: str) -> Iterator[bytes]:
    """The lines of a text file in UTF-8, without their ends; U+2028 and its like end none."""
    if encoding == "utf-8-sig":
        for number, line in enumerate(lines_of(stream)):
            yield line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").removesuffix(b"\n")
        return
    text = io.TextIOWrapper(stream, encoding=encoding, errors="surrogateescape", newline="\n")
    for decoded in lines_of(text):
        yield decoded.removesuffix("\n").encode("utf-8", "surrogateescape")


def parse_document(data: bytes, *, path: str, layout: Layout | None = None) -> Iterator[Record]:
    """Records of a JSON document: an array, an object that holds one under `layout.records`, or JSON lines.

    ValueError if it is none of them, with `path` in the message.
    """
    layout = layout or Layout()
    encoding = encoding_of(data[:4], default=layout.encoding)
    try:
        document = json.loads(data.decode(encoding))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            return _document_lines(data, encoding=encoding)
        raise ValueError(
            f"question file {path!r} is not valid JSON ({error}); mend it or convert it to JSONL"
        ) from error
    values = document
    if not isinstance(document, list):
        values = fetch(document, layout.records) if layout.records else None
    if not isinstance(values, list):
        raise ValueError(_no_array(document, path=path, records=layout.records))
    return (Record(value, json.dumps(value)) for value in values)


def _document_lines(data: bytes, *, encoding: str) -> Iterator[Record]:
    """A .json file that holds one object after the other, a line each."""
    lines = _lines(io.BufferedReader(cast(io.RawIOBase, io.BytesIO(data))), encoding=encoding)
    return (_json_record(line, number=number) for number, line in enumerate(lines, 1) if line.strip())


def _no_array(document: Any, *, path: str, records: str) -> str:
    if not isinstance(document, dict):
        return f"question file {path!r} holds a {type(document).__name__}; a .json file must be one array"
    lists = [key for key, value in document.items() if isinstance(value, list)]
    given = f"records={records!r} leads to no list in it" if records else "a .json file must be one array"
    return (
        f"question file {path!r} holds an object, and {given}; its lists are {lists[:20]}: say with `records` which of "
        f"them holds the records"
    )


def _json_record(line: bytes, *, number: int) -> Record:
    raw = line.decode(errors="replace").rstrip("\r")
    try:
        return Record(json.loads(line.decode()), raw, line=number)
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, a bottomless nest of brackets
        return Record(None, raw, MalformedError("malformed_json", f"line {number}: {error}"), line=number)


def _read_json(filesystem: fs.FileSystem, inner: str, path: str, layout: Layout) -> Iterator[Record]:
    with open_bytes(filesystem, inner, path=path) as stream:
        return parse_document(read_whole(stream, path=path), path=path, layout=layout)


def _read_csv(filesystem: fs.FileSystem, inner: str, path: str, layout: Layout) -> Iterator[Record]:
    return _read_cells(filesystem, inner, path, layout, delimiter=layout.delimiter or ",")


def _read_tsv(filesystem: fs.FileSystem, inner: str, path: str, layout: Layout) -> Iterator[Record]:
    return _read_cells(filesystem, inner, path, layout, delimiter=layout.delimiter or "\t")


def _read_cells(
    filesystem: fs.FileSystem, inner: str, path: str, layout: Layout, *, delimiter: str
) -> Iterator[Record]:
    with open_bytes(filesystem, inner, path=path) as stream:
        text = text_of(stream, encoding=layout.encoding)
        for _ in range(layout.skip_lines):
            text.readline()
        rows = _Rows(lines_of(text), delimiter=delimiter, quotes=layout.quotes, skipped=layout.skip_lines)
        try:
            names = list(layout.columns) or _header(rows, wanted=layout.header, path=path)
            while (row := rows.next()) is not None:
                yield _cells_record(row, names=names, line=rows.line)
        except UnicodeError as error:
            raise ValueError(f"question file {path!r}, line {rows.line}: not {text.encoding} ({error})") from error
        except ValueError as error:
            raise ValueError(f"question file {path!r}, after line {rows.line}: {error}") from error


class _Rows:
    """The rows of a CSV file that are not empty; `line` is the one on which the last row began, from 1."""

    def __init__(self, lines: Iterator[str], *, delimiter: str, quotes: bool, skipped: int) -> None:
        quoting: Any = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
        self.reader = csv.reader(self._counted(lines), delimiter=delimiter, quoting=quoting)
        self.skipped, self.line, self.length = skipped, skipped, 0

    def _counted(self, lines: Iterator[str]) -> Iterator[str]:
        """The same lines; ValueError where those of one row, a quoted cell may hold many, are too long together."""
        for line in lines:
            self.length += len(line)
            if self.length > streams.LONGEST_LINE:
                raise ValueError(
                    f"the row that begins on line {self.line} is longer than {streams.LONGEST_LINE} characters; is a "
                    f"quote left open (else give `quotes: false`)?"
                )
            yield line

    def next(self) -> list[str] | csv.Error | None:
        """The next row, or why it cannot be read; None at the end."""
        while True:
            self.line, self.length = self.skipped + self.reader.line_num + 1, 0
            try:
                row: list[str] = next(self.reader)
            except StopIteration:
                return None
            except csv.Error as error:  # a field beyond the limit: most often a quote left open
                return error
            if row:
                return row


def _header(rows: _Rows, *, wanted: Sequence[str], path: str) -> list[str]:
    """The names of the columns: the first row, or with `wanted` the first that holds one of these names."""
    seen = []
    for _ in range(_HEADER_ROWS):
        row = rows.next()
        if isinstance(row, csv.Error):
            raise ValueError(f"question file {path!r} has no readable CSV header, line {rows.line}: {row}; mend it")
        if row is None:
            break
        names = [cell.strip() for cell in row]
        if not wanted or set(wanted) & set(names):
            return names
        seen.append(names)
    if seen:
        raise ValueError(
            f"question file {path!r}: none of the first {len(seen)} rows names a column {' or '.join(wanted)}; the "
            f"first row is {seen[0]!r:.200}; give `fields`, or `columns` if the file has no header"
        )
    return []


def _cells_record(row: list[str] | csv.Error, *, names: Sequence[str], line: int) -> Record:
    if isinstance(row, csv.Error):
        return Record(None, f"line {line}", MalformedError("malformed_csv", f"line {line}: {row}"), line=line)
    value: dict[str, Any] = dict.fromkeys(names)
    value |= dict(zip(names, row, strict=False))
    surplus = row[len(names) :]
    if not any(surplus):
        return Record(value, json.dumps(value, ensure_ascii=False), line=line)
    fault = MalformedError("malformed_csv", f"line {line}: {len(surplus)} cells more than the header has")
    return Record(value, json.dumps([value, surplus], ensure_ascii=False), fault, line=line)


def _read_parquet(filesystem: fs.FileSystem, inner: str, path: str, layout: Layout) -> Iterator[Record]:
    try:
        with filesystem.open_input_file(inner) as file:
            for batch in open_parquet(file, name=path, streamed=True).iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    yield Record(value, json.dumps(value, default=str))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"question file {path!r} is not valid Parquet: {error}; write it again") from error


READERS: dict[str, Callable[[fs.FileSystem, str, str, Layout], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".ndjson": read_jsonl,
    ".tsv": _read_tsv,
}
