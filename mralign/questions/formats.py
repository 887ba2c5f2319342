"""What a record of a plain file or of a published data set says: its question, its gold answers, everything else.

Enters: the path of a source and, one by one, the parsed records of it. Leaves: `Draft`s, or a MalformedError that
says why a record is none. Plain records are read by a field map, and so are the data sets of named_formats.py; the
published formats of `PUBLISHED` have a fixed one, and quirks that stand beside the
code that handles them. Gold answers keep their text but for white space at the edges; `matching.normalize` sees
through the rest.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from pyarrow import fs

from mralign.config import NAMED_FORMATS, Source
from mralign.questions.literals import parse_literal
from mralign.questions.plain import FIELDS, Draft, FieldMap, question_of, read_plain
from mralign.questions.records import (
    READERS,
    Layout,
    MalformedError,
    Record,
    parse_document,
    read_bytes,
    read_jsonl,
    read_records,
)
from mralign.questions.streams import LARGEST_UNPACKED
from mralign.run.filesystems import open_filesystem

_MEMBERS = {"train": "train.json", "dev": "valid.json", "test": "test.json"}
_LONGFACT_NAME = re.compile(r"(?:longfact-)?(?P<kind>concepts|objects)_(?P<topic>.+)\.jsonl")
_LAYOUT = ("file", "records", "columns", "delimiter", "quotes", "skip_lines", "encoding")
_MEANING = ("lists", "answer_is", "shuffle_choices")
_SEPARATOR = re.compile(r";(?:\s+|$)")  # "; " or a stray ";" at the end; "a;b" is one answer


@dataclass(frozen=True)
class Format:
    """How a source is read: its suffixes, its records (from path and split), and what a record says.

    `names`: the names of our fields in a record, as far as there is a map.
    """

    suffixes: tuple[str, ...]
    draft: Callable[[dict], Draft]
    records: Callable[[str, str], Iterator[Record]] = lambda path, split: read_records(path)
    names: FieldMap | None = None


def choose(format: str, *, fields: Mapping[str, Any], **settings: Any) -> Format:
    """The format of that name; `fields` maps our id, question, answers and choices to names of the file.

    `settings`: further ones of config.Source. Raises ValueError for an unknown format or field, and for settings of a
    file with one of the published formats that are fixed.
    """
    source = Source(**{"name": "source", "path": "", **settings}, format=format, fields=dict(fields))
    if source.format in PUBLISHED:
        _check_fixed(source)
        return PUBLISHED[source.format]
    effective = _settings(source)
    mapped = effective["fields"]
    unknown = sorted(set(mapped) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown field names {unknown}; allowed are {list(FIELDS)}; all others are kept in `extra`")
    names = FieldMap(
        **{ours: _several(theirs) for ours, theirs in mapped.items()},
        lists=source.lists,
        answer_is=source.answer_is,
        shuffle_choices=source.shuffle_choices,
    )
    skip = effective["skip_lines"]
    layout = Layout(
        file=effective["file"],
        records=effective["records"],
        columns=tuple(effective["columns"]),
        delimiter=effective["delimiter"],
        quotes=effective["quotes"],
        skip_lines=0 if skip == "auto" else skip,
        encoding=effective["encoding"],
        header=names.question if skip == "auto" else (),
    )
    return Format(tuple(READERS), partial(read_plain, fields=names), partial(_laid_out, layout=layout), names)


def _settings(source: Source) -> dict[str, Any]:
    """The settings of the layout and the field map of a source; what it leaves at the default is its format's."""
    defaults = NAMED_FORMATS.get(source.format, {})
    effective = {name: getattr(source, name) for name in _LAYOUT}
    for name in _LAYOUT:
        if name in defaults and not _is_given(source, name):
            effective[name] = defaults[name]
    return {**effective, "fields": {**defaults.get("fields", {}), **source.fields}}


def _several(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _laid_out(path: str, split: str, *, layout: Layout) -> Iterator[Record]:
    return read_records(path, layout)


def _check_fixed(source: Source) -> None:
    if source.fields:
        raise ValueError(
            f"format {source.format!r} has its own field names, given fields {dict(source.fields)}; leave `fields` "
            f"out, or read the file as format 'plain'"
        )
    given = [name for name in (*_LAYOUT, *_MEANING) if _is_given(source, name)]
    if given:
        raise ValueError(
            f"format {source.format!r} is fixed, given {', '.join(given)}; leave out what is given, or read the file "
            f"as format 'plain' with `fields`"
        )


def _is_given(source: Source, name: str) -> bool:
    return bool(getattr(source, name) != Source.model_fields[name].default)


def longfact_files(path: str) -> tuple[fs.FileSystem, list[str]]:
    """The prompt files under a directory, in the order of their paths; hidden files and __MACOSX are left out.

    Raises ValueError if there is no such directory, no file in it, or a .jsonl file whose name tells no topic.
    """
    filesystem, inner = open_filesystem(path)
    if filesystem.get_file_info(inner).type != fs.FileType.Directory:
        raise ValueError(f"LongFact source {path!r} is no directory; give the one that holds longfact-*_<topic>.jsonl")
    entries = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    files = sorted(f.path for f in entries if f.type == fs.FileType.File and f.path.endswith(".jsonl"))
    files = [file for file in files if not _hidden(file.removeprefix(inner))]
    odd = [file for file in files if not _LONGFACT_NAME.fullmatch(PurePosixPath(file).name)]
    if odd or not files:
        raise ValueError(
            f"LongFact source {path!r} holds {f'the file {odd[0]!r}' if odd else 'no .jsonl file'}; topics stand in "
            f"file names only, longfact-concepts_<topic>.jsonl or longfact-objects_<topic>.jsonl; give that directory"
        )
    return filesystem, files


def _hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(path).parts)


