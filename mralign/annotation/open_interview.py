"""A chat is asked for open labels and for the names of clusters (METHOD.md §2b).

Trajectories or clusters and a `Chat` enter; committed parts of schema OPEN_LABELS, or a strategy a cluster, leave. A
reply that cannot be used is asked for once more with its fault quoted; then the row is a reject with the raw reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from mralign.annotation.instruction import Trajectory
from mralign.annotation.naming import Strategy, naming_request, read_naming
from mralign.annotation.open_labels import as_row, open_request, read_open
from mralign.annotation.step_labels import StepLabels
from mralign.asking.interview import commit_in_parts, interview, together, uncut
from mralign.asking.json_reply import Fault
from mralign.chat.endings import TRUNCATED
from mralign.rows.schema import OPEN_LABELS
from mralign.run.rejects import Reject
from mralign.run.store import StageDir
from mralign.serving.calls import Failure
from mralign.serving.conversation import Chat, ChatRequest

T = TypeVar("T")
PART_ROWS = 32  # trajectories that are committed together


async def label_openly(
    trajectories: Sequence[Trajectory],
    *,
    chat: Chat,
    show_answers: bool,
    out: StageDir,
    report: Callable[[int], object],
) -> Counter[str]:
    """Commit the open labels of all trajectories; what that took, counted.

    `report` hears the number of rows of every part that is new. All parts are asked for at once, for the chat bounds
    what is in flight, and no part waits for another's tail; see `commit_in_parts` for what a rerun asks again.
    """
    tally: Counter[str] = Counter()

    async def work(members: Sequence[Trajectory]) -> tuple[pa.Table, list[Reject]]:
        answers = await together(_label(one, chat=chat, show_answers=show_answers, tally=tally) for one in members)
        pairs = list(zip(members, answers, strict=True))
        rows = [as_row(one.row_id, steps=said) for one, said in pairs if not isinstance(said, Reject)]
        rejects = [said for _, said in pairs if isinstance(said, Reject)]
        return pa.Table.from_pylist(rows, schema=OPEN_LABELS), rejects

    await commit_in_parts(trajectories, rows=PART_ROWS, work=work, schema=OPEN_LABELS, out=out, report=report)
    return tally


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


async def ask(chat: Chat, request: ChatRequest, *, read: Callable[[str], T | Fault], tally: Counter[str]) -> T | Reject:
    """What `read` finds in the first or the second reply, else the row's reject."""
    found = await interview(chat, request, read=uncut(read), tally=tally)
    said, raw = found.said, found.reply.text if found.reply else ""
    if isinstance(said, Failure):
        before = f"repair of {found.mended.reason}: " if found.mended else ""
        return Reject(request.key_id, said.reason, f"{before}{said.detail}", raw)
    if isinstance(said, Fault):
        cut = "; raise decoding.max_tokens" if said.reason == TRUNCATED else ""
        return Reject(request.key_id, said.reason, f"after one repair: {said.detail}{cut}", raw)
    return said


async def _label(
    trajectory: Trajectory, *, chat: Chat, show_answers: bool, tally: Counter[str]
) -> tuple[StepLabels, ...] | Reject:
    request, segments = open_request(trajectory, show_answers=show_answers), len(trajectory.segments)
    return await ask(chat, request, read=lambda text: read_open(text, segments=segments), tally=tally)
