"""What a reader sees of one trajectory: the thoughts of its sides, step by step, with labels, weights and gold answers.

Rows of the committed tables enter as dictionaries; frozen records leave, which become JSON. A `Record` is a training
trajectory, an evaluated question (the untrained and the aligned model side by side) or a row that was put aside. Text
is kept as the model wrote it, in pieces of which every second is a gold answer; a very long text is cut, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mralign.report.gold_marks import gold_spans, pieces
from mralign.rollouts.segmentation import segments

LONGEST = 200_000  # characters of a text that the page shows
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Opinion:
    """Labels that somebody gave a step, with the confidence of each."""

    who: str
    labels: Sequence[tuple[str, float | None]]


@dataclass(frozen=True)
class ShownStep:
    """A step of a thought. `segments`: the pieces of each; `weight`: that of each of its `tokens`."""

    segments: Sequence[Sequence[str]]
    labels: Sequence[str] = ()
    rule: str | None = None
    opinions: Sequence[Opinion] = ()
    weight: float | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Side:
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
class Record:
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
    sides: Sequence[Side] = ()


@dataclass(frozen=True)
class Found:
    """What the later stages say of one trajectory, as far as they are finished."""

    steps: Sequence[Row] | None = None  # of schema ANNOTATIONS
    weights: Sequence[float] | None = None  # one a step
    token_step: Sequence[int] | None = None  # one a token; -1 for the answer


def training_record(row: Row, *, found: Found, names: Sequence[str], closing: str) -> Record:
    """A candidate (schema CANDIDATES) as it was labelled, weighed and trained on."""
    outcome = {1: "positive", -1: "negative", 0: "neutral"}[row["polarity"]]
    verdict = {"thought holds gold": row["em_thought"], "answer right": row["em_answer"]}
    side = _side(row, method="thinking", role="rollout", found=found, names=names, closing=closing)
    return Record(
        row_id=row["row_id"],
        shelf="training",
        dataset=row["dataset"],
        outcome=outcome,
        question=row["question"],
        answers=row["answers"],
        polarity=row["polarity"],
        sides=(_with(side, verdict=verdict),),
    )


def evaluated_side(row: Row, *, score: Row, role: str, found: Found, names: Sequence[str], closing: str) -> Side:
    """A response (schema RESPONSES) and its score (schema SCORES)."""
    side = _side(row, method=row["method"], role=role, found=found, names=names, closing=closing)
    asked = {"thought holds gold": "em_thought", "answer right": "em_answer", "misleading": "mis"}
    verdict = {name: score.get(column) for name, column in asked.items() if score.get(column) is not None}
    return _with(side, verdict=verdict, invalid=row["invalid"], tokens=row["completion_tokens"])


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


def rejected_record(row: Row, *, stage: str) -> Record:
    """A row that a stage put aside (schema REJECTS)."""
    raw = row["raw"] or ""
    shown = Side("as it came", "rollout", (), (raw[:LONGEST],), cut=max(0, len(raw) - LONGEST))
    return Record(
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


def _with(side: Side, **changes: Any) -> Side:
    return Side(**{**vars(side), **changes})


def _side(row: Row, *, method: str, role: str, found: Found, names: Sequence[str], closing: str) -> Side:
    text, start, end = row["text"], row["thought_start"], row["thought_end"]
    spans = _segment_spans(row, text=text, start=start, end=end)
    whole = len(text)
    text = text[: max(LONGEST, 0)]
    gold = gold_spans(text, row["answers"])
    steps = _steps(text, spans, gold=gold, found=found, names=names)
    tail = end if start >= 0 else 0
    shown = text[tail:].lstrip()
    skipped = len(text) - len(shown)
    if start >= 0 and shown.startswith(closing):
        skipped += len(closing)
    answer = pieces(text, gold, start=min(skipped, len(text)), end=len(text))
    return Side(method, role, steps, answer, cut=max(0, whole - len(text)))


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
                segments=[pieces(text, gold, start=start, end=end) for start, end in own],
                labels=step.get("labels", ()),
                rule=step.get("rule"),
                opinions=_opinions(step, names=names),
                weight=None if found.weights is None else found.weights[number],
                tokens=counts[number],
            )
        )
    return shown


def _tokens_of_steps(token_step: Sequence[int] | None, steps: int) -> list[int | None]:
    if token_step is None:
        return [None] * steps
    counts = [0] * steps
    for step in token_step:
        if 0 <= step < steps:
            counts[step] += 1
    return list(counts)


def _opinions(step: Row, *, names: Sequence[str]) -> list[Opinion]:
    """What each annotator said of a step; who was asked last decides, and stands in the step's own labels."""
    opinions = []
    for name, side in zip(names, ("a", "b"), strict=False):
        labels, confidences = step.get(f"labels_{side}"), step.get(f"confidences_{side}") or ()
        if labels is not None:
            padded = [*confidences, *[None] * (len(labels) - len(confidences))]
            opinions.append(Opinion(name, list(zip(labels, padded, strict=False))))
    return opinions
