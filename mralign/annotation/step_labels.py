"""What one annotator says of one step.

Every annotator (an LLM behind vLLM or HTTP, or the cue phrases) gives its opinion of a trajectory as a list of
`StepLabels`, in order, that covers all segments. It lives here because the engines write it and the annotation room
reads it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepLabels:
    """One step of one annotator: segments first..last (inclusive), 0 to 2 labels, a confidence 0..10 for each."""

    first_segment: int
    last_segment: int
    labels: tuple[str, ...]
    confidences: tuple[float, ...]
