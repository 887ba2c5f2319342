"""Readers of what an annotator's reply holds: steps, their labels, confidences (METHOD.md §2a).

A value out of a JSON reply enters; labels leave, or a `ShapeError` that says what was given and what is allowed.
Nothing is guessed and nothing is defaulted. What any JSON reply needs stands in asking/json_reply.py.
"""

from __future__ import annotations

from typing import Any

from mralign.annotation.step_labels import StepLabels
from mralign.asking.json_reply import ShapeError, fields, listed


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
