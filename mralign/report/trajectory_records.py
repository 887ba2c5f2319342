"""What a reader sees of one trajectory: the thoughts of its sides, step by step, with labels, weights and gold answers.

Rows of the committed tables enter as dictionaries; frozen records leave, which become JSON. A `TrajectoryRecord` is a
training trajectory, an evaluated question (the untrained and the aligned model side by side) or a row that was put
aside. Text is kept as the model wrote it, in pieces of which every second is a gold answer; a very long text is cut,
and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mralign.report.gold_marks import gold_spans, pieces
from mralign.rollouts.segmentation import segments

LONGEST = 200_000  # characters of a text that the page shows
VERDICTS = {"thought holds gold": "em_thought", "answer right": "em_answer", "misleading": "mis"}  # -> column
Row = Mapping[str, Any]


@dataclass(frozen=True)
class StepOpinion:
    """Labels that somebody gave a step, with the confidence of each."""

    who: str
    labels: Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class ShownStep:
    """A step of a thought. `segments`: the pieces of each; `weight`: that of each of its `tokens`."""

    segments: Sequence[Sequence[str]]
    labels: Sequence[str] = ()
    rule: str | None = None
    opinions: Sequence[StepOpinion] = ()
    weight: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class ShownSide:
    """What one model said. `role`: base | trained | rollout; `verdict`: {what is asked: whether it is so}."""

    method: str
    role: str
    steps: Sequence[ShownStep]
    answer: Sequence[str]
    verdict: Mapping[str, bool | float | None] = field(default_factory=dict)
    invalid: str | None = None
    tokens: int | None = None
    cut: int = 0  # characters that are not shown


@dataclass(frozen=True)
class TrajectoryRecord:
    """One entry of the browser. `shelf`: training | evaluation | put aside."""

    row_id: str
    shelf: str
    dataset: str
    outcome: str
    question: str = ""
    answers: Sequence[str] = ()
    polarity: int | None = None
    stratum: str = ""
    reason: str = ""
    detail: str = ""
    stage: str = ""
    sides: Sequence[ShownSide] = ()


@dataclass(frozen=True)
class Found:
    """What the later stages say of one trajectory, as far as they are finished."""

    steps: Sequence[Row] | None = None  # of schema ANNOTATIONS
    weights: Sequence[float] | None = None  # one a step
    token_step: Sequence[int] | None = None  # one a token; -1 for the answer


def training_record(row: Row, *, found: Found, names: Sequence[str], closing: str) -> TrajectoryRecord:
    """A candidate (schema CANDIDATES) as it was labelled, weighed and trained on."""
    outcome = {1: "positive", -1: "negative", 0: "neutral"}[row["polarity"]]
    verdict = {"thought holds gold": row["em_thought"], "answer right": row["em_answer"]}
    side = _side(row, method="thinking", role="rollout", found=found, names=names, closing=closing)
    return TrajectoryRecord(
        row_id=row["row_id"],
        shelf="training",
        dataset=row["dataset"],
        outcome=outcome,
        question=row["question"],
        answers=row["answers"],
        polarity=row["polarity"],
        sides=(_with(side, verdict=verdict),),
    )


def evaluated_side(row: Row, *, score: Row, role: str, found: Found, names: Sequence[str], closing: str) -> ShownSide:
    """A response (schema RESPONSES) and its score (schema SCORES)."""
    side = _side(row, method=row["method"], role=role, found=found, names=names, closing=closing)
    verdict = {name: score[column] for name, column in VERDICTS.items() if score.get(column) is not None}
    return _with(side, verdict=verdict or _other_scores(score), invalid=row["invalid"], tokens=row["completion_tokens"])


def _other_scores(score: Row) -> dict[str, bool | float]:
    """What a benchmark without gold answers says of a response: its own columns, a number to three digits."""
    told = {name: value for name, value in score.items() if isinstance(value, bool | float)}
    return {name.replace("_", " "): round(value, 3) for name, value in told.items()}


def outcome_of(before: float | None, after: float | None) -> str:
    """won | lost | kept | missed by what a question scored before and after training; with one of them right | wrong.

    Scores are true or false, or numbers where a benchmark tells no more: then a larger one is won.
    """
    if before is None and after is None:
        return "not scored"
    if before is None or after is None:
        only = after if before is None else before
        return "right" if only else "wrong"
    if after != before:
        return "won" if after > before else "lost"
    return "kept" if after else "missed"


def rejected_record(row: Row, *, stage: str) -> TrajectoryRecord:
    """A row that a stage put aside (schema REJECTS)."""
    raw = row["raw"] or ""
    shown = ShownSide("as it came", "rollout", (), (raw[:LONGEST],), cut=max(0, len(raw) - LONGEST))
    return TrajectoryRecord(
        row_id=row["row_id"],
        shelf="put aside",
        dataset=row["dataset"] or "",
        outcome="put aside",
        polarity=row["polarity"],
        reason=row["reason"],
        detail=row["detail"] or "",
        stage=stage,
        sides=(shown,),
    )


def _with(side: ShownSide, **changes: Any) -> ShownSide:
    return ShownSide(**{**vars(side), **changes})


def _side(row: Row, *, method: str, role: str, found: Found, names: Sequence[str], closing: str) -> ShownSide:
    whole, start, end = row["text"], row["thought_start"], row["thought_end"]
    spans = _segment_spans(row, text=whole, start=start, end=end)
    text = whole[:LONGEST]
    gold = _gold(text, row["answers"], start=max(start, 0), end=max(end, 0))
    steps = _steps(text, spans, gold=gold, found=found, names=names)
    begin = min(_answer_start(text, end=end, closing=closing), len(text))
    stated = _gold(text, row["answers"], start=begin, end=len(text))
    answer = pieces(text, stated, start=begin, end=len(text))
    return ShownSide(method, role, steps, answer, cut=len(whole) - len(text))


def _gold(text: str, answers: Sequence[str], *, start: int, end: int) -> list[tuple[int, int]]:
    """Gold answers in text[start:end] taken by itself: a tag beside a word must not hide it."""
    return [(start + first, start + last) for first, last in gold_spans(text[start:end], answers)]


def _answer_start(text: str, *, end: int, closing: str) -> int:
    """Where the text behind the thought and its closing tag begins; 0 without a thought (`end` -1)."""
    start = max(end, 0)
    behind = text[start:]
    bare = behind.lstrip().removeprefix(closing if end >= 0 else "").lstrip()
    return start + len(behind) - len(bare)


def _segment_spans(row: Row, *, text: str, start: int, end: int) -> list[tuple[int, int]]:
    if row.get("segment_start") is not None:
        return list(zip(row["segment_start"], row["segment_end"], strict=True))
    return segments(text, start=start, end=end)


def _steps(
    text: str, spans: Sequence[tuple[int, int]], *, gold: Sequence[tuple[int, int]], found: Found, names: Sequence[str]
) -> list[ShownStep]:
    said = found.steps
    if said is None:  # not annotated: each segment stands alone
        said = [{"first_segment": number, "last_segment": number} for number in range(len(spans))]
    counts = _tokens_of_steps(found.token_step, len(said))
    shown = []
    for number, step in enumerate(said):
        own = spans[step["first_segment"] : step["last_segment"] + 1]
        shown.append(
            ShownStep(
                segments=[pieces(text, gold, start=start, end=end) for start, end in _bare(text, own)],
                labels=step.get("labels", ()),
                rule=step.get("rule"),
                opinions=_opinions(step, names=names),
                weight=None if found.weights is None else found.weights[number],
                tokens=counts[number],
            )
        )
    return shown


def _bare(text: str, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The spans without the white space at either end."""
    for start, end in spans:
        inner = text[start:end]
        yield start + len(inner) - len(inner.lstrip()), start + len(inner.rstrip())


def _tokens_of_steps(token_step: Sequence[int] | None, steps: int) -> list[int | None]:
    if token_step is None:
        return [None] * steps
    counts = [0] * steps
    for step in token_step:
        if 0 <= step < steps:
            counts[step] += 1
    return list(counts)


def _opinions(step: Row, *, names: Sequence[str]) -> list[StepOpinion]:
    """What each annotator said of a step, and the adjudicator where it decided: `names` of the two and of the third.

    The labels of an adjudicated step are the adjudicator's own.
    """
    said = list(zip(names, ("labels_a", "labels_b"), ("confidences_a", "confidences_b"), strict=False))
    if step.get("rule") == "adjudicated":
        said += zip(names[2:], ("labels",), ("confidences",), strict=False)
    opinions = []
    for name, labels_field, confidences_field in said:
        labels, confidences = step.get(labels_field), step.get(confidences_field) or ()
        if labels is not None:
            padded = [*confidences, *[None] * (len(labels) - len(confidences))]
            opinions.append(StepOpinion(name, list(zip(labels, padded, strict=False))))
    return opinions
