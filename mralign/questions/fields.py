"""The fields of a record: what stands under a dotted name, and a value as texts.

A parsed record and a name enter. `answer.aliases` leads into an object, `output[].answer` (or `output.answer`) into
every element of a list, `choices[0].message` into one, and `answer_*` into every key of that pattern. A text on the way
that spells a list or an object counts as that. Texts leave: numbers and truth values become what a person would write.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from mralign.questions.literals import parse_literal

# Where the answer of an object lies that stands in place of an answer: {"value": ..., "aliases": [...]}.
MEMBERS = ("value", "answer", "answers", "text", "aliases")
_STEP = re.compile(r"\[(-?\d*)\]|([^.\[\]]+)")
_EACH = "[]"
_ABSENT = object()  # where nothing stands; null is something
_DEEPEST = 20  # lists and objects within each other that are opened


def fetch(record: Any, name: str, *, default: Any = None) -> Any:
    """What stands under `name`; `default` where nothing does. A key of exactly that name comes before all else.

    A name that passes a list or a pattern gives the list of what it finds.
    """
    if isinstance(record, Mapping) and name in record:
        return record[name]
    value = _walk(record, _steps(name))
    return default if value is _ABSENT else value


def keys_of(record: Mapping[str, Any], pattern: str) -> list[str]:
    """The record's own keys of a pattern such as answer_*, in the order of their numbers."""
    return _matching(record, pattern)


def _steps(name: str) -> list[str | int]:
    steps: list[str | int] = []
    for index, key in _STEP.findall(name):
        if key:
            steps.append(key)
        else:
            steps.append(int(index) if index else _EACH)
    return steps


def _walk(value: Any, steps: Sequence[str | int], *, depth: int = 0) -> Any:
    if not steps:
        return value
    if depth > _DEEPEST:
        return _ABSENT
    if isinstance(value, str):
        value = parse_literal(value)
    step, rest = steps[0], steps[1:]
    if isinstance(value, list | tuple):
        if isinstance(step, str) and step.isdecimal():
            step = int(step)
        if isinstance(step, int):
            return _walk(value[step], rest, depth=depth + 1) if -len(value) <= step < len(value) else _ABSENT
        return _gathered(_walk(item, rest if step == _EACH else steps, depth=depth + 1) for item in value)
    if not isinstance(value, Mapping) or isinstance(step, int):
        return _ABSENT
    if step in value:
        return _walk(value[step], rest, depth=depth + 1)
    if "*" in step:
        return _gathered(_walk(value[key], rest, depth=depth + 1) for key in _matching(value, step))
    return _ABSENT


def _gathered(values: Iterator[Any]) -> Any:
    """The values that are there and not null, lists among them opened; _ABSENT if there is none."""
    gathered: list[Any] = []
    for value in values:
        if isinstance(value, list):
            gathered += value
        elif value is not None and value is not _ABSENT:
            gathered.append(value)
    return gathered or _ABSENT


def _matching(record: Mapping[str, Any], pattern: str) -> list[str]:
    wanted = re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)
    return sorted((key for key in record if isinstance(key, str) and wanted.fullmatch(key)), key=_by_number)


def _by_number(key: str) -> list[tuple[int, str]]:
    """answer_2 comes before answer_10."""
    parts = re.split(r"(\d+)", key)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def texts_of(value: Any, *, lists: bool = True, depth: int = 0) -> list[str] | None:
    """The texts that a value holds, white space at their edges left out, blank ones dropped; None if it holds others.

    Numbers are written without a needless fraction (3, not 3.0), true is `yes` and `true`, false is `no` and `false`,
    dates are in ISO form. Lists are opened, and so are lists spelled in a text if `lists`; of an object, its MEMBERS.
    """
    if isinstance(value, str):
        spelled = parse_literal(value) if lists else None
        if spelled is None:
            return [value.strip()] if value.strip() else []
        value = spelled
    if isinstance(value, Mapping | list | tuple):
        return _texts_within(value, lists=lists, depth=depth)
    return _scalar_texts(value)


def _texts_within(value: Any, *, lists: bool, depth: int) -> list[str] | None:
    parts = _members(value) if isinstance(value, Mapping) else value
    if parts is None or depth > _DEEPEST:
        return None
    all_texts: list[str] = []
    for part in parts:
        texts = texts_of(part, lists=lists, depth=depth + 1)
        if texts is None:
            return None
        all_texts += texts
    return all_texts


def _members(value: Mapping[str, Any]) -> list[Any] | None:
    """What stands under MEMBERS, in their order and in whatever case; None if nothing does."""
    by_name = {str(key).lower(): item for key, item in value.items()}
    return [by_name[name] for name in MEMBERS if name in by_name] or None


def _scalar_texts(value: Any) -> list[str] | None:
    if value is None or value != value:  # a missing value: null, or a number that is none
        return []
    if isinstance(value, bool):
        return ["yes", "true"] if value else ["no", "false"]
    if isinstance(value, int | float | Decimal):
        return [number_text(value)]
    if isinstance(value, datetime.datetime) and value.time() == datetime.time.min:  # a day kept as a time stamp
        return [value.date().isoformat()]
    if isinstance(value, datetime.date | datetime.time):
        return [value.isoformat()]
    return None


def number_text(value: int | float | Decimal) -> str:
    """A number as a person writes it: 3 for 3.0, 0.1 for 0.1."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    whole = int(value)
    if whole == value and abs(whole) < 10**15:
        return str(whole)
    return format(value.normalize(), "f") if isinstance(value, Decimal) else repr(value)
