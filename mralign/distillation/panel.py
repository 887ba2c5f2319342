"""What a panel has annotated in a run, as lessons for a labeller.

The state of a run enters; its annotated trajectories leave, each with its segments. What a labeller has labelled in a
cascade is left out: nobody learns from himself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mralign.annotation.consensus import DISTILLED
from mralign.annotation.instruction import trajectory_of
from mralign.annotation.labeller_fit import LabelledThought
from mralign.annotation.step_labels import StepLabels
from mralign.plan.run_state import RunState
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.store import StageDir

_CANDIDATES = ["row_id", "question", "answers", "text", "segment_start", "segment_end"]


@dataclass(frozen=True)
class PanelWork:
    """Rows of schema ANNOTATIONS, the same as lessons, in one order, and the states of their taxonomy."""

    rows: tuple[dict[str, Any], ...]
    lessons: tuple[LabelledThought, ...]
    states: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return self.states[1:-1]


def read_panel_work(state: RunState) -> PanelWork:
    """The annotation of a run; ValueError where it is not finished."""
    finished = {stage.name: stage.out for stage in state.stages if stage.manifest is not None}
    annotation, candidates = finished.get("annotation"), finished.get("candidates")
    if annotation is None or candidates is None:
        raise ValueError(
            f"{state.uri} has no finished annotation, from which a labeller learns: mralign align --until annotation "
            f"with the settings of this run makes it"
        )
    return panel_work(
        annotation.read(schema=ANNOTATIONS).to_pylist(), segments=_segments(candidates), states=_states(annotation)
    )


def panel_work(
    rows: list[dict[str, Any]], *, segments: dict[str, tuple[str, ...]], states: tuple[str, ...]
) -> PanelWork:
    """Rows of schema ANNOTATIONS and the segments of each trajectory, without what a labeller labelled."""
    kept = [row for row in rows if not _is_distilled(row)]
    kept.sort(key=lambda row: row["row_id"])
    lessons = [LabelledThought(row["question_id"], segments[row["row_id"]], steps_of(row)) for row in kept]
    return PanelWork(tuple(kept), tuple(lessons), states)


def _is_distilled(row: dict[str, Any]) -> bool:
    return DISTILLED in {step["rule"] for step in row["steps"]}


def steps_of(row: dict[str, Any]) -> tuple[StepLabels, ...]:
    """The final steps of an annotated trajectory."""
    return tuple(
        StepLabels(one["first_segment"], one["last_segment"], tuple(one["labels"]), tuple(one["confidences"]))
        for one in row["steps"]
    )


def _segments(candidates: StageDir) -> dict[str, tuple[str, ...]]:
    found = {}
    for part in candidates.parts():
        for row in candidates.read_parts([part], schema=CANDIDATES, columns=_CANDIDATES).to_pylist():
            found[row["row_id"]] = trajectory_of(row).segments
    return found


def _states(annotation: StageDir) -> tuple[str, ...]:
    return tuple(json.loads(annotation.read_text("taxonomy.json"))["states"])
