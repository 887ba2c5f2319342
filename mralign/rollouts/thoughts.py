"""Thoughts of an evaluated model, to be labelled anew: how did training change the way from strategy to strategy?

Ids of held-out questions and generations enter; think-on trajectories of some of these questions leave as neutral
candidates, and a reason for each of the others. The questions are drawn from their ids and the seed alone, so the model
before and after training is read on the same ones. method.md §6, Fig. 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from mralign.rollouts.candidates import invalid_draw, trajectory
from mralign.rows import Candidate, Generation, Mode, Polarity, Reject, row_id_of


def draw_questions(question_ids: Iterable[str], *, count: int, seed: int) -> list[str]:
    """The first `count` distinct ids by a hash of seed and id, or all where there are fewer."""
    order = {hashlib.sha256(f"{seed}/{one}".encode()).digest(): one for one in question_ids}
    return [order[key] for key in sorted(order)[:count]]


def thoughts_of(
    rows: Iterable[Generation], *, questions: Collection[str], match: str
) -> tuple[list[Candidate], list[Reject]]:
    """Draw 0, thinking on, of these `questions` (ids) among `rows`, as neutral candidates.

    Reasons: the draw's own (`invalid`), empty_thought. Other rows are passed over.
    """
    kept: list[Candidate] = []
    rejects: list[Reject] = []
    for row in rows:
        if row.mode != Mode.ON or row.draw != 0 or row.question_id not in questions:
            continue
        if row.invalid is not None:
            rejects.append(invalid_draw(row, reason=row.invalid))
            continue
        candidate = trajectory(row, polarity=Polarity.NEUTRAL, match=match)
        if candidate.segment_start:
            kept.append(candidate)
        else:
            rejects.append(invalid_draw(row, reason="empty_thought"))
    return kept, rejects


def unanswered(questions: Iterable[str], *, seen: Collection[str]) -> list[Reject]:
    """A reject (no_response) for each of the `questions` that no row or reject of `seen` (row ids) belongs to."""
    detail = "it was not asked with thinking on: see the rejects of the stage that asks"
    rejects: list[Reject] = []
    for question_id in questions:
        row_id = row_id_of(question_id, mode=Mode.ON, draw=0)
        if row_id not in seen:
            rejects.append(Reject(row_id, "no_response", detail, question_id))
    return rejects
