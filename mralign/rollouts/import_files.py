"""Files of rollouts that were made elsewhere, record by record.

A file of one mode enters, in any form that questions come in, with the names of its fields; what each record says
leaves, or why it cannot be used. Id, question and answers are read as those of a question are, so that both stages see
the same questions. One record is held at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mralign.config import ImportFields, resolve_path
from mralign.questions.fields import fetch
from mralign.questions.formats import Format, choose
from mralign.questions.records import MalformedError, Record
from mralign.questions.sources import check_source
from mralign.rows import Mode

_ABSENT = object()
_SYNTAX_FAULTS = ("malformed_json", "malformed_csv")
_LONGEST_DRAW = 1000  # digits


@dataclass(frozen=True)
class Imported:
    """What a record says; where there is a `reason`, why it cannot be used."""

    mode: Mode
    number: int  # of the record in its file, from 0
    question_id: str  # of a record that cannot be used, the row_id of its reject
    raw: str
    question: str = ""
    answers: list[str] = field(default_factory=list)
    response: str = ""
    thought: str = ""
    finish_reason: str = ""
    draw: str = ""  # a whole number; empty where the file does not number its draws
    reason: str = ""
    detail: str = ""


def check_file(path: str, *, fields: ImportFields) -> None:
    """Raise ValueError for a file that is not there or in no known form."""
    try:
        check_source(path, name="imported", split="train", format="auto", fields=_question_fields(fields))
    except ValueError as error:
        raise ValueError(f"file of imported rollouts: {error}") from None


def read_records(path: str, *, mode: Mode, name: str, fields: ImportFields) -> Iterator[Imported]:
    """Every record of the file or URI `path`, in order; `name`: of the data set.

    A record without an id has its number for one, as a question has. Reasons of those that cannot be used:
    missing_field, wrong_type, and what the reader of questions says (malformed_json, missing_question, ...).
    ValueError for a file that is not there, and, at its end, for one that is broken or cut off, or of which no record
    can be read.
    """
    check_file(resolve_path(path), fields=fields)
    place = resolve_path(path)
    form = choose("plain", fields=_question_fields(fields))
    last: Record | None = None
    first_fault: Imported | None = None
    number = -1
    any_read = False
    for number, record in enumerate(_records(form, place, mode=mode)):
        last = record
        found = _imported(record, form=form, mode=mode, number=number, name=name, fields=fields)
        if not found.reason:
            any_read = True
        elif first_fault is None:
            first_fault = found
        yield found
    setting = f"rollouts.import_{mode}={place}"
    _check_whole(setting, last=last, records=number + 1)
    if not any_read and first_fault is not None:
        raise ValueError(
            f"{setting}: none of its {number + 1} rows can be read; the first one: {first_fault.reason}, "
            f"{first_fault.detail}. It begins {first_fault.raw[:80]!r}. Name its fields in rollouts.import_fields"
        )


def _records(form: Format, path: str, *, mode: Mode) -> Iterator[Record]:
    try:
        yield from form.records(path, "train")
    except ValueError as error:  # the file as a whole is not what its name says
        raise ValueError(f"rollouts.import_{mode}: {error}") from error
    except (OSError, EOFError, pa.ArrowException) as error:  # what a cut or damaged archive gives
        raise ValueError(
            f"rollouts.import_{mode}={path} cannot be read to its end: {error}; fetch or write it again"
        ) from error


def _check_whole(setting: str, *, last: Record | None, records: int) -> None:
    if last is None:
        raise ValueError(f"{setting} holds no row; give the file that the rollouts were written to")
    if last.fault is not None and last.fault.reason in _SYNTAX_FAULTS:
        raise ValueError(
            f"{setting} is broken: its last record, line {records} (blank lines left out), cannot be read: "
            f"{last.fault}. It begins {last.raw[:80]!r}. The file seems cut off; fetch or write it again"
        )


def _imported(record: Record, *, form: Format, mode: Mode, number: int, name: str, fields: ImportFields) -> Imported:
    """What a record says, or why it cannot be used."""
    try:
        return _said(record, form=form, mode=mode, number=number, name=name, fields=fields)
    except MalformedError as fault:
        row_id, raw, detail = f"{name}/{mode}/row{number}", _storable(record.raw), _storable(str(fault))
        return Imported(mode, number, row_id, raw, reason=fault.reason, detail=detail)


def _said(record: Record, *, form: Format, mode: Mode, number: int, name: str, fields: ImportFields) -> Imported:
    """What a record says. MalformedError for one that cannot be used."""
    if record.fault is not None:
        raise record.fault
    value = record.value
    if not isinstance(value, dict):
        raise MalformedError("wrong_type", f"a row must be an object, got {type(value).__name__}")
    draft = form.draft(value)
    response = _text(value, fields.response)
    thought = _text(value, fields.thought, needed=False) if fields.thought else ""
    draw = _draw(value, fields.draw) if fields.draw else ""
    finish_reason = _finish_reason(value, fields.finish_reason)
    own_id = draft.own_id or record.key or str(number)
    try:  # JSON may spell half a character (\ud83d); no tokenizer can read it
        "".join([own_id, draft.question, *draft.answers, response, thought, finish_reason]).encode()
    except UnicodeEncodeError as error:
        raise MalformedError("wrong_type", f"not valid Unicode: {error.reason}") from error
    return Imported(
        mode=mode,
        number=number,
        question_id=f"{name}/{own_id}",
        raw=_storable(record.raw),
        question=draft.question,
        answers=draft.answers,
        response=response,
        thought=thought,
        finish_reason=finish_reason,
        draw=draw,
    )


def _storable(text: str) -> str:
    """The text with a question mark for each half of a character, as rejects are stored."""
    return text.encode("utf-8", "replace").decode()


def _question_fields(fields: ImportFields) -> dict[str, str | tuple[str, ...]]:
    return {"id": fields.id, "question": fields.question, "answers": fields.answers}


def _value(record: dict[str, Any], name: str, *, default: Any = None) -> Any:
    """What stands under `name`, else `default`. A name that passes a list (content[].text) gives a list: one of one is
    that one."""
    value = fetch(record, name, default=default)
    if "[]" in name and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def _needed(record: dict[str, Any], name: str) -> Any:
    value = _value(record, name, default=_ABSENT)
    if value is _ABSENT:
        raise MalformedError("missing_field", f"no field {name!r}; the row has {sorted(map(str, record))}")
    return value


def _text(record: dict[str, Any], name: str, *, needed: bool = True) -> str:
    value = _needed(record, name) if needed else _value(record, name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str):
        raise MalformedError("wrong_type", f"field {name!r} must be text, not {type(value).__name__}")
    return value


def _draw(record: dict[str, Any], name: str) -> str:
    """The number of a draw, as text: a file may write one that no column of numbers holds."""
    value = _needed(record, name)
    digits = str(value)
    if not digits.isdecimal() or len(digits) > _LONGEST_DRAW:
        raise MalformedError("wrong_type", f"the draw must be a number from 0, not {value!r:.80}")
    return str(int(digits))


def _finish_reason(record: dict[str, Any], name: str | None) -> str:
    """The file's own word; `stop` where the row has no such field or none is read. Null is a word that says nothing."""
    return str(_value(record, name, default="stop")) if name else "stop"
