"""The draws of one question, each made only if those before it leave it something to decide.

The request of a question's first draw enters; its generations leave, as the order of the draws wants them
(`requests.DrawOrder`). A thought that is cut because it cannot be kept is a generation too, with the reason
`long_thought` or `many_segments`; where that cannot be told at the cut, the draw is made again to its end, by the same
seed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from mralign.chat.endings import TRUNCATED
from mralign.rows import Generation, Mode, Reject, Request, row_id_of
from mralign.run.stream import Answer
from mralign.serving.requests import DrawOrder, row_seed

# Asks for one draw, of at most so many tokens (None: as many as there is room for).
Ask = Callable[[Request, int | None], Awaitable[Generation | Reject]]


async def settle_question(first: Request, *, order: DrawOrder, seed: int, ask: Ask) -> Answer:
    """The generations of a question, and the reject that ended it early if there is one. `seed`: the run's.

    Took: `tokens_asked_again`, of thoughts that were cut and had to be made again.
    """
    rows: list[Generation] = []
    rejects: list[Reject] = []
    wasted = 0
    wanted = order.next_draw(rows)
    while wanted is not None:
        mode, draw = wanted
        request = draw_of(first, mode=mode, draw=draw, seed=seed)
        row, lost = await _draw(request, order=order, ask=ask)
        wasted += lost
        if isinstance(row, Reject):
            rejects.append(row)
            break
        rows.append(row)
        wanted = order.next_draw(rows)
    took = {"tokens_asked_again": wasted} if wasted else {}
    return Answer([vars(row) for row in rows], rejects, took)


def draw_of(first: Request, *, mode: Mode, draw: int, seed: int) -> Request:
    """The request of another draw of the same question."""
    row_id = row_id_of(first.question_id, mode=mode, draw=draw)
    return replace(first, row_id=row_id, mode=mode, draw=draw, seed=row_seed(seed, row_id))


async def _draw(request: Request, *, order: DrawOrder, ask: Ask) -> tuple[Generation | Reject, int]:
    limit = order.enough_tokens(Mode(request.mode), request.draw)
    row = await ask(request, limit)
    if limit is None or isinstance(row, Reject) or row.invalid != TRUNCATED:
        return row, 0
    reason = order.why_cut(row)
    if reason is not None:
        return replace(row, answer=None, invalid=reason), 0
    if row.completion_tokens < limit:  # the model's length has cut it
        return row, 0
    return await ask(request, None), row.completion_tokens