_nq_open = partial(read_plain, fields=FieldMap(answers=("answer",)))


def _sciq(value: dict) -> Draft:
    """`distractor1` to `3` become one list. In 14 published rows one equals the answer, and stays."""
    draft = read_plain(value, FieldMap(answers=("correct_answer",)))
    numbered = sorted(key for key in draft.extra if key.startswith("distractor"))
    others = {key: item for key, item in draft.extra.items() if key not in numbered}
    return replace(draft, extra={"distractors": [draft.extra[key] for key in numbered], **others})


def _simpleqa(value: dict) -> Draft:
    """Ids are row numbers. `metadata` is a Python dict literal, not JSON."""
    draft = read_plain(value, FieldMap(id=(), question=("problem",), answers=("answer",)))
    return replace(draft, extra={**draft.extra, "metadata": _literal(value.get("metadata"))})


def _literal(text: Any) -> dict:
    try:
        metadata = ast.literal_eval(text)
        json.dumps(metadata)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise MalformedError("malformed_metadata", f"field 'metadata' is no Python literal: {error}") from error
    if not isinstance(metadata, dict):
        raise MalformedError("malformed_metadata", f"field 'metadata' holds a {type(metadata).__name__}, not a dict")
    return metadata


def _truthfulqa(value: dict) -> Draft:
    """Both CSV schemas and the hub's. Answers: the best one, then the other correct ones; names become snake_case."""
    row = {key.lower().replace(" ", "_"): item for key, item in value.items()}
    question = question_of(row, names=("question",))
    correct = _joined(row, field="correct_answers")
    best = _joined({"best_answer": [row.get("best_answer") or ""]}, field="best_answer")  # one text, never split
    answers = list(dict.fromkeys([*best, *correct]))
    if not answers:
        raise MalformedError("missing_answers", "field 'correct_answers' holds no answer")
    used = ("question", "correct_answers", "best_answer")
    others = {key: item for key, item in row.items() if key not in used}
    return Draft(question, answers, {**others, "incorrect_answers": _joined(row, field="incorrect_answers")})


def _joined(row: dict, *, field: str) -> list[str]:
    value = row.get(field)
    if value is None:
        raise MalformedError("missing_answers", f"no field {field!r}; the row has {list(row)}")
    parts = (parse_literal(value) or _SEPARATOR.split(value)) if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise MalformedError("wrong_type", f"field {field!r} must be text or a list of texts, not {value!r:.80}")
    return [part.strip() for part in parts if part.strip()]


def _longfact(value: dict) -> Draft:
    """A prompt has no gold answer. The canary stays in `extra`, so that copies of the rows still carry it."""
    question = question_of(value, names=("prompt",))
    return Draft(question, [], {key: item for key, item in value.items() if key != "prompt"})


def _factscore(value: dict) -> Draft:
    """The entity is the question; what the model is asked about it, the benchmark says. There is no gold answer."""
    question = question_of(value, names=("topic", "entity"))
    return Draft(question, [], {key: item for key, item in value.items() if key not in ("topic", "entity")})


def _longfact_records(path: str, split: str) -> Iterator[Record]:
    """Records of all files, keyed `<kind>_<topic>-<row in the file>`."""
    filesystem, files = longfact_files(path)
    for file in files:
        named = _LONGFACT_NAME.fullmatch(PurePosixPath(file).name)
        assert named is not None, file
        for number, record in enumerate(read_jsonl(filesystem, file, path)):
            value = {**record.value, **named.groupdict()} if isinstance(record.value, dict) else record.value
            yield replace(record, value=value, key=f"{named['kind']}_{named['topic']}-{number}")


def _sciq_records(path: str, split: str) -> Iterator[Record]:
    """Records of one of the JSON arrays, or of the member of the published zip that belongs to `split`.

    The zip's folder has spaces in its name and stands beside a `__MACOSX/` twin; both are read whole (3 + 10 MB).
    """
    if not path.partition("?")[0].lower().endswith(".zip"):
        return read_records(path)
    wanted = _MEMBERS[split]
    try:
        with zipfile.ZipFile(io.BytesIO(read_bytes(path))) as archive:
            names = [n for n in archive.namelist() if PurePosixPath(n).name == wanted and not _hidden(n)]
            if len(names) != 1:
                raise ValueError(
                    f"SciQ file {path!r} holds {len(names)} files {wanted}, not one; give SciQ.zip as it is"
                )
            if archive.getinfo(names[0]).file_size > LARGEST_UNPACKED:
                raise ValueError(
                    f"SciQ file {path!r}: {names[0]} unpacks to more than {LARGEST_UNPACKED} bytes; give SciQ.zip as "
                    f"it is"
                )
            with archive.open(names[0]) as member:  # a bound of its own: what the archive says of its size may be a lie
                data = member.read(LARGEST_UNPACKED + 1)
    except (zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"SciQ file {path!r} is not a whole zip file ({error}); fetch it again") from error
    return parse_document(data, path=f"{path}/{names[0]}")


PUBLISHED: dict[str, Format] = {
    "nq_open": Format(tuple(READERS), _nq_open),
    "sciq": Format((".zip", ".json"), _sciq, _sciq_records),
    "simpleqa": Format((".csv",), _simpleqa),
    "truthfulqa": Format((".csv",), _truthfulqa),
    "longfact": Format((), _longfact, _longfact_records),
    "factscore": Format(tuple(READERS), _factscore),
}
