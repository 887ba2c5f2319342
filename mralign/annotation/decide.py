"""Two opinions of one trajectory become its final steps (method.md §2a).

What the annotators said enters; what their labels leave open is put to the adjudicator, and the columns of schema
ANNOTATIONS leave, or a `Reject`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa

from mralign.annotation.ask import AskedAnnotator, Opinions, annotators_at, ask
from mralign.annotation.consensus import DISTILLED, consensus, disputes
from mralign.annotation.instruction import Trajectory, trajectory_of
from mralign.annotation.labeller import Labeller
from mralign.annotation.replies import Opinion
from mralign.annotation.resolved import ADJUDICATOR, ANNOTATORS, ResolvedAnnotation
from mralign.annotation.step_labels import StepLabels
from mralign.rows import Polarity
from mralign.run.rejects import Reject


async def decide(
    trajectory: Trajectory, *, opinions: Opinions, adjudicator: AskedAnnotator, resolved: ResolvedAnnotation
) -> dict[str, Any] | Reject:
    """The columns of ANNOTATIONS that follow from two opinions, or why the trajectory is put aside."""
    if opinions.reject is not None:
        return opinions.reject
    first, second = (opinions.by_role[role] for role in ANNOTATORS)
    assert isinstance(first, Opinion) and isinstance(second, Opinion)
    segments, taxonomy, threshold = len(trajectory.segments), resolved.taxonomy, resolved.threshold
    disputed = disputes(first.steps, second.steps, segments=segments, taxonomy=taxonomy, threshold=threshold)
    verdicts: tuple[StepLabels, ...] = ()
    if disputed:
        answer = await adjudicator.adjudicate(trajectory, disputed, tally=opinions.tallies[ADJUDICATOR])
        if isinstance(answer, Reject):
            return replace(answer, role=ADJUDICATOR)
        verdicts = answer
    steps = consensus(
        first.steps,
        second.steps,
        segments=segments,
        taxonomy=taxonomy,
        adjudicate=lambda spans: verdicts,
        threshold=threshold,
    )
    return {
        "segments": segments,
        "confidence_a": first.confidence,
        "confidence_b": second.confidence,
        "steps": [asdict(step) for step in steps],
    }


def annotate_alone(trajectory: Trajectory, *, labeller: Labeller) -> dict[str, Any]:
    """The columns of ANNOTATIONS by a labeller that stands for the panel; neither annotator has said anything."""
    steps = labeller.annotate(trajectory.segments).steps
    nobody: dict[str, Any] = {"labels_a": [], "confidences_a": [], "labels_b": [], "confidences_b": []}
    return {
        "segments": len(trajectory.segments),
        "confidence_a": None,
        "confidence_b": None,
        "steps": [asdict(step) | {"rule": DISTILLED} | nobody for step in steps],
    }


async def annotate_row(
    row: Mapping[str, Any],
    *,
    resolved: ResolvedAnnotation,
    opinions: Opinions,
    annotators: Mapping[str, AskedAnnotator],
) -> dict[str, Any] | Reject:
    """A row of schema ANNOTATIONS from a candidate and what was said of it before; `annotators` are asked now."""
    trajectory = trajectory_of(row)
    labeller = resolved.left(trajectory.row_id)
    if labeller is not None:
        return _ids(row) | annotate_alone(trajectory, labeller=labeller)
    await ask(trajectory, annotators, opinions=opinions)
    decided = await decide(trajectory, opinions=opinions, adjudicator=annotators[ADJUDICATOR], resolved=resolved)
    if isinstance(decided, Reject):
        return replace(decided, dataset=row["dataset"], polarity=Polarity(row["polarity"]))
    return _ids(row) | decided


def _ids(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("row_id", "question_id", "dataset", "polarity")}


def annotate_here(table: pa.Table, *, resolved: ResolvedAnnotation) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Rows and rejects of a table of candidates whose annotators are no chat models."""
    annotators = annotators_at(resolved)

    async def annotate_all() -> list[dict[str, Any] | Reject]:
        return [
            await annotate_row(row, resolved=resolved, opinions=Opinions(), annotators=annotators)
            for row in table.to_pylist()
        ]

    done = asyncio.run(annotate_all())
    rows = [one for one in done if not isinstance(one, Reject)]
    return rows, [one for one in done if isinstance(one, Reject)]
