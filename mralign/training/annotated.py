"""Candidates beside the steps that annotators gave them, part by part.

A part of the annotation and the part of the candidates that it came from enter; rows of both leave, those that are
neither positive nor negative left out. Nothing else of the candidates is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.part_names import upstream_part
from mralign.run.store import StageDir

ANNOTATED = CANDIDATES.append(ANNOTATIONS.field("steps"))


@dataclass(frozen=True)
class Annotated(StageDir):
    """The parts of the annotation (by its URI), as tables of schema ANNOTATED."""

    candidates: StageDir = field(default_factory=lambda: StageDir(""))

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "candidates": self.candidates}

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        assert schema == ANNOTATED and columns is None
        return pa.concat_tables([ANNOTATED.empty_table(), *map(self._joined, parts)])

    def _joined(self, part: str) -> pa.Table:
        names = ["row_id", "polarity", "steps"]
        labelled = super().read_parts([part], schema=ANNOTATIONS, columns=names)
        labelled = labelled.filter(pc.not_equal(labelled.column("polarity"), 0))
        parent = parent_of(part, self.candidates)
        rows = self.candidates.read_parts([parent], schema=CANDIDATES)
        place = pc.index_in(labelled.column("row_id"), value_set=rows.column("row_id").combine_chunks())
        assert place.null_count == 0, f"{part} labels candidates that are not in {parent}"
        return rows.take(place).append_column(ANNOTATED.field("steps"), labelled.column("steps"))


def parent_of(part: str, candidates: StageDir) -> str:
    """The part of the candidates that a part of the annotation came from: of the same name, or `<its key>-<batch>`.

    Looks for both names, as each task asks for one part: a listing would name all.
    """
    found = next((name for name in (part, upstream_part(part)) if candidates.holds(name)), None)
    assert found is not None, f"{part} of the annotation comes from no part of the candidates"
    return found
