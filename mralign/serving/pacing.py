"""How fast an endpoint is asked: all its requests pass here, one after another.

A request enters when there is room, when the endpoint wants requests, and when the limits of the configuration allow
one more. A 429 slows the whole endpoint, not the request that met it: everybody waits as long as the server asks (else
for a time that doubles), and half as many requests as before are in flight afterwards; each answer lets a little more
in again. The limits (`requests_per_minute`, `tokens_per_minute`) spread requests evenly and change nothing but speed.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

from mralign.config import Http
from mralign.serving.backoff import Clock, backoff_s

log = logging.getLogger("mralign")

_SAID_FROM_S = 10  # a shorter pause is not worth a line in the log
_APART_S = 0.5  # what waits for a pause to end comes up to this much later
_CHARACTERS_PER_TOKEN = 4


class RateLimit:
    """So many units a minute, spread evenly: what was taken must have passed before more is taken."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_each = 60 / per_minute if per_minute else 0.0
        self._free_at = -math.inf

    def wait_s(self, now: float) -> float:
        """Seconds until something may be taken."""
        return max(0.0, self._free_at - now)

    def take(self, units: float, *, now: float) -> None:
        """Take units, however many."""
        self._free_at = max(self._free_at, now) + units * self._seconds_each

    def correct(self, units: float) -> None:
        """So many more units (or fewer, where negative) were used than were taken."""
        self._free_at += units * self._seconds_each


class Pace:
    """When the next request may be sent, for one event loop."""

    def __init__(self, settings: Http, *, clock: Clock) -> None:
        self._clock, self._settings = clock, settings
        self._requests = RateLimit(settings.requests_per_minute)
        self._tokens = RateLimit(settings.tokens_per_minute)
        self._order, self._left = asyncio.Lock(), asyncio.Event()
        self._in_flight, self._room = 0, float(settings.concurrency)
        self._opens = -math.inf
        # Slowed so often in all, and since the last answer; and when the first 429 came since that answer.
        self._slowed = self._in_a_row = 0
        self._limited_since: float | None = None
        self._resting: set[asyncio.Task[Any]] = set()

    @asynccontextmanager
    async def turn(self, *, tokens: float, may_send: Callable[[], None]) -> AsyncIterator[int]:
        """Wait for a turn and hold it while a request is in flight; gives a number for `slow_down`.

        `may_send` raises where nothing may be sent any more. Between its last call and the body of the `with` there is
        no await, so that nothing slips in between.
        """
        async with self._order:
            while True:
                may_send()
                now = self._clock.now()
                wait = max(self._pause_s(now), self._requests.wait_s(now), self._tokens.wait_s(now))
                full = self._in_flight >= int(self._room)
                if wait <= 0 and not full:
                    break
                self._left.clear()
                if full:
                    await self.rest(self._left.wait())
                else:  # what leaves may have taken fewer tokens than was thought
                    await self.rest(self._clock.sleep(wait), self._left.wait())
            self._in_flight += 1
            self._requests.take(1, now=now)
            self._tokens.take(tokens, now=now)
        try:
            yield self._slowed
        finally:
            self._in_flight -= 1
            self._left.set()

    def answered(self, *, more_tokens: float) -> None:
        """An answer came; it took `more_tokens` than its turn was given (fewer, where negative)."""
        self._in_a_row, self._limited_since = 0, None
        self._room = min(self._settings.concurrency, self._room + 1 / self._room)
        self._tokens.correct(more_tokens)

    def slow_down(self, *, turn: int, asked_s: float | None, words: str) -> float:
        """A request of that turn met a 429. Shut for as long as is asked for, longer where that did not help.

        Requests that were in flight together slow the endpoint once. Returns how long, when the pause is over, the
        endpoint will have answered nothing, in seconds.
        """
        now = self._clock.now()
        if self._limited_since is None:
            self._limited_since = now
        wait = asked_s or 0.0
        if turn == self._slowed:
            self._slowed += 1
            self._in_a_row += 1
            self._room = max(1.0, self._room / 2)
            if asked_s is None or self._in_a_row > 1:
                draw = 0.5 + random.random() / 2
                wait = max(wait, backoff_s(self._in_a_row, longest_s=self._settings.max_backoff_s, draw=draw))
        self.shut(wait, words=words)
        return self._opens - self._limited_since

    def shut(self, seconds: float, *, words: str) -> None:
        """Let nobody pass for `seconds` from now; an earlier, longer pause stays."""
        opens = self._clock.now() + seconds
        if opens > self._opens and seconds >= _SAID_FROM_S:
            log.warning("the endpoint is left alone for %.0f s, all requests wait: %.200s", seconds, words)
        self._opens = max(self._opens, opens)

    async def rest(self, *waiting: Coroutine[Any, Any, Any]) -> None:
        """Wait for the first of these, or until somebody calls `wake`: whoever rests must ask again whether it may go
        on."""
        rests = {asyncio.create_task(one) for one in waiting}
        self._resting |= rests
        try:
            done, _ = await asyncio.wait(rests, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for rest in rests:
                rest.cancel()
            self._resting -= rests
        for rest in done:
            if not rest.cancelled():
                rest.result()

    def wake(self) -> None:
        """End all rests: a pause may last an hour, and nobody should sleep to its end only to be told to stop."""
        for rest in self._resting:
            rest.cancel()

    def _pause_s(self, now: float) -> float:
        left = self._opens - now
        return left + random.random() * _APART_S if left > 0 else 0.0


def estimated_tokens(payload: Mapping[str, Any]) -> float:
    """Tokens that a request may take: those of its prompt, a token for four bytes of text, and all it may write."""
    prompt = payload.get("prompt") or ""
    total = float(len(prompt)) if isinstance(prompt, list) else _tokens_of_text(prompt)
    for message in payload.get("messages") or ():
        total += _tokens_of_text(message.get("content"))
    for name in ("max_tokens", "max_completion_tokens"):
        total += payload.get(name) or 0
    return total


def _tokens_of_text(text: Any) -> float:
    return len(str(text).encode("utf-8", "replace")) / _CHARACTERS_PER_TOKEN
