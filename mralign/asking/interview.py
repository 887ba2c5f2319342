"""A chat is asked for JSON, and once more with the error quoted where its reply cannot be used.

A request and a reader of its reply enter; what the reader found leaves, or why there is nothing, with the messages and
the reply that it came from. `ask` and `said_or_reject` make a reject of what could not be used; nothing is guessed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from mralign.asking.json_reply import Fault, readable
from mralign.chat.endings import TRUNCATED, ending_fault
from mralign.config import Http
from mralign.run.events import MoneySpent
from mralign.run.rejects import Reject
from mralign.serving.calls import Failure, Stopped
from mralign.serving.conversation import Chat, ChatReply, ChatRequest, Message

T = TypeVar("T")
_QUOTED = 4000  # characters of a refused reply that go back with the repair request


@dataclass(frozen=True)
class Interview(Generic[T]):
    """What came of a request. `said`: what was read; a Fault: two replies could not be used; a Failure: none came."""

    said: T | Fault | Failure
    messages: tuple[Message, ...]  # those that `reply` answers, or the first if there is no reply
    reply: ChatReply | None  # the last that came
    mended: Fault | None = None  # what was wrong with the first reply


async def interview(
    chat: Chat, request: ChatRequest, *, read: Callable[[ChatReply], T | Fault], tally: Counter[str]
) -> Interview[T]:
    """What `read` finds in the first or the second reply.

    `tally` gets `requests` (answered), `cached`, `repaired`, `prompt_tokens`, `completion_tokens`, `prefix_tokens`,
    `fresh_prompt_tokens`, `fresh_prefix_tokens`, `fresh_completion_tokens` (those of them that cost something now).
    `prefix_tokens` are those of the prompt that were in a prefix cache, `written_tokens` those that were put there (and
    `fresh_written_tokens`). Raises what the chat does.
    """
    first = await _reply(chat, request, tally=tally)
    if isinstance(first, Failure):
        return Interview(first, request.messages, None)
    said = read(first)
    if not isinstance(said, Fault):
        return Interview(said, request.messages, first)
    tally["repaired"] += 1
    messages = repair_messages(request.messages, reply=first.text, fault=said)
    second = await _reply(chat, replace(request, messages=messages), tally=tally)
    if isinstance(second, Failure):
        return Interview(second, request.messages, first, said)
    return Interview(read(second), messages, second, said)


async def ask(
    chat: Chat,
    request: ChatRequest,
    *,
    read: Callable[[str], T | Fault],
    tally: Counter[str],
    who: str = "",
    unanswered: str = "",
) -> T | Reject:
    """What `read` finds in the text of the first or the second reply, else a reject; see `said_or_reject`."""
    found = await interview(chat, request, read=uncut(read), tally=tally)
    return said_or_reject(found, row_id=request.key_id, who=who, unanswered=unanswered)


def said_or_reject(found: Interview[T], *, row_id: str, who: str = "", unanswered: str = "") -> T | Reject:
    """What was said; or a reject with the reason, who was asked, and the last reply, in place of which `unanswered`
    stands where there is none."""
    said = found.said
    if not isinstance(said, Fault | Failure):
        return said
    detail = said.detail
    if isinstance(said, Failure) and found.mended is not None:
        detail = f"repair of {found.mended.reason}: {detail}"
    if said.reason == TRUNCATED:
        detail += "; raise decoding.max_tokens"
    if who:
        detail = f"{who}: {detail}"
    raw = found.reply.text if found.reply else ""
    return Reject(row_id, said.reason, detail, raw or unanswered)


def uncut(read: Callable[[str], T | Fault], *, advice: str = "be shorter") -> Callable[[ChatReply], T | Fault]:
    """A reader of replies out of one of texts: a reply that the model did not end by itself is not read at all.

    What stands in it may be a draft, or what a filter left. Faults: truncated (a limit of tokens), unfinished.
    """

    def whole(reply: ChatReply) -> T | Fault:
        fault = ending_fault(reply.finish_reason)
        if fault is None:
            return read(reply.text)
        if fault == TRUNCATED:
            return Fault(fault, f"the reply was cut off after {reply.completion_tokens} tokens; {advice}")
        return Fault(fault, f"the reply is not whole: it ended with finish reason {reply.finish_reason!r:.100}")

    return whole


def repair_messages(asked: Sequence[Message], *, reply: str, fault: Fault) -> tuple[Message, ...]:
    """The same request once more, with the refused reply and what was wrong with it."""
    text = f"This reply cannot be used: {fault.detail}\nReply again with the whole corrected JSON object, nothing else."
    said = readable(reply).rpartition("</think>")[2].strip()[:_QUOTED] or "(nothing)"  # a thought would steer the chat
    return (*asked, Message("assistant", said), Message("user", text))


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of coroutines that run at once, in their order.

    Where one is told to stop (calls.Stopped) the others come to their end first, as what is in flight is paid for; then
    that is raised. Any other exception cancels the others and is raised here.
    """

    async def ended(one: Coroutine[Any, Any, T]) -> T | Stopped:
        try:
            return await one
        except Stopped as reason:
            return reason

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ended(one)) for one in work]
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
    results = []
    for task in tasks:
        result = task.result()
        if isinstance(result, Stopped):
            raise result
        results.append(result)
    return results


def price(tokens: Mapping[str, int], *, http: Http | None, fresh: bool = False) -> float:
    """Money that tokens, counted as by `interview`, are worth at an endpoint; nothing (None) prices our own engines.

    `fresh`: only that of tokens which were not found in the run directory. Where batches are asked for, all are priced
    as answers of a batch; what the endpoint's own tally says is exact.
    """
    if http is None:
        return 0.0
    which = "fresh_" if fresh else ""
    kinds = ("prompt", "completion", "prefix", "written")
    counted = {kind: tokens.get(f"{which}{kind}_tokens", 0) for kind in kinds}
    return http.price_share * float(http.money(**counted))


def money_spent(took: Mapping[str, Mapping[str, int]], *, endpoints: Mapping[str, Http | None]) -> list[MoneySpent]:
    """By currency, what this call has spent at priced endpoints; `took`: role -> tokens, counted as by `interview`."""
    total: dict[str, float] = {}
    for role, http in endpoints.items():
        if http is not None and http.priced:
            spent = price(took.get(role, {}), http=http, fresh=True)
            total[http.currency] = total.get(http.currency, 0.0) + spent
    return [MoneySpent(spent=spent, currency=currency) for currency, spent in total.items()]


async def _reply(chat: Chat, request: ChatRequest, *, tally: Counter[str]) -> ChatReply | Failure:
    reply = await chat.reply(request)
    if isinstance(reply, ChatReply):
        tally.update(
            requests=1,
            cached=int(reply.cached),
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            prefix_tokens=reply.prefix_tokens,
            written_tokens=reply.written_tokens,
            fresh_prompt_tokens=0 if reply.cached else reply.prompt_tokens,
            fresh_prefix_tokens=0 if reply.cached else reply.prefix_tokens,
            fresh_written_tokens=0 if reply.cached else reply.written_tokens,
            fresh_completion_tokens=0 if reply.cached else reply.completion_tokens,
        )
    return reply
