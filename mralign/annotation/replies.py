"""What annotators and the adjudicator reply, and how it becomes labels (method.md §2a, validation).

The text of a reply enters; an `Opinion` (or the adjudicator's labels) leaves, or a `Fault` whose detail says what was
given and what is allowed: it is quoted in the repair request. Each reply has ONE class, made for the number of segments
or disputes and for the taxonomy, which gives the JSON schema and the reader. What no schema can say (neighbours in
ascending order, different labels, one partition without a gap) is checked by validators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, WithJsonSchema, create_model, field_validator

from mralign.annotation.consensus import Span, validate
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.asking.json_reply import Fault, JsonReply, read_reply, reader, reply_schema

# A model is asked for a whole number; any other from 0 to 10 is understood as well.
Confidence = Annotated[float, Field(ge=0, le=10), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 10})]


@dataclass(frozen=True)
class Opinion:
    """One annotator's valid steps over a trajectory, and its confidence in the whole, 0..10; None: it has none."""

    steps: tuple[StepLabels, ...]
    confidence: float | None = None


class AnnotatorReply(JsonReply):
    """A reply of those who label. Another key is ignored: asking once more would cost more than it is worth."""

    model_config = ConfigDict(extra="ignore")

    @classmethod
    def reason(cls, field: str) -> str:
        return "bad_segments" if field in ("steps", "segments") else "bad_labels"


class LabelReply(AnnotatorReply):
    """One label of a step."""

    label: str
    confidence: Confidence


class StepReply(AnnotatorReply):
    """One step: its segments, and its labels."""

    segments: list[int]
    labels: list[LabelReply]

    @field_validator("segments")
    @classmethod
    def _are_neighbours(cls, segments: list[int]) -> list[int]:
        if segments != list(range(segments[0], segments[0] + len(segments))):
            raise ValueError("they must be neighbours in ascending order")
        return segments

    def step_labels(self) -> StepLabels:
        return step_of(self.labels, span=(self.segments[0], self.segments[-1]))


class OpenReply(AnnotatorReply):
    """The steps of a whole thought."""

    steps: list[StepReply]

    def step_labels(self) -> tuple[StepLabels, ...]:
        return tuple(step.step_labels() for step in self.steps)


class AnnotationReply(OpenReply):
    """The steps of a whole thought, and the confidence in them all."""

    confidence: Confidence


def step_of(labels: Sequence[LabelReply], *, span: Span) -> StepLabels:
    """The labels of the segments from the first to the last of `span`."""
    names = tuple(one.label for one in labels)
    return StepLabels(*span, names, tuple(one.confidence for one in labels))


def labels_of(name: Any, *, least: int) -> Any:
    """The type of a list of `least` to two different labels; `name` is the type of a label's name."""
    label = create_model("LabelReply", __base__=LabelReply, label=(name, ...))
    return Annotated[list[label], Field(min_length=least or None, max_length=2), AfterValidator(_differ)]


def steps_of(labels: Any, *, segments: int) -> Any:
    """The type of a list of steps over so many segments; `labels` is the type of a step's labels."""
    index = Annotated[int, Field(ge=0, le=segments - 1)]
    indices = Annotated[list[index], Field(min_length=1, max_length=segments)]
    step = create_model("StepReply", __base__=StepReply, segments=(indices, ...), labels=(labels, ...))
    return Annotated[list[step], Field(min_length=1, max_length=segments)]


def _differ(labels: list[LabelReply]) -> list[LabelReply]:
    names = [one.label for one in labels]
    if len(set(names)) < len(names):
        raise ValueError("allowed are at most two different labels")
    return labels


@lru_cache(maxsize=1024)
def annotation_reply(*, segments: int, taxonomy: Taxonomy) -> type[AnnotationReply]:
    """The class of an annotator's reply on a thought of `segments` base segments."""
    labels = labels_of(Literal[taxonomy.labels], least=0)
    return create_model("AnnotationReply", __base__=AnnotationReply, steps=(steps_of(labels, segments=segments), ...))


@lru_cache(maxsize=1024)
def adjudication_reply(*, disputes: int, taxonomy: Taxonomy) -> type[AnnotatorReply]:
    """The class of an adjudicator's reply on so many disputed steps: labels for each, by its number from 1."""
    labels = labels_of(Literal[taxonomy.labels], least=0)
    fields: Any = {f"dispute_{number}": (labels, ...) for number in range(1, disputes + 1)}
    return create_model("AdjudicationReply", __base__=AnnotatorReply, **fields)


def annotation_schema(*, segments: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an annotator's reply on a thought of `segments` base segments."""
    return reply_schema(annotation_reply(segments=segments, taxonomy=taxonomy))


def adjudication_schema(*, disputes: int, taxonomy: Taxonomy) -> dict[str, Any]:
    """The JSON schema of an adjudicator's reply on so many disputed steps."""
    return reply_schema(adjudication_reply(disputes=disputes, taxonomy=taxonomy))


@reader
def read_annotation(text: str, *, segments: int, taxonomy: Taxonomy) -> Opinion | Fault:
    """An annotator's reply on `segments` base segments."""
    reply = read_reply(text, annotation_reply(segments=segments, taxonomy=taxonomy))
    if isinstance(reply, Fault):
        return reply
    steps = reply.step_labels()
    fault = validate(steps, segments=segments, taxonomy=taxonomy)
    return Fault("bad_segments", fault) if fault else Opinion(steps, reply.confidence)


@reader
def read_adjudication(text: str, *, spans: Sequence[Span], taxonomy: Taxonomy) -> tuple[StepLabels, ...] | Fault:
    """An adjudicator's reply on disputed spans, in their order."""
    reply = read_reply(text, adjudication_reply(disputes=len(spans), taxonomy=taxonomy))
    if isinstance(reply, Fault):
        return reply
    verdicts = (getattr(reply, f"dispute_{number}") for number in range(1, len(spans) + 1))
    return tuple(step_of(labels, span=span) for labels, span in zip(verdicts, spans, strict=True))
