"""Data sets and user files as batches of questions.

Enters: a file in JSONL, JSON, CSV, TSV or Parquet, packed or not, a published data set as it was published, on this
machine, behind a pyarrow.fs URI or an fsspec URL, or a data set of the hub. Leaves: tables of schema QUESTIONS, one a
batch, and the rows that could not become one, each with its reason and its raw text. Sources are streams: what is held
in memory is one batch. method.md §1.

Row numbers count records from 0 (blank lines of JSONL are no records), as SimpleQA's published ids do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import nsmallest
from itertools import islice
from typing import Any

import pyarrow as pa

from mralign.questions import hub
from mralign.questions.formats import choose, longfact_files
from mralign.questions.matching import can_match
from mralign.questions.plain import Draft
from mralign.questions.records import MalformedError, Record, is_file
from mralign.questions.streams import PACKED, split_suffix
from mralign.rows import Question, Reject, to_table

SPLITS = ("train", "dev", "test")


def check_source(
    path: str, *, name: str, split: str, format: str = "auto", fields: Mapping[str, Any], **settings: Any
) -> None:
    """Raise ValueError for what can be known before a source is read: cheap, and without asking the hub.

    A wrong name, split, format, field or suffix; a file or directory that is not there; a train split
    of LongFact or FActScore.
    `settings`: further ones of config.Source.
    """
    if "/" in name or not name:
        raise ValueError(f"data set name {name!r} must not be empty or hold a '/': question ids are name/id; rename it")
    if not name.isprintable():
        raise ValueError(f"data set name {name!r} holds signs that no terminal or page may show; rename it")
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not known; allowed are {', '.join(SPLITS)}; choose one of them")
    suffixes = choose(format, fields=fields, **settings).suffixes
    if split == "train" and format == "factscore":
        raise ValueError(
            f"FActScore source {path!r} has no gold answers, so nothing can be trained on it; move it to questions.dev "
            f"or questions.test"
        )
    if format == "longfact":
        _check_longfact(path, split=split)
    elif path.startswith(hub.SCHEME):
        hub.check(path, split=split)
    else:
        _check_file(path, format=format, suffixes=suffixes, file=settings.get("file", "auto"))


def read_batches(
    path: str,
    *,
    name: str,
    split: str,
    format: str = "auto",
    fields: Mapping[str, Any],
    skip: int = 0,
    limit: int | None = None,
    sample: int | None = None,
    rows: int = 50_000,
    **settings: Any,
) -> Iterator[tuple[pa.Table, list[Reject]]]:
    """Questions of one source, at most `rows` records a time: (schema QUESTIONS, the rejects of those records).

    `path`: local path, pyarrow.fs URI or fsspec URL ending in .jsonl, .ndjson, .json, .csv, .tsv or .parquet (packed or
    not), what a published `format` is made of, or a hub URL (see hub.py). `name`: the data set, prefix of every
    question_id. `split`: train | dev | test. `fields`: our `id`, `question`, `answers`, `choices` -> the file's names
    (default: the same, and no choices); a format has its own. `skip`: leave out the first so many records; `limit`:
    then read so many; `sample`: of those, keep so many whose numbers have the smallest hashes. `settings`: further ones
    of config.Source, on the layout of the file and the meaning of the answers. Question and answers lose white space at
    their edges; blank answers are dropped; all other fields go to `extra` as JSON; a record without an id gets its row
    number.

    Memory: one batch, and a whole sample; but a JSON document and SciQ.zip are read whole. Repeated ids are left to
    find_repeats.

    Reject reasons: malformed_json, malformed_csv, malformed_metadata, missing_question, missing_answers,
    unmatchable_answers (nothing of any alias can be seen), wrong_type, answer_not_a_choice, ambiguous_answer. Raises
    ValueError as check_source does, for a limit, sample or rows below 1, a skip below 0, and for an unreadable source.
    """
    check_source(path, name=name, split=split, format=format, fields=fields, **settings)
    if limit is not None and limit < 1:
        raise ValueError(f"limit {limit} allows no question; give a number from 1, or leave it out to read the file")
    if sample is not None and sample < 1:
        raise ValueError(f"sample {sample} allows no question; give a number from 1, or leave it out to keep all")
    if skip < 0:
        raise ValueError(f"skip {skip} is below 0; give the number of records to leave out at the beginning")
    if rows < 1:
        raise ValueError(f"rows {rows}: a batch holds at least one record; give a number from 1")
    chosen = choose(format, fields=fields, **settings)
    records = hub.read_records(path, split=split) if path.startswith(hub.SCHEME) else chosen.records(path, split)
    end = None if limit is None else skip + limit
    # A record keeps its number in the file.
    numbered: Iterator[tuple[int, Record]] = islice(enumerate(records), skip, end)
    if sample is not None:
        numbered = iter(sorted(nsmallest(sample, numbered, key=_place), key=lambda pair: pair[0]))
    return _batches(numbered, draft=chosen.draft, name=name, split=split, rows=rows)


def _place(pair: tuple[int, Record]) -> bytes:
    """A record's place in an order that has nothing to do with what it says."""
    return hashlib.sha256(str(pair[0]).encode()).digest()


