"""A chat is asked for open labels and for the names of clusters (method.md §2b).

Trajectories or clusters and a `Chat` enter; rows of schema OPEN_LABELS, or a strategy a cluster, leave. A reply that
cannot be used is asked for once more with its fault quoted; then the row is a reject with the raw reply.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mralign.annotation.instruction import trajectory_of
from mralign.annotation.naming import Strategy, naming_request, read_naming
from mralign.annotation.open_labels import as_row, open_request, read_open
from mralign.asking.interview import ask
from mralign.rows import Polarity
from mralign.run.rejects import Reject
from mralign.run.stream import Answer
from mralign.serving.calls import Stopped
from mralign.serving.conversation import Chat

_ROLE = "labeller"  # of whoever is asked here, in rejects


class OpenLabelling:
    """An actor of a stream (run/stream.py): a chat labels candidates, in words of its own."""

    def __init__(self, *, start_chat: Callable[[], Chat], show_answers: bool) -> None:
        self.chat, self.show_answers = start_chat(), show_answers

    async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
        """The open labels of each candidate, or why there are none. The chat bounds what is in flight."""
        return await asyncio.gather(*map(self._label, rows))

    async def _label(self, row: dict[str, Any]) -> Answer:
        trajectory, tally = trajectory_of(row), Counter[str]()
        request, segments = open_request(trajectory, show_answers=self.show_answers), len(trajectory.segments)
        try:
            said = await ask(self.chat, request, read=lambda text: read_open(text, segments=segments), tally=tally)
        except Stopped as reason:
            return Answer(stopped=str(reason))
        if isinstance(said, Reject):
            reject = replace(said, dataset=row["dataset"], polarity=Polarity(row["polarity"]), role=_ROLE)
            return Answer(rejects=[reject], took=tally)
        return Answer(rows=[as_row(row["row_id"], steps=said)], took=tally)


async def name_clusters(
    typical: Sequence[Sequence[str]], *, frequency: Mapping[str, int], chat: Chat
) -> tuple[Strategy, ...]:
    """A strategy a cluster, in order; ValueError if the second reply cannot be used either."""
    request = naming_request(typical, frequency=frequency)
    found = await ask(chat, request, read=lambda text: read_naming(text, clusters=len(typical)), tally=Counter())
    if isinstance(found, Reject):
        raise ValueError(
            f"the {len(typical)} clusters could not be named ({found.reason}): {found.detail}. Choose another "
            f"discovery.labeller; the open labels are kept. The last reply began {found.raw[:300]!r}"
        )
    return found
