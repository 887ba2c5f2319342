"""A chat model's JSON reply: one class says what it must hold.

A subclass of `JsonReply` enters. From it come the JSON schema that holds the reply while it is written
(`reply_schema`) and the strict reader of the text that arrives (`read_reply`): an object of the class leaves, or a
`Fault` that says what was given and what is allowed. Any text may come, so no text raises. Nothing is guessed and
nothing is defaulted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import ErrorDetails

P = ParamSpec("P")
T = TypeVar("T")
Model = TypeVar("Model", bound="JsonReply")
_DETAIL = 500  # characters of a fault: it goes back to the chat
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # a reasoning model may think before it replies
_FENCE_BEFORE = re.compile(r"\s*(?:```\w*\s*)?")
_FENCE_AFTER = re.compile(r"\s*(?:```\s*)?")
# Errors of pydantic that say "this is another kind of thing", not "this value is wrong".
_OTHER_SHAPE = frozenset({"missing", "extra_forbidden", "model_type", "list_type"})
_BOUNDED = {  # type in a JSON schema: its name, then how its bounds are introduced, given and counted
    "integer": ("a whole number", "from", "minimum", "maximum", ""),
    "number": ("a number", "from", "minimum", "maximum", ""),
    "string": ("a text", "of", "minLength", "maxLength", "characters"),
    "array": ("a list", "of", "minItems", "maxItems", "entries"),
}


@dataclass(frozen=True)
class Fault:
    """Why a reply cannot be used. Reasons: not_json, wrong_shape, truncated, and those of whoever reads it."""

    reason: str
    detail: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "detail", readable(self.detail)[:_DETAIL])


def readable(text: str) -> str:
    """Text that can be encoded, and so be quoted and stored: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


_DEEP = Fault("wrong_shape", "the reply is nested too deeply; it must hold the keys asked for and nothing below them")


class JsonReply(BaseModel):
    """What a chat is asked to reply. A subclass has a field for each key; none has a default.

    Fields are texts, numbers, flags, `Literal`s, lists and further subclasses, bounded by pydantic's `Field`. Another
    key is a fault, unless a subclass sets `extra="ignore"`; the JSON schema allows no other key in either case.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def reason(cls, field: str) -> str:
        """The reason of a fault where the value of a field is wrong. Asked of the class of the whole reply."""
        return "wrong_shape"


def reader(read: Callable[P, T | Fault]) -> Callable[P, T | Fault]:
    """Decorator of a function that reads a reply: a value too deep to be parsed or quoted is a fault."""

    @wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | Fault:
        try:
            return read(*args, **kwargs)
        except RecursionError:  # out here, for a Fault takes frames to make
            return _DEEP

    return guarded


def read_reply(text: str, model: type[Model], *, alone: bool = False) -> Model | Fault:
    """The object of class `model` that a reply holds: alone, in a code fence, after a thought, or with prose around it.

    `alone`: prose is refused. Faults: not_json, wrong_shape, and the reasons that the class gives.
    """
    try:
        return _read_reply(text, model, alone=alone)
    except RecursionError:  # see `reader`
        return _DEEP


def _read_reply(text: str, model: type[Model], *, alone: bool) -> Model | Fault:
    value = _parse_object(text, alone=alone)
    if isinstance(value, Fault):
        return value
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return _fault(error, model=model)


@lru_cache(maxsize=1024)
def reply_schema(model: type[JsonReply]) -> dict[str, Any]:
    """The JSON schema of a reply, as vLLM's grammars and OpenAI's strict mode take it. Not to be changed in place."""
    return model.model_json_schema(schema_generator=_ClosedObjects)


class _ClosedObjects(GenerateJsonSchema):
    """Schemas whose objects allow no further key, without the titles and docstrings of our classes."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        made = super().model_schema(schema)
        for word in ("title", "description"):
            made.pop(word, None)
        return made | {"additionalProperties": False}


