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

from mralign.engines.labels import StepLabels

P = ParamSpec("P")
T = TypeVar("T")
_DETAIL = 500  # characters of a fault: it goes back to the annotator
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # a reasoning model may think before it replies


@dataclass(frozen=True)
class Fault:
    """Why a reply cannot be used. Reasons: not_json, wrong_shape, bad_segments, bad_labels."""

    reason: str
    detail: str

    def __post_init__(self) -> None:
        readable = self.detail.encode("utf-8", "replace").decode()  # a lone surrogate would break who quotes it
        object.__setattr__(self, "detail", readable[:_DETAIL])


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


def parse_object(text: str) -> Any:
    """The one JSON object in `text`: alone, in a code fence, after a thought, or with prose around it."""
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


def listed(value: Any, *, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise ShapeError("wrong_shape", f"{what} is {value!r:.100}; it must be a list")
    return value


def step_labels(value: Any, *, what: str) -> StepLabels:
    """One step: {segments: neighbours in ascending order, labels: [{label, confidence}]}."""
    found = fields(value, "segments", "labels", what=what)
    indices = listed(found["segments"], what=f"{what}: segments")
    if not indices or not all(type(index) is int for index in indices):
        raise ShapeError(
            "bad_segments", f"{what}: segments is {indices!r:.100}; it must be a list of one or more whole numbers"
        )
    if indices != list(range(indices[0], indices[0] + len(indices))):
        raise ShapeError("bad_segments", f"{what}: segments {indices!r:.100} are not neighbours in ascending order")
    return StepLabels(indices[0], indices[-1], *labels(found["labels"], what=what))


def labels(value: Any, *, what: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Labels and their confidences, of a list of {label, confidence}."""
    entries = [fields(e, "label", "confidence", what=f"{what}: a label") for e in listed(value, what=f"{what}: labels")]
    names = [entry["label"] for entry in entries]
    if not all(isinstance(name, str) for name in names):
        raise ShapeError("bad_labels", f"{what}: labels {names!r:.100} must be texts")
    return tuple(names), tuple(confidence(e["confidence"], what=f"{what}: a confidence") for e in entries)


def confidence(value: Any, *, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:  # NaN compares false
        raise ShapeError("bad_labels", f"{what} is {value!r:.50}; it must be a number from 0 to 10")
    return float(value)
