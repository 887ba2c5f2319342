"""A corpus of texts, row by row: JSONL or Parquet, one file or a directory of them.

A path and the names of its fields enter; a `Document` a row leaves, in the order of the files' names, or the reason
why a row is none: one bad row never ends a corpus. What is held in memory is a buffer, whatever the size of the files.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, Literal, cast

import pyarrow as pa
from pyarrow import fs

from mralign.asking.json_reply import readable
from mralign.run.arrow_files import open_parquet
from mralign.run.filesystems import open_filesystem

FIELDS = ("id", "title", "text")
_SETTING = "evaluation.retrieval"
_SUFFIXES = (".jsonl", ".parquet")
_BUFFER = 2**20  # bytes
_BATCH = 4096  # rows of a Parquet file in memory
_LOOKED_AT = 100  # rows that a check reads

Fault = Literal["malformed_json", "no_text"]


@dataclass(frozen=True)
class Document:
    """One text; `title` may be empty."""

    id: str
    title: str
    text: str


def read_corpus(path: str, *, fields: Mapping[str, str]) -> Iterator[Document | Fault]:
    """A document for every row, or why there is none; the id of a row without one is its number, from 0.

    `fields` maps our names (FIELDS) to the corpus's. Raises ValueError for a path without a corpus and for a Parquet
    file that cannot be read or has no column of texts.
    """
    names = field_names(fields)
    for number, row in enumerate(_rows(path, names=names)):
        yield _document(row, number=number, names=names) if isinstance(row, dict) else "malformed_json"


def check_corpus(path: str, *, fields: Mapping[str, str]) -> None:
    """Raise ValueError for what the names and the first rows show: no corpus, no row, no texts in the named field."""
    names = field_names(fields)
    rows = list(islice(_rows(path, names=names), _LOOKED_AT))
    if not any(isinstance(row, dict) and isinstance(_document(row, number=0, names=names), Document) for row in rows):
        raise no_texts(path, fields=fields)


def no_texts(path: str, *, fields: Mapping[str, str]) -> ValueError:
    """What to say of a corpus in which nothing can be found: it names the fields that the first rows have."""
    names = field_names(fields)
    rows = list(islice(_rows(path, names=names), _LOOKED_AT))
    if not rows:
        return ValueError(f"{_SETTING}.corpus={path} is empty; give a corpus with a row a text")
    found: set[str] = set()
    for row in rows:
        if isinstance(row, dict):
            found.update(map(str, row))
    has = sorted(found)
    return ValueError(
        f"{_SETTING}.corpus={path} has no text in the field {names['text']!r}; its first rows have {has}: say which of "
        f"them holds the text by {_SETTING}.fields, e.g. {{text: {has[0] if has else 'contents'}}}"
    )


def field_names(fields: Mapping[str, str]) -> dict[str, str]:
    """Our names -> the corpus's, none left out. ValueError for a name that is not ours."""
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"{_SETTING}.fields names {unknown}; allowed are {list(FIELDS)}, each with the corpus's name")
    return {name: fields.get(name, name) for name in FIELDS}


def _document(row: Mapping[str, Any], *, number: int, names: Mapping[str, str]) -> Document | Fault:
    identity, title, text = (row.get(names[name]) for name in FIELDS)
    if not isinstance(text, str) or not text.strip():
        return "no_text"
    known = isinstance(identity, str | int) and not isinstance(identity, bool) and identity != ""
    return Document(
        id=readable(str(identity if known else number)),
        title=readable(title) if isinstance(title, str) else "",
        text=readable(text),
    )


def _rows(path: str, *, names: Mapping[str, str]) -> Iterator[Any]:
    """What each row holds: a mapping, or anything else where the row is none."""
    filesystem, inner = open_filesystem(path)
    for file in _files(filesystem, inner, path=path):
        if file.endswith(".parquet"):
            yield from _read_parquet(filesystem, file, names=names)
        else:
            yield from _read_jsonl(filesystem, file)


def _files(filesystem: fs.FileSystem, inner: str, *, path: str) -> list[str]:
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.NotFound:
        raise ValueError(f"{_SETTING}.corpus={path} does not exist; correct the path")
    found = [info]
    if info.type == fs.FileType.Directory:
        found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    files = [i.path for i in found if i.type == fs.FileType.File and PurePosixPath(i.path).suffix in _SUFFIXES]
    if not files:
        raise ValueError(
            f"{_SETTING}.corpus={path} holds no corpus; allowed are files that end in {' or '.join(_SUFFIXES)}, or a "
            f"directory of them"
        )
    return sorted(files)


def _read_jsonl(filesystem: fs.FileSystem, file: str) -> Iterator[Any]:
    with filesystem.open_input_stream(file, compression=None) as raw:
        for number, line in enumerate(io.BufferedReader(cast(io.RawIOBase, raw), _BUFFER)):
            bare = line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line
            if not bare.strip():
                continue
            try:
                yield json.loads(bare)
            except (ValueError, RecursionError):  # bad JSON, bad UTF-8, a bottomless nest of brackets
                yield None


def _read_parquet(filesystem: fs.FileSystem, file: str, *, names: Mapping[str, str]) -> Iterator[Any]:
    try:
        with filesystem.open_input_file(file) as stream:
            parquet = open_parquet(stream, name=file, streamed=True)
            there = parquet.schema_arrow.names
            if names["text"] not in there:
                raise ValueError(
                    f"{_SETTING}.corpus: {file} has no column {names['text']!r}; it has {there}: say which of them "
                    f"holds the text by {_SETTING}.fields"
                )
            wanted = [name for name in names.values() if name in there]
            for batch in parquet.iter_batches(batch_size=_BATCH, columns=wanted):
                yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise ValueError(f"{_SETTING}.corpus: {file} is not valid Parquet: {error}; write it again") from error