def _batches(
    numbered: Iterator[tuple[int, Record]], *, draft: Callable[[dict], Draft], name: str, split: str, rows: int
) -> Iterator[tuple[pa.Table, list[Reject]]]:
    while batch := list(islice(numbered, rows)):
        questions: list[Question] = []
        rejects: list[Reject] = []
        for number, record in batch:
            try:
                questions.append(_question(record, draft=draft, number=number, name=name, split=split))
            except MalformedError as fault:
                row_id = f"{name}/{record.key or f'row{number}'}"
                rejects.append(Reject(row_id, fault.reason, str(fault), record.raw, dataset=name))
        yield to_table(questions, Question), rejects


def _question(record: Record, *, draft: Callable[[dict], Draft], number: int, name: str, split: str) -> Question:
    """What a record says, as a row. MalformedError for one that cannot become a question."""
    if record.fault is not None:
        raise record.fault
    if not isinstance(record.value, dict):
        raise MalformedError("wrong_type", f"a record must be an object, this is a {type(record.value).__name__}")
    said = draft(record.value)
    own_id = said.own_id or record.key or str(number)
    choices = said.choices
    if choices and said.shuffle:
        choices = choices.shuffled(by=own_id)
    answers = choices.golds() if choices else said.answers
    texts = list(choices.texts) if choices else None
    _refuse_surrogates([own_id, said.question, *answers, *(texts or [])])
    if answers and not any(can_match(alias) for alias in answers):
        raise MalformedError("unmatchable_answers", f"no text can match the gold answers {answers!r:.80}")
    try:
        extra = json.dumps(said.extra, default=str)
    except (RecursionError, TypeError, ValueError) as error:  # nested without end, or keys that are no texts
        raise MalformedError("wrong_type", f"its other fields cannot be kept as JSON: {error}") from error
    return Question(
        question_id=f"{name}/{own_id}",
        dataset=name,
        split=split,
        question=said.question,
        answers=answers,
        choices=texts,
        extra=extra,
    )


def _refuse_surrogates(texts: Sequence[str]) -> None:
    """MalformedError for half a character: JSON may spell one, but Arrow, like UTF-8, cannot hold it."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise MalformedError("wrong_type", f"not valid Unicode: {error.reason}") from error


def _check_longfact(path: str, *, split: str) -> None:
    if split == "train":
        raise ValueError(
            f"LongFact source {path!r} carries a canary: its prompts must never be trained on; move it to "
            f"questions.dev or questions.test"
        )
    if path.startswith(hub.SCHEME):
        raise ValueError(
            f"format 'longfact' has its topics in file names; {path!r} has none; give the directory of files"
        )
    longfact_files(path)


def _check_file(path: str, *, format: str, suffixes: tuple[str, ...], file: str) -> None:
    suffix, packing = split_suffix(path)
    allowed = f"{', '.join(suffixes)} for format {format!r}"
    if file == "auto" and suffix not in suffixes:
        raise ValueError(
            f"question file {path!r} has suffix {suffix!r}; allowed are {allowed}, each with {', '.join(PACKED)} "
            f"behind it if it is packed; convert it, or say with `file` what it is"
        )
    form = suffix if file == "auto" else f".{file}"
    if packing and form == ".parquet":
        raise ValueError(f"question file {path!r}: a packed Parquet file cannot be read piece by piece; unpack it")
    if not is_file(path):
        raise ValueError(
            f"question file {path!r} does not exist or is no file; give a local path or a URI (s3://, gs://, file://, "
            f"https://) of an existing {', '.join(suffixes)} file"
        )
