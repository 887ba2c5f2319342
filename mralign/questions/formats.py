"""The published formats of the data sets that the method is trained and judged on.

The path of a data set as its authors publish it enters, with our split; records leave whose fields our reader knows.
A format says where the records lie, which fields hold the question and its answers, and what must be mended in a record
first. LongFact carries a canary, "should never appear in training corpora": as a source of training questions it is
refused.
"""

from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from mralign.questions.records import MalformedError, Record, find_file, from_json, from_jsonl, read_records, reader_of
from mralign.store import open_filesystem

_SCIQ_FILES = {"train": "train.json", "dev": "valid.json", "test": "test.json"}


def _same(value: dict[str, Any]) -> dict[str, Any]:
    return value


@dataclass(frozen=True)
class Format:
    """How one data set is published. `mend` may raise MalformedError; `refused`: splits it must not be used for."""

    name: str
    fields: Mapping[str, str]  # our names -> theirs
    records: Callable[[str, str], Iterator[Record]]  # path, split
    mend: Callable[[dict[str, Any]], dict[str, Any]] = _same
    without_answers: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)  # split -> why


def _file(path: str, split: str) -> Iterator[Record]:
    return read_records(path)


def _sciq(path: str, split: str) -> Iterator[Record]:
    """The published zip, whose folder has spaces in its name and a twin in __MACOSX/, or one of its JSON files."""
    if not path.lower().endswith(".zip"):
        yield from read_records(path)
        return
    filesystem, inner = find_file(path)
    with filesystem.open_input_file(inner) as stream, zipfile.ZipFile(stream) as archive:
        names = [name for name in archive.namelist() if not name.startswith("__MACOSX/")]
        wanted = [name for name in names if PurePosixPath(name).name == _SCIQ_FILES[split]]
        if len(wanted) != 1:
            raise ValueError(f"{path!r} must hold one {_SCIQ_FILES[split]} for split {split}, it holds {names}")
        with archive.open(wanted[0]) as member:
            yield from from_json(member, f"{path}/{wanted[0]}")


def _longfact(path: str, split: str) -> Iterator[Record]:
    """All JSONL files below a directory, by name; the topic stands in the file's name only."""
    filesystem, inner = open_filesystem(path)
    found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    files = sorted(info.path for info in found if info.path.endswith(".jsonl"))
    if not files:
        raise ValueError(f"{path!r} holds no .jsonl file; give the folder that holds LongFact's files")
    for name in files:
        kind, _, topic = PurePosixPath(name).stem.removeprefix("longfact-").partition("_")
        with filesystem.open_input_stream(name, compression=None) as stream:
            for number, record in enumerate(from_jsonl(stream, name)):
                if isinstance(record.value, dict):
                    place = {"id": f"{kind}_{topic}-{number}", "kind": kind, "topic": topic}
                    yield Record(record.value | place, record.raw, record.fault)
                else:
                    yield record


def _mend_simpleqa(value: dict[str, Any]) -> dict[str, Any]:
    try:
        metadata = ast.literal_eval(value["metadata"])
        json.dumps(metadata)
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise MalformedError("malformed_metadata", f"`metadata` is no Python literal: {error}") from error
    return value | {"metadata": metadata}


def _mend_truthfulqa(value: dict[str, Any]) -> dict[str, Any]:
    """Lists are joined by "; ", some with a stray ";" at the end; the best answer comes first, and once."""
    best, correct = (value.get(name) or "" for name in ("Best Answer", "Correct Answers"))
    value = value | {"answers": list(dict.fromkeys([*_listed(best)[:1], *_listed(correct)]))}
    return value | {"Incorrect Answers": _listed(value.get("Incorrect Answers") or "")}


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(";") if item.strip()]


def _mend_longfact(value: dict[str, Any]) -> dict[str, Any]:
    return {name: item for name, item in value.items() if name != "canary"}


FORMATS = {
    f.name: f
    for f in (
        Format("nq_open", {"id": "id", "question": "question", "answers": "answer"}, _file),
        Format("sciq", {"id": "id", "question": "question", "answers": "correct_answer"}, _sciq),
        Format("simpleqa", {"id": "id", "question": "problem", "answers": "answer"}, _file, _mend_simpleqa),
        Format("truthfulqa", {"id": "id", "question": "Question", "answers": "answers"}, _file, _mend_truthfulqa),
        Format(
            "longfact",
            {"id": "id", "question": "prompt", "answers": "answers"},
            _longfact,
            _mend_longfact,
            without_answers=True,
            refused={"train": "its files carry a canary and must never be trained on"},
        ),
    )
}


def plain(fields: Mapping[str, str]) -> Format:
    """A JSONL, JSON, CSV or Parquet file with the user's own field names."""
    return Format("plain", fields, _file)


def check_path(path: str, *, format: Format) -> None:
    """Raise ValueError, without reading, if the records of this format cannot lie at `path`."""
    filesystem, inner = open_filesystem(path)
    if format.name == "longfact":
        if filesystem.get_file_info(inner).type != fs.FileType.Directory:
            raise ValueError(f"{path!r} is no directory; give the folder that holds LongFact's files")
        return
    if not (format.name == "sciq" and path.lower().endswith(".zip")):
        reader_of(path)
    find_file(path)
