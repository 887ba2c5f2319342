"""What one annotator says of one step.

Every annotator (an LLM behind vLLM or HTTP, or the cue phrases) gives its opinion of a trajectory as a list of
`StepLabels`, in order, that covers all segments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class StepLabels:
    """One step of one annotator: segments first..last (inclusive), 0 to 2 labels, a confidence 0..10 for each.

    docs/method.md §2a. Nothing is checked here: `consensus` raises ValueError for steps that do not fit.

    >>> import mralign
    >>> mralign.StepLabels(0, 2, ("framing", "retrieval"), (6.0, 9.0)).most_certain_first().labels
    ('retrieval', 'framing')
    """

    first_segment: int
    last_segment: int
    labels: tuple[str, ...]
    confidences: tuple[float, ...]

    def most_certain_first(self) -> StepLabels:
        """The same step with its labels by falling confidence; equal ones keep their order."""
        order = sorted(range(len(self.labels)), key=lambda place: -self.confidences[place])
        labels = tuple(self.labels[place] for place in order)
        return replace(self, labels=labels, confidences=tuple(self.confidences[place] for place in order))
