"""Thoughts of an evaluated model, to be labelled anew: how did training change the way from strategy to strategy?

Ids of held-out questions and generations enter; think-on trajectories of some of these questions leave as candidates of
polarity 0, and a reason for each of the others. The questions are drawn from their ids and the seed alone, so the model
before and after training is read on the same ones. METHOD.md section 6, Fig. 4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from mralign.chat.endings import UNFINISHED
from mralign.rollouts.candidates import trajectory
from mralign.run.rejects import Reject


def draw_questions(question_ids: Iterable[str], *, count: int, seed: int) -> list[str]:
    """The first `count` distinct ids by a hash of seed and id, or all where there are fewer."""
    order = {hashlib.sha256(f"{seed}/{one}".encode()).digest(): one for one in question_ids}
    return [order[key] for key in sorted(order)[:count]]


def thoughts_of(rows: Iterable[dict], *, questions: Collection[str], match: str) -> tuple[list[dict], list[Reject]]:
    """Draw 0, thinking on, of these `questions` (ids) among `rows` (schema GENERATIONS), as rows of schema CANDIDATES.

    Reasons: the draw's own (`invalid`), empty_thought. Other rows are passed over.
    """
    kept: list[dict] = []
    rejects: list[Reject] = []
    for row in rows:
        if row["mode"] != "on" or row["draw"] != 0 or row["question_id"] not in questions:
            continue
        candidate = None if row["invalid"] else trajectory(row, polarity=0, match=match)
        if candidate is not None and candidate["segment_start"]:
            kept.append(candidate)
        else:
            reason = row["invalid"] or "empty_thought"
            ended = f"finish_reason={row['finish_reason']} " if reason == UNFINISHED else ""
            rejects.append(Reject(row["row_id"], reason, f"{ended}dataset={row['dataset']}", row["text"]))
    return kept, rejects


def unanswered(questions: Iterable[str], *, heard: Collection[str]) -> list[Reject]:
    """Rejects (no_response) for those of the `questions` that no row or reject of `heard` (row ids) belongs to."""
    ids = {one: f"{one}/on/0" for one in questions}
    detail = "it was not asked with thinking on: see the rejects of the stage that asks"
    return [Reject(row_id, "no_response", detail, one) for one, row_id in ids.items() if row_id not in heard]
