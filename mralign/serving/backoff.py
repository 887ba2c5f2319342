"""How long to wait before a request is sent again.

The number of tries and the headers of a refusal enter; seconds leave. Waits grow exponentially with full jitter (any
part of the longest wait, drawn evenly), so that requests that failed together do not come back together. What a server
asks for by `Retry-After` holds for the whole endpoint: the gate stays shut for every request until then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

log = logging.getLogger("mralign")

_BASE_S = 0.5  # longest wait after the first failure
_SAID_FROM_S = 10  # a shorter pause is not worth a line in the log


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and how to wait for some; a test gives its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep


def backoff_s(failures: int, *, longest_s: float, draw: float) -> float:
    """Seconds to wait after n = 1, 2, ... failures: the share `draw` in [0, 1) of min(longest, 0.5 s · 2^(n-1))."""
    return draw * min(longest_s, _BASE_S * 2.0 ** min(failures - 1, 60))


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that `Retry-After` asks for, in seconds or as an HTTP date; None where it is missing or makes no sense.

    A date is read against the server's own `Date` where it sends one, else against `now` (seconds since the epoch): the
    two machines' clocks need not agree.
    """
    value = headers.get("Retry-After", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        then = _http_date(value)
        if then is None:
            return None
        server = _http_date(headers.get("Date", ""))
        seconds = max(0.0, then - (now if server is None else server))
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


class Gate:
    """Shut while the endpoint wants no requests; all of them wait here before they are sent."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._opens = clock, -math.inf

    def shut(self, seconds: float) -> None:
        """Let nobody pass for `seconds` from now; an earlier, longer pause stays."""
        opens = self._clock.now() + seconds
        if opens > self._opens and seconds >= _SAID_FROM_S:
            log.warning("the endpoint asks to be left alone for %.0f s (Retry-After); all requests wait", seconds)
        self._opens = max(self._opens, opens)

    async def passed(self) -> None:
        """Return when the gate is open; those who waited come a little apart."""
        while (left := self._opens - self._clock.now()) > 0:
            await self._clock.sleep(left + random.random() * _BASE_S)


def _http_date(value: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
