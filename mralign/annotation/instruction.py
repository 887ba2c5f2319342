"""What annotators and the adjudicator are asked (method.md §2a); the wording is ours.

A taxonomy and a trajectory enter, the messages of a chat leave. The system message is the same for every trajectory and
comes first, so that a prefix cache computes it once; what differs, the question and the numbered segments, follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.annotation.template import fill
from mralign.serving.conversation import Message


@dataclass(frozen=True)
class Trajectory:
    """One candidate as annotators see it: its thought cut into base segments."""

    row_id: str
    question: str
    answers: tuple[str, ...]
    segments: tuple[str, ...]


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """A row of schema CANDIDATES as annotators see it."""
    spans = zip(row["segment_start"], row["segment_end"], strict=True)
    segments = tuple(row["text"][start:end].strip() for start, end in spans)
    return Trajectory(row["row_id"], row["question"], tuple(row["answers"]), segments)


_ANNOTATOR = """\
You annotate how a language model thinks. You are given a question and the model's thought, cut into numbered \
segments. You do not answer the question and you do not judge whether the thought is right: you name what each part of \
it DOES.

Group the segments into steps:
- A step is one segment, or several NEIGHBOURING segments that pursue one purpose by the same strategy.
- Begin a new step where the strategy changes. When in doubt, begin a new step.
- Every segment belongs to exactly one step, and the steps come in the order of the text.

Give each step one label, or two if it plainly does two things at once. Use only these labels, spelled as here. If \
none fits, give the step an empty list of labels.

{labels}

Give each label a confidence, a whole number:
10: no careful reader would disagree. 8: clear, most readers would agree. 6: the likeliest of several readings.
4: as likely as another label. 2: a guess. 0: nearly ruled out.
End with one confidence, on the same scale, in your annotation as a whole.

Reply with one JSON object and nothing else:
{{"steps": [{{"segments": [numbers], "labels": [{{"label": "name", "confidence": number}}]}}], "confidence": number}}
For a thought of three segments, it could be:
{example}"""

_ADJUDICATOR = """\
Two annotators have labelled how a language model thinks, and for some steps of its thought they could not agree. You \
decide those steps; your word is final. You are given the question, the thought in numbered segments, the disputed \
steps, and what each annotator said of them, with confidences from 0 to 10. Either may be right, or neither.

Give each disputed step one label, or two if it plainly does two things at once: the labels that say best what this \
step DOES in the thought. You are not bound to what was proposed. Use only these labels, spelled as here. If none \
fits, give an empty list.

{labels}

Give each label a confidence, a whole number:
10: no careful reader would disagree. 8: clear, most readers would agree. 6: the likeliest of several readings.
4: as likely as another label. 2: a guess. 0: nearly ruled out.

Reply with one JSON object and nothing else, one entry for each disputed step by its number:
{{"dispute_1": [{{"label": "name", "confidence": number}}], "dispute_2": [...]}}"""


def annotator_instruction(taxonomy: Taxonomy) -> str:
    """The system message of an annotator."""
    first, last = taxonomy.labels[0], taxonomy.labels[-1]
    steps = [
        {"segments": [0], "labels": [{"label": first, "confidence": 9}]},
        {"segments": [1, 2], "labels": [{"label": last, "confidence": 7}]},
    ]
    example = json.dumps({"steps": steps, "confidence": 8}, ensure_ascii=False)
    return _ANNOTATOR.format(labels=_list_labels(taxonomy), example=example)


def instructions(taxonomy: Taxonomy) -> list[str]:
    """What every chat is told first: a changed wording is a changed annotation."""
    return [annotator_instruction(taxonomy), adjudicator_instruction(taxonomy)]


def adjudicator_instruction(taxonomy: Taxonomy) -> str:
    """The system message of the adjudicator."""
    return _ADJUDICATOR.format(labels=_list_labels(taxonomy))


@dataclass(frozen=True)
class AnnotatorInstruction:
    """What the two annotators are told: the built-in instruction, or the user's `template` (template.py)."""

    taxonomy: Taxonomy
    show_answers: bool
    template: str | None = None

    @cached_property
    def built_in(self) -> str:
        """The system message where there is no template."""
        return annotator_instruction(self.taxonomy)

    def messages(self, trajectory: Trajectory) -> tuple[Message, ...]:
        """What an annotator is asked of one trajectory."""
        if self.template is None:
            return annotation_messages(trajectory, instruction=self.built_in, show_answers=self.show_answers)
        values = {
            "taxonomy": _list_labels(self.taxonomy),
            "question": trajectory.question,
            "answers": " / ".join(trajectory.answers),
            "segments": _number_segments(trajectory),
        }
        return (Message("user", fill(self.template, values=values)),)


def annotation_messages(trajectory: Trajectory, *, instruction: str, show_answers: bool) -> tuple[Message, ...]:
    """What an annotator is asked of one trajectory."""
    last = len(trajectory.segments) - 1
    asked = f"Annotate the segments 0 to {last}." if last else "There is one segment, number 0. Annotate it."
    return (
        Message("system", instruction),
        Message("user", f"{_show(trajectory, show_answers=show_answers)}\n\n{asked}"),
    )


def adjudication_messages(
    trajectory: Trajectory,
    disputes: Sequence[tuple[StepLabels, StepLabels]],
    *,
    instruction: str,
    show_answers: bool,
) -> tuple[Message, ...]:
    """What the adjudicator is asked of one trajectory; each dispute is one step with A's and with B's labels."""
    lines = [
        f"dispute_{number}: {_name_segments(a)}. One annotator said {_said(a)}; the other said {_said(b)}."
        for number, (a, b) in enumerate(disputes, start=1)
    ]
    text = "\n".join([_show(trajectory, show_answers=show_answers), "", "Disputed steps:", *lines])
    return (Message("system", instruction), Message("user", text))


def _list_labels(taxonomy: Taxonomy) -> str:
    """The labels with their meanings, below the macro-strategy of each."""
    groups: dict[str, list[str]] = {}
    for label in taxonomy.labels:
        meaning = taxonomy.meaning.get(label)
        line = f"- {label}: {meaning}" if meaning else f"- {label}"
        groups.setdefault(taxonomy.macro[label], []).append(line)
    lines = []
    for macro, listed in groups.items():
        lines += [f"{macro}:", *listed]
    return "\n".join(lines)


def _show(trajectory: Trajectory, *, show_answers: bool) -> str:
    lines = [f"Question: {trajectory.question}"]
    if show_answers and trajectory.answers:
        lines.append(f"Right answer: {' / '.join(trajectory.answers)}")
    return "\n".join([*lines, "", "Thought:", _number_segments(trajectory)])


def _number_segments(trajectory: Trajectory) -> str:
    return "\n".join(f"[{number}] {text}" for number, text in enumerate(trajectory.segments))


def _name_segments(step: StepLabels) -> str:
    first, last = step.first_segment, step.last_segment
    return f"segment {first}" if first == last else f"segments {first} to {last}"


def _said(step: StepLabels) -> str:
    pairs = zip(step.labels, step.confidences, strict=True)
    return " and ".join(f"{label} ({confidence:g})" for label, confidence in pairs) or "no label"
