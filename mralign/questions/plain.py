"""What a plain record says, read by a map of fields.

A parsed record and a `FieldMap` enter. A `Draft` leaves: the question, its gold answers or its choices, the id that the
record carries, and everything else; or a MalformedError that says why the record is no question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mralign.questions.choices import Choices, marked, offered, resolve
from mralign.questions.fields import fetch, keys_of, texts_of
from mralign.questions.records import MalformedError

FIELDS = ("id", "question", "answers", "choices")


@dataclass(frozen=True)
class Draft:
    """What a record says. `own_id`: the id it carries, if any; `extra`: its other fields.

    The answers of a question with choices are those of `choices`; if `shuffle`, the order is not yet the one in which
    they are shown.
    """

    question: str
    answers: list[str]
    extra: dict[str, Any]
    own_id: str | None = None
    choices: Choices | None = None
    shuffle: bool = False


@dataclass(frozen=True)
class FieldMap:
    """The names of our fields in a record, several of each; settings of config.Source of the same names."""

    id: tuple[str, ...] = ("id",)
    question: tuple[str, ...] = ("question",)
    answers: tuple[str, ...] = ("answers",)
    choices: tuple[str, ...] = ()
    lists: bool = True
    answer_is: str = "auto"
    shuffle_choices: bool = False
    used: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "used", frozenset([*self.id, *self.question, *self.answers, *self.choices]))


def read_plain(record: Mapping[str, Any], fields: FieldMap) -> Draft:
    """The draft of a record.

    Reasons of MalformedError: missing_question, missing_answers, wrong_type, and with choices answer_not_a_choice and
    ambiguous_answer.
    """
    own_id = _own_id(_first(record, fields.id), names=fields.id)
    question = question_of(record, names=fields.question)
    used = fields.used.union(*(keys_of(record, name) for name in fields.used if "*" in name))
    extra = {key: value for key, value in record.items() if key not in used}
    if fields.choices and any(fetch(record, name) is not None for name in fields.choices):
        choices = _choices(record, fields=fields)
        shuffle = fields.shuffle_choices or _given_away(fields)
        return Draft(question, choices.golds(), extra, own_id, choices, shuffle)
    return Draft(question, _answers(record, fields=fields), extra, own_id)


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """What stands under the first of `names` that is there; None if none is."""
    for name in names:
        value = fetch(record, name)
        if value is not None:
            return value
    return None


def _own_id(value: Any, *, names: tuple[str, ...]) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise MalformedError("wrong_type", f"field {_named(names)} must be text or an integer, not {value!r:.80}")
    return str(value)


def question_of(record: Mapping[str, Any], *, names: tuple[str, ...]) -> str:
    """The text under the first of `names` that is there; MalformedError missing_question or wrong_type."""
    value = _first(record, names)
    if value is None:
        raise MalformedError("missing_question", f"no field {_named(names)}; the row has {list(record)}")
    if not isinstance(value, str):
        raise MalformedError("wrong_type", f"field {_named(names)} must be text, not {type(value).__name__}")
    if not value.strip():
        raise MalformedError("missing_question", f"field {_named(names)} is blank")
    return value.strip()


def _answers(record: Mapping[str, Any], *, fields: FieldMap) -> list[str]:
    values = {name: fetch(record, name) for name in fields.answers}
    there = {name: value for name, value in values.items() if value is not None}
    if not there:
        raise MalformedError("missing_answers", f"no field {_named(fields.answers)}; the row has {list(record)}")
    answers: list[str] = []
    for name, value in there.items():
        texts = texts_of(value, lists=fields.lists)
        if texts is None:
            raise MalformedError("wrong_type", f"field {name!r} must hold text, a number or a list, not {value!r:.80}")
        answers += texts
    if not answers:
        raise MalformedError("missing_answers", f"field {_named(fields.answers)} holds no answer")
    return list(dict.fromkeys(answers))


def _choices(record: Mapping[str, Any], *, fields: FieldMap) -> Choices:
    """The choices of a record, and which of them its answers name."""
    try:
        choices = offered({name: fetch(record, name) for name in fields.choices})
    except ValueError as error:
        raise MalformedError("wrong_type", f"field {_named(fields.choices)}: {error}") from error
    reading = "text" if fields.answer_is == "auto" and _given_away(fields) else fields.answer_is
    named: list[Any] = []
    for name in fields.answers:
        named += [value for value in _opened(fetch(record, name)) if value not in (None, "")]
    if not named:
        raise MalformedError("missing_answers", f"field {_named(fields.answers)} names none of the choices")
    marks = marked(named, choices) if fields.answer_is == "auto" else None
    try:
        right = set(marks) if marks else {resolve(value, choices, reading=reading) for value in named}
    except LookupError as error:
        raise MalformedError("ambiguous_answer", str(error.args[0])) from error
    except ValueError as error:
        raise MalformedError("answer_not_a_choice", str(error)) from error
    return Choices(choices.texts, tuple(sorted(right)))


def _opened(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _given_away(fields: FieldMap) -> bool:
    """Whether the answer's own field is one of the choices, so that its place tells the answer."""
    return bool(set(fields.answers) & set(fields.choices))


def _named(names: tuple[str, ...]) -> str:
    return " or ".join(map(repr, names))
