"""A human's labels of some trajectories, read from a CSV and set against the final steps (method.md §2c).

The text of the CSV enters: one row a step, with the columns row_id, first_segment, last_segment (inclusive, counted
from 0), labels (0 to 2 names, separated by ";", the most certain first) and, if wanted, confidences (0 to 10, separated
likewise). Further columns may stand beside them for the human to read. Rows of schema.HUMAN_STEPS leave. A human's
steps of a trajectory must be what an annotator's must be: a partition of all its segments.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.annotation.consensus import by_segment, validate
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.rows.schema import ANNOTATOR_FIELDS
from mralign.run.rejects import Reject

COLUMNS = ("row_id", "first_segment", "last_segment", "labels")
_CONFIDENCES = "confidences"
_MOST = 10.0  # stands only while the steps are checked, where the human gives no confidences; nothing reads it after


@dataclass(frozen=True)
class Line:
    """One row of the CSV: the number of its last line in the file, the names of the columns, its cells."""

    number: int
    head: tuple[str, ...]
    row: tuple[str, ...]

    @property
    def cells(self) -> dict[str, str]:
        """The cells by column, as far as there are both."""
        return dict(zip(self.head, (cell.strip() for cell in self.row), strict=False))


def read_lines(text: str) -> dict[str, list[Line]]:
    """Rows of the CSV by row_id, in the order of the file; blank rows are left out.

    Raises ValueError if a column is missing, the text is not CSV, or no row is there: such a file says nothing of any
    trajectory.
    """
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    found: dict[str, list[Line]] = {}
    try:
        head = tuple(name.strip() for name in next(reader, []))
        _check_head(head)
        for row in reader:
            line = Line(reader.line_num, head, tuple(row))
            if any(cell.strip() for cell in row):
                found.setdefault(line.cells.get("row_id", ""), []).append(line)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV: {error}; mend it or save the file anew as CSV") from None
    if not found:
        raise ValueError(f"no row stands below the head {list(head)}; give one row a step, or leave the file out")
    return found


def _check_head(head: Sequence[str]) -> None:
    missing = [name for name in COLUMNS if name not in head]
    twice = sorted({name for name in head if name in (*COLUMNS, _CONFIDENCES) and head.count(name) > 1})
    if missing or twice:
        raise ValueError(
            f"the first line is {list(head)}; columns {missing} are missing and {twice} stand twice: needed are "
            f"{list(COLUMNS)}, allowed beside them {_CONFIDENCES} and columns of your own, with commas between them"
        )


def human_steps(
    lines: Sequence[Line], *, row_id: str, segments: int, taxonomy: Taxonomy
) -> tuple[StepLabels, ...] | Reject:
    """The human's steps of one trajectory of `segments` base segments, in order, or why they are none.

    The rows may stand in any order; labels leave with the highest confidence first, as in schema.STEP.
    """
    try:
        steps = sorted((_step(line) for line in lines), key=lambda step: step.first_segment)
    except ValueError as error:
        return reject(lines, row_id=row_id, reason="unreadable_row", detail=str(error))
    fault = validate(steps, segments=segments, taxonomy=taxonomy)
    if fault:
        return reject(lines, row_id=row_id, reason="invalid_annotation", detail=fault)
    return tuple(step.most_certain_first() for step in steps)


def reject(lines: Sequence[Line], *, row_id: str, reason: str, detail: str) -> Reject:
    """The human's rows of one trajectory, put aside."""
    raw = "\n".join(f"line {line.number}: {','.join(line.row)}" for line in lines)
    return Reject(row_id, reason, detail, raw)


def _step(line: Line) -> StepLabels:
    """One row of the CSV; ValueError that names the line and the cell."""
    if len(line.row) != len(line.head):
        raise ValueError(
            f"line {line.number} has {len(line.row)} cells; allowed is one for each of the {len(line.head)} names in "
            f"the first line: labels are separated by ';', not by commas"
        )
    labels = _split(line.cells["labels"])
    given = _split(line.cells.get(_CONFIDENCES, ""))
    return StepLabels(
        first_segment=_number(line, "first_segment", kind=int),
        last_segment=_number(line, "last_segment", kind=int),
        labels=labels,
        confidences=tuple(_number(line, _CONFIDENCES, kind=float, text=text) for text in given)
        or (_MOST,) * len(labels),
    )


def _split(cell: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in cell.split(";") if name.strip())


def _number(line: Line, name: str, *, kind: type, text: str | None = None) -> Any:
    value = line.cells[name] if text is None else text
    try:
        return kind(value)
    except ValueError:
        wanted = "a whole number" if kind is int else "numbers from 0 to 10, separated by ';'"
        raise ValueError(f"line {line.number}: {name} is {value!r}; allowed is {wanted}") from None


def refine(row: Mapping[str, Any], *, human: Sequence[StepLabels]) -> dict[str, Any]:
    """One row of schema.ANNOTATIONS and the human's steps of it as one row of schema.HUMAN_STEPS.

    A new step begins where the human's or the final steps have a boundary, so it lies inside ONE step of each, whose
    labels are its labels: the rule by which two annotators are aligned (method.md §2a, our alignment).
    """
    final: list[Mapping[str, Any]] = []  # the final step of each segment
    for step in row["steps"]:
        final += [step] * (step["last_segment"] - step["first_segment"] + 1)
    owner = by_segment(human)
    assert len(final) == len(owner)
    starts = sorted({step["first_segment"] for step in final} | {step.first_segment for step in human})
    steps = []
    for first, end in zip(starts, [*starts, len(final)][1:], strict=True):
        place = {"first_segment": first, "last_segment": end - 1}
        given = {field: final[first][field] for field in ANNOTATOR_FIELDS.values()}
        steps.append({**place, "labels_human": list(owner[first].labels), **given})
    return {**{name: row[name] for name in ("row_id", "question_id", "dataset", "polarity")}, "steps": steps}
