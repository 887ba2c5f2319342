"""Readers of a chat model's JSON reply.

The text of a reply enters; a value leaves, or a `Fault` that says what was given and what is allowed. Any text may
come, so no text raises: what is read here is read by functions that raise `ShapeError`, and `reader` alone catches it.
Nothing is guessed and nothing is defaulted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_DETAIL = 500  # characters of a fault: it goes back to the chat
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # a reasoning model may think before it replies
_FENCE_BEFORE = re.compile(r"\s*(?:```\w*\s*)?")
_FENCE_AFTER = re.compile(r"\s*(?:```\s*)?")


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


class ShapeError(Exception):
    """(reason, detail): a value is not what the reply must hold. Raised while reading, caught by `reader`."""


def reader(read: Callable[P, T | Fault]) -> Callable[P, T | Fault]:
    """Decorator of a function that reads a reply: a `ShapeError` that it raises is returned as a fault."""

    def judged(*args: P.args, **kwargs: P.kwargs) -> T | Fault:
        try:
            return read(*args, **kwargs)
        except ShapeError as error:
            return Fault(*error.args)

    @wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T | Fault:
        try:
            return judged(*args, **kwargs)
        except RecursionError:  # a value too deep to be parsed or quoted; out here, for a Fault takes frames to make
            return _DEEP

    return guarded


def object_schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def integer_schema(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def parse_object(text: str, *, alone: bool = False) -> Any:
    """The one JSON object in `text`: alone, in a code fence, after a thought, or with prose around it.

    `alone`: prose is refused, for an object in prose may be a quotation of the text that is judged.
    """
    bare = _THOUGHT.sub("", text).lstrip()
    if bare.startswith("<think>"):  # what stands in it is a draft
        raise ShapeError("not_json", "the thought has no end; reply with the JSON object after </think>, or alone")
    before, mark, after = bare.partition("</think>")
    if mark and "{" in after and not before.startswith("{"):  # the template opened the thought; the reply only ends it
        bare = after
    start = bare.find("{")
    if start < 0:
        raise ShapeError("not_json", "the reply holds no JSON object; reply with the JSON object alone")
    decoder = json.JSONDecoder(object_pairs_hook=_no_key_twice)
    try:
        value, end = decoder.raw_decode(bare, start)
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise ShapeError("not_json", f"the reply is not JSON: {error}; reply with the JSON object alone") from None
    if "{" in bare[end:]:
        raise ShapeError("not_json", "the reply holds more than one JSON object; reply with one")
    if alone and not (_FENCE_BEFORE.fullmatch(bare[:start]) and _FENCE_AFTER.fullmatch(bare[end:])):
        raise ShapeError("not_json", "words stand around the JSON object; reply with the JSON object alone")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def fields(value: Any, *names: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(names) <= set(value):
        given = sorted(map(str, value))[:20] if isinstance(value, dict) else type(value).__name__
        raise ShapeError("wrong_shape", f"{what} is {given!r:.200}; it must be an object with the keys {list(names)}")
    return value


def only_fields(value: Any, *names: str, what: str) -> dict[str, Any]:
    """As `fields`, but another key is a fault as well."""
    found = fields(value, *names, what=what)
    odd = sorted(set(found) - set(names))
    if odd:
        raise ShapeError("wrong_shape", f"{what} has the keys {odd!r:.200} beside those asked for: {list(names)}")
    return found


def flag(value: Any, *, what: str) -> bool:
    if type(value) is not bool:
        raise ShapeError("wrong_shape", f"{what} is {value!r:.100}; it must be true or false")
    return value


def listed(value: Any, *, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ShapeError("wrong_shape", f"{what} is {value!r:.100}; it must be a list")
    return value
