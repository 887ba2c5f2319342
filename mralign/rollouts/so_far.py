"""Candidates of the questions whose draws are all there, while others are still being drawn.

Parts of generations enter as they are committed; the candidates of each question leave once, as soon as no further draw
of it can come. They are those that the stage makes of the sealed rollouts: a question is judged by its own draws alone,
and a draw that is committed does not change any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from mralign.rows import Candidate, Generation, Reject, from_table, to_table

Judge = Callable[[Sequence[Generation]], tuple[list[Candidate], list[Reject]]]


class CandidatesSoFar:
    """`judge` is `candidates.judge` with the settings of the run. `draws`: how many generations make a question whole;
    0: all of a question stand in one part, however many they are (needed.py)."""

    def __init__(self, judge: Judge, *, draws: int) -> None:
        self.judge, self.draws = judge, draws
        self._open: dict[str, dict[str, Generation]] = {}  # question_id -> row_id -> generation

    def add(self, part: pa.Table) -> list[dict[str, Any]]:
        """Rows of schema CANDIDATES of the questions that are whole with this part of schema GENERATIONS."""
        touched: dict[str, None] = {}
        for row in from_table(part, Generation):
            self._open.setdefault(row.question_id, {})[row.row_id] = row
            touched[row.question_id] = None
        whole = [question for question in touched if len(self._open[question]) >= self.draws]
        rows: list[Generation] = []
        for question in whole:
            rows += self._open.pop(question).values()
        kept, _ = self.judge(rows)
        found: list[dict[str, Any]] = to_table(kept, Candidate).to_pylist()
        return found
