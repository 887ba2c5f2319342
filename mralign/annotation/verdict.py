"""From an annotator's reply to labels, or to the reason why it is none (METHOD.md §2a, validation).

The text of a reply enters; an `Opinion` (or the adjudicator's labels) leaves, or a `Fault` whose detail says what was
given and what is allowed: it is quoted in the repair request. Nothing is guessed and nothing is defaulted. Any text may
come, so no text raises. The JSON schemas that hold a reply, where the engine can, stand here beside their readers; a
schema bounds every index to the trajectory's segments, and what no schema can say (one partition, no gap) is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mralign.annotation.consensus import Span, label_fault, validate
from mralign.annotation.reply import confidence, labels, step_labels
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.asking.json_reply import Fault, fields, integer_schema, listed, object_schema, parse_object, reader


@dataclass(frozen=True)
class Opinion:
    """One annotator's valid steps over a trajectory, and its confidence in the whole, 0..10; None: it has none."""

    steps: tuple[StepLabels, ...]
    confidence: float | None = None


def annotation_schema(*, segments: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an annotator's reply on a thought of `segments` base segments."""
    step = object_schema(
        segments={"type": "array", "items": integer_schema(0, segments - 1), "minItems": 1, "maxItems": segments},
        labels=_labels_schema(taxonomy),
    )
    steps = {"type": "array", "items": step, "minItems": 1, "maxItems": segments}
    return object_schema(steps=steps, confidence=integer_schema(0, 10))


def adjudication_schema(*, disputes: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an adjudicator's reply on so many disputed steps: one entry each, by its number from 1."""
    entry = {"$ref": "#/$defs/labels"}  # the labels stand in it once: endpoints limit the size of a schema
    schema = object_schema(**{f"dispute_{number}": entry for number in range(1, disputes + 1)})
    return schema | {"$defs": {"labels": _labels_schema(taxonomy)}}


@reader
def read_annotation(text: str, *, segments: int, taxonomy: Taxonomy) -> Opinion | Fault:
    """An annotator's reply on `segments` base segments."""
    found = fields(parse_object(text), "steps", "confidence", what="the reply")
    drafts = listed(found["steps"], what="steps")
    steps = [step_labels(draft, what=f"step {number}") for number, draft in enumerate(drafts)]
    whole = confidence(found["confidence"], what="the final confidence")
    for number, step in enumerate(steps):
        fault = label_fault(step, taxonomy=taxonomy)
        if fault:
            return Fault("bad_labels", f"step {number} {fault}")
    fault = validate(steps, segments=segments, taxonomy=taxonomy)
    return Fault("bad_segments", fault) if fault else Opinion(tuple(steps), whole)


@reader
def read_adjudication(text: str, *, spans: Sequence[Span], taxonomy: Taxonomy) -> tuple[StepLabels, ...] | Fault:
    """An adjudicator's reply on disputed spans, in their order."""
    names = [f"dispute_{number}" for number in range(1, len(spans) + 1)]
    found = fields(parse_object(text), *names, what="the reply")
    verdicts = [
        StepLabels(first, last, *labels(found[name], what=name))
        for name, (first, last) in zip(names, spans, strict=True)
    ]
    for name, verdict in zip(names, verdicts, strict=True):
        fault = label_fault(verdict, taxonomy=taxonomy)
        if fault:
            return Fault("bad_labels", f"{name} {fault}")
    return tuple(verdicts)


def _labels_schema(taxonomy: Taxonomy) -> dict[str, Any]:
    item = object_schema(label={"type": "string", "enum": list(taxonomy.labels)}, confidence=integer_schema(0, 10))
    return {"type": "array", "items": item, "maxItems": 2}