def _fault(error: ValidationError, *, model: type[JsonReply]) -> Fault:
    """What is wrong first, and a missing key before any wrong value."""
    errors = error.errors(include_url=False)
    first = next((one for one in errors if one["type"] == "missing"), errors[0])
    kind, place = first["type"], first["loc"]
    if kind in ("missing", "extra_forbidden"):  # what is wrong is the object that holds the key
        place = place[:-1]
    given = _given(first)
    if kind == "extra_forbidden":
        beside = [str(one["loc"][-1]) for one in errors if one["type"] == kind and one["loc"][:-1] == place]
        given = f"has the keys {sorted(beside)!r:.200} beside those asked for"
    allowed = _allowed(_part(reply_schema(model), place=place)) or first["msg"]
    demand = str(first["ctx"]["error"]) if kind == "value_error" else f"it must be {allowed}"
    fields = [key for key in place if isinstance(key, str)]
    reason = "wrong_shape" if kind in _OTHER_SHAPE or not fields else model.reason(fields[-1])
    return Fault(reason, f"{_name_place(place)} {given}; {demand}")


def _given(error: ErrorDetails) -> str:
    """What stands in the reply, in words."""
    value = error["input"]
    if error["type"] == "missing":
        return f"is {sorted(map(str, value))[:20]!r:.200}"
    if error["type"] in ("too_short", "too_long"):
        return f"has {len(value)} entries"
    return f"is {value!r:.150}"


def _name_place(place: Sequence[str | int]) -> str:
    """Where in the reply, as `steps[0].labels[1]`."""
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return path.removeprefix(".") or "the reply"


def _part(schema: Mapping[str, Any], *, place: Sequence[str | int]) -> Mapping[str, Any]:
    """The part of a JSON schema that holds the value at `place`; empty where the schema has no such part."""
    definitions = schema.get("$defs", {})
    part: Mapping[str, Any] = schema
    for key in place:
        part = part.get("items", {}) if isinstance(key, int) else part.get("properties", {}).get(key, {})
        if "$ref" in part:
            part = definitions[part["$ref"].rpartition("/")[2]]
    return part


def _allowed(schema: Mapping[str, Any]) -> str:
    """What a JSON schema allows, in words; empty for one that allows several kinds of things."""
    kind = schema.get("type", "")
    if "enum" in schema:
        return f"one of {schema['enum']}"
    if "const" in schema:
        return repr(schema["const"])
    if kind == "boolean":
        return "true or false"
    if kind == "object":
        return f"an object with the keys {list(schema['properties'])}"
    if kind not in _BOUNDED:
        return ""
    name, before, lowest, highest, unit = _BOUNDED[kind]
    low, high = schema.get(lowest), schema.get(highest)
    if low is None and high is None:
        return name
    bounds = f"{low} to {high}"
    if low is None:
        bounds = f"at most {high}"
    if high is None:
        bounds = f"at least {low}"
    return f"{name} {before} {bounds} {unit}".rstrip()


def _parse_object(text: str, *, alone: bool) -> dict[str, Any] | Fault:
    """The one JSON object in `text`. Prose around it may quote another one; `alone` refuses any prose."""
    bare = _THOUGHT.sub("", text).lstrip()
    if bare.startswith("<think>"):  # what stands in it is a draft
        return Fault("not_json", "the thought has no end; reply with the JSON object after </think>, or alone")
    before, mark, after = bare.partition("</think>")
    if mark and "{" in after and not before.startswith("{"):  # the template opened the thought; the reply only ends it
        bare = after
    start = bare.find("{")
    if start < 0:
        return Fault("not_json", "the reply holds no JSON object; reply with the JSON object alone")
    decoder = json.JSONDecoder(object_pairs_hook=_no_key_twice)
    try:
        value: dict[str, Any]
        value, end = decoder.raw_decode(bare, start)
    except ValueError as error:  # also an integer of more than 4,300 digits
        return Fault("not_json", f"the reply is not JSON: {error}; reply with the JSON object alone")
    if "{" in bare[end:]:
        return Fault("not_json", "the reply holds more than one JSON object; reply with one")
    if alone and not (_FENCE_BEFORE.fullmatch(bare[:start]) and _FENCE_AFTER.fullmatch(bare[end:])):
        return Fault("not_json", "words stand around the JSON object; reply with the JSON object alone")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found
