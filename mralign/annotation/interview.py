"""A chat is asked for open labels and for the names of clusters (METHOD.md §2b).

Trajectories or clusters and a `Chat` enter; committed parts of schema OPEN_LABELS, or a strategy a cluster, leave. A
reply that cannot be used is asked for once more with its fault quoted; then the row is a reject with the raw reply.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pyarrow as pa

from mralign.annotation.instruction import Trajectory, repair_messages
from mralign.annotation.naming import Strategy, naming_request, read_naming
from mralign.annotation.open_labels import as_row, open_request, read_open
from mralign.annotation.reply import Fault
from mralign.engines.calls import RETRIED, Failure
from mralign.engines.conversation import Chat, ChatReply, ChatRequest
from mralign.engines.labels import StepLabels
from mralign.rejects import Reject, to_table
from mralign.schema import OPEN_LABELS
from mralign.store import StageDir, part_name

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

    A committed part is kept, unless a row of it met a failure that another try may mend: then its replies are found
    where the chat keeps them, and only that row is asked again. `report` hears the number of rows of every part that is
    new. All parts are asked for at once, for the chat bounds what is in flight, and no part waits for another's tail.
    Whatever a chat raises ends all and is raised here.
    """
    starts = range(0, len(trajectories), PART_ROWS)
    parts = {part_name(f"{start:06d}"): trajectories[start : start + PART_ROWS] for start in starts}
    tally: Counter[str] = Counter()
    done = {part for part in out.parts() if not RETRIED & set(_reasons(out, part))}

    async def work(name: str, members: Sequence[Trajectory]) -> None:
        asked = [_label(one, chat=chat, show_answers=show_answers, tally=tally) for one in members]
        answers = await asyncio.gather(*asked)
        await asyncio.to_thread(_commit, name, members, answers, out=out)
        report(len(members))

    try:
        async with asyncio.TaskGroup() as group:
            for name, members in parts.items():
                if name not in done:
                    group.create_task(work(name, members))
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
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
    first = await _reply(chat, request, tally=tally)
    if isinstance(first, Failure):
        return Reject(request.key_id, first.reason, first.detail)
    found = read(first.text)
    if not isinstance(found, Fault):
        return found
    tally["repaired"] += 1
    messages = repair_messages(request.messages, reply=_readable(first.text), fault=found)
    second = await _reply(chat, replace(request, messages=messages), tally=tally)
    if isinstance(second, Failure):
        return Reject(request.key_id, second.reason, f"repair of {found.reason}: {second.detail}", first.text)
    found = read(second.text)
    if isinstance(found, Fault):
        cut = "; the reply was cut off: raise decoding.max_tokens" if second.finish_reason == "length" else ""
        return Reject(request.key_id, found.reason, f"after one repair: {found.detail}{cut}", second.text)
    return found


async def _reply(chat: Chat, request: ChatRequest, *, tally: Counter[str]) -> ChatReply | Failure:
    answer = await chat.reply(request)
    if isinstance(answer, ChatReply):
        tally.update(requests=1, cached=int(answer.cached))
        tally.update(prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens)
    return answer


async def _label(
    trajectory: Trajectory, *, chat: Chat, show_answers: bool, tally: Counter[str]
) -> tuple[StepLabels, ...] | Reject:
    request, segments = open_request(trajectory, show_answers=show_answers), len(trajectory.segments)
    return await ask(chat, request, read=lambda text: read_open(text, segments=segments), tally=tally)


def _commit(
    name: str,
    members: Sequence[Trajectory],
    answers: Sequence[tuple[StepLabels, ...] | Reject],
    *,
    out: StageDir,
) -> None:
    pairs = list(zip(members, answers, strict=True))
    rows = [as_row(one.row_id, steps=said) for one, said in pairs if not isinstance(said, Reject)]
    rejects = [said for said in answers if isinstance(said, Reject)]
    table = pa.Table.from_pylist(rows, schema=OPEN_LABELS)
    out.commit(name, table, schema=OPEN_LABELS, rejects=to_table(rejects))


def _reasons(out: StageDir, part: str) -> list[str]:
    reasons: list[str] = out.read_rejects([part]).column("reason").to_pylist()
    return reasons


def _readable(text: str) -> str:
    """Text that can be encoded: no lone surrogate."""
    return text.encode("utf-8", "replace").decode()
