"""From an annotator's reply to labels, or to the reason why it is none (METHOD.md §2a, validation).

The text of a reply enters; an `Opinion` (or the adjudicator's labels) leaves, or a `Fault` whose detail says what was
given and what is allowed: it is quoted in the repair request. Nothing is guessed and nothing is defaulted. Any text may
come, so no text raises. The JSON schemas that hold a reply, where the engine can, stand here beside their readers; a
schema bounds every index to the trajectory's segments, and what no schema can say (one partition, no gap) is checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mralign.annotation.consensus import Span, label_fault, validate
from mralign.annotation.taxonomy import Taxonomy
from mralign.engines.labels import StepLabels

_DETAIL = 500  # characters of a fault: it goes back to the annotator
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)  # a reasoning model may think before it replies


@dataclass(frozen=True)
class Opinion:
    """One annotator's valid steps over a trajectory, and its confidence in the whole, 0..10; None: it has none."""

    steps: tuple[StepLabels, ...]
    confidence: float | None = None


@dataclass(frozen=True)
class Fault:
    """Why a reply holds no labels. Reasons: not_json, wrong_shape, bad_segments, bad_labels."""

    reason: str
    detail: str

    def __post_init__(self) -> None:
        readable = self.detail.encode("utf-8", "replace").decode()  # a lone surrogate would break who quotes it
        object.__setattr__(self, "detail", readable[:_DETAIL])


_DEEP = Fault("wrong_shape", "the reply is nested too deeply; it must hold the keys asked for and nothing below them")


class _ShapeError(Exception):
    """A value is not of the shape that the reply must have; only raised and caught in this file."""


def annotation_schema(*, segments: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an annotator's reply on a thought of `segments` base segments."""
    step = _object(
        segments={"type": "array", "items": _integer(0, segments - 1), "minItems": 1, "maxItems": segments},
        labels=_labels_schema(taxonomy),
    )
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": segments}
    return _object(steps=steps, confidence=_integer(0, 10))


def adjudication_schema(*, disputes: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an adjudicator's reply on so many disputed steps: one entry each, by its number from 1."""
    return _object(**{f"dispute_{number}": _labels_schema(taxonomy) for number in range(1, disputes + 1)})


def read_annotation(text: str, *, segments: int, taxonomy: Taxonomy) -> Opinion | Fault:
    """An annotator's reply on `segments` base segments."""
    try:
        return _annotation(text, segments=segments, taxonomy=taxonomy)
    except RecursionError:  # a value too deep to be parsed or quoted; here, because a Fault takes frames to make, too
        return _DEEP


def _annotation(text: str, *, segments: int, taxonomy: Taxonomy) -> Opinion | Fault:
    try:
        body = _fields(_parse(text), "steps", "confidence", what="the reply")
        drafts = _list(body["steps"], what="steps")
        steps = [_step(draft, what=f"step {number}") for number, draft in enumerate(drafts)]
        confidence = _confidence(body["confidence"], what="the final confidence")
    except _ShapeError as error:
        return Fault(*error.args)
    for number, step in enumerate(steps):
        fault = label_fault(step, taxonomy=taxonomy)
        if fault:
            return Fault("bad_labels", f"step {number} {fault}")
    fault = validate(steps, segments=segments, taxonomy=taxonomy)
    return Fault("bad_segments", fault) if fault else Opinion(tuple(steps), confidence)


def read_adjudication(text: str, *, spans: Sequence[Span], taxonomy: Taxonomy) -> tuple[StepLabels, ...] | Fault:
    """An adjudicator's reply on disputed spans, in their order."""
    try:
        return _adjudication(text, spans=spans, taxonomy=taxonomy)
    except RecursionError:  # as above
        return _DEEP


def _adjudication(text: str, *, spans: Sequence[Span], taxonomy: Taxonomy) -> tuple[StepLabels, ...] | Fault:
    names = [f"dispute_{number}" for number in range(1, len(spans) + 1)]
    try:
        body = _fields(_parse(text), *names, what="the reply")
        verdicts = [
            StepLabels(first, last, *_labels(body[name], what=name))
            for name, (first, last) in zip(names, spans, strict=True)
        ]
    except _ShapeError as error:
        return Fault(*error.args)
    for name, verdict in zip(names, verdicts, strict=True):
        fault = label_fault(verdict, taxonomy=taxonomy)
        if fault:
            return Fault("bad_labels", f"{name} {fault}")
    return tuple(verdicts)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _labels_schema(taxonomy: Taxonomy) -> dict[str, Any]:
    item = _object(label={"type": "string", "enum": list(taxonomy.labels)}, confidence=_integer(0, 10))
    return {"type": "array", "items": item, "maxItems": 2}


def _parse(text: str) -> Any:
    """The one JSON object in `text`: alone, in a code fence, after a thought, or with prose around it."""
    bare = _THOUGHT.sub("", text).lstrip()
    if bare.startswith("<think>"):  # what stands in it is a draft
        raise _ShapeError("not_json", "the thought has no end; reply with the JSON object after </think>, or alone")
    start = bare.find("{")
    if start < 0:
        raise _ShapeError("not_json", "the reply holds no JSON object; reply with the JSON object alone")
    decoder = json.JSONDecoder(object_pairs_hook=_no_key_twice)
    try:
        value, end = decoder.raw_decode(bare, start)
    except ValueError as error:  # also an integer of more than 4,300 digits
        raise _ShapeError("not_json", f"the reply is not JSON: {error}; reply with the JSON object alone") from None
    if "{" in bare[end:]:
        raise _ShapeError("not_json", "the reply holds more than one JSON object; reply with one")
    return value


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _fields(value: Any, *names: str, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not set(names) <= set(value):
        given = sorted(map(str, value))[:20] if isinstance(value, dict) else type(value).__name__
        raise _ShapeError("wrong_shape", f"{what} is {given!r:.200}; it must be an object with the keys {list(names)}")
    return value


def _list(value: Any, *, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise _ShapeError("wrong_shape", f"{what} is {value!r:.100}; it must be a list")
    return value


def _step(value: Any, *, what: str) -> StepLabels:
    fields = _fields(value, "segments", "labels", what=what)
    indices = _list(fields["segments"], what=f"{what}: segments")
    if not indices or not all(type(index) is int for index in indices):
        raise _ShapeError(
            "bad_segments", f"{what}: segments is {indices!r:.100}; it must be a list of one or more whole numbers"
        )
    if indices != list(range(indices[0], indices[0] + len(indices))):
        raise _ShapeError("bad_segments", f"{what}: segments {indices!r:.100} are not neighbours in ascending order")
    return StepLabels(indices[0], indices[-1], *_labels(fields["labels"], what=what))


def _labels(value: Any, *, what: str) -> tuple[tuple[str, ...], tuple[float, ...]]:
    entries = [_fields(e, "label", "confidence", what=f"{what}: a label") for e in _list(value, what=f"{what}: labels")]
    labels = [entry["label"] for entry in entries]
    if not all(isinstance(label, str) for label in labels):
        raise _ShapeError("bad_labels", f"{what}: labels {labels!r:.100} must be texts")
    return tuple(labels), tuple(_confidence(e["confidence"], what=f"{what}: a confidence") for e in entries)


def _confidence(value: Any, *, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 10:  # NaN compares false
        raise _ShapeError("bad_labels", f"{what} is {value!r:.50}; it must be a number from 0 to 10")
    return float(value)
