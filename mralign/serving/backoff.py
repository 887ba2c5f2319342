"""How long to wait before a request is sent again.

The number of failures, the headers of a response and the words of its error enter; seconds leave. Waits grow
exponentially with full jitter (any part of the longest wait, drawn evenly), so that requests that failed together do
not come back together. Servers say in many ways when they want to be asked again; `asked_wait_s` knows them.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_BASE_S = 0.5  # longest wait after the first failure
_SHORT = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "milli": 1e-3}
_UNIT_S = _SHORT | {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PIECE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ns|us|µs|ms|milli|[smhd])[a-z]*\s*", re.IGNORECASE | re.ASCII)
_SAID = re.compile(
    r"(?:try again|retry)(?: again)? (?:in|after) (?P<wait>(?:\d[\d.]*\s*[a-zµ]+\s*)+)"
    r"|\"retryDelay\": ?\"(?P<delay>[^\"]+)\"",
    re.IGNORECASE,
)
_EPOCH_FROM_S, _EPOCH_FROM_MS = 1e8, 1e11  # a larger number is a point in time, no number of seconds


@dataclass(frozen=True)
class Clock:
    """Seconds that only grow, and how to wait for some; a test gives its own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Coroutine[Any, Any, None]] = asyncio.sleep


def backoff_s(failures: int, *, longest_s: float, draw: float) -> float:
    """Seconds to wait after n = 1, 2, ... failures: the share `draw` in [0, 1) of min(longest, 0.5 s · 2^(n-1))."""
    return draw * min(longest_s, _BASE_S * 2.0 ** min(failures - 1, 60))


def asked_wait_s(headers: Mapping[str, str], *, now: float, words: str = "") -> float | None:
    """Seconds after which a server that has refused a request wants to be asked again; None where it does not say.

    Read are, in this order: `retry-after-ms`, `Retry-After`, `x-ratelimit-reset-*` of what is used up (or of what the
    server does not say is left), and the words of the error ("try again in 1m20s"; Google's retryDelay). `now` is in
    seconds since the epoch.
    """
    lower = _lower(headers)
    milliseconds = _number(lower.get("retry-after-ms", ""))
    if milliseconds is not None:
        return milliseconds / 1000
    seconds = retry_after_s(headers, now=now)
    if seconds is None:
        seconds = _reset_s(lower, now=now, or_unknown=True)
    if seconds is None and (said := _SAID.search(words)):
        seconds = duration_s(said["wait"] or said["delay"])
    return seconds


def used_up_wait_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds until there is something left of what a response says is used up (`x-ratelimit-remaining-*: 0`)."""
    return _reset_s(_lower(headers), now=now, or_unknown=False)


def retry_after_s(headers: Mapping[str, str], *, now: float) -> float | None:
    """Seconds that `Retry-After` asks for, in seconds or as an HTTP date; None where it is missing or makes no sense.

    A date is read against the server's own `Date` where it sends one, else against `now` (seconds since the epoch): the
    two machines' clocks need not agree.
    """
    lower = _lower(headers)
    value = lower.get("retry-after", "").strip()
    seconds = duration_s(value)
    if seconds is not None:
        return seconds
    then = _http_date(value)
    if then is None:
        return None
    server = _http_date(lower.get("date", ""))
    return max(0.0, then - (now if server is None else server))


def duration_s(text: str) -> float | None:
    """Seconds that a text stands for: `12`, `1s`, `6m0s`, `120ms`, `26 seconds`; None where it is no duration."""
    number = _number(text)
    if number is not None:
        return number
    text = text.strip().rstrip(".")
    pieces = list(_PIECE.finditer(text))
    if not pieces or "".join(piece[0] for piece in pieces) != text:
        return None
    total = 0.0
    for piece in pieces:
        total += float(piece[1]) * _UNIT_S[piece[2].lower()]
    return total if math.isfinite(total) else None


def _reset_s(lower: Mapping[str, str], *, now: float, or_unknown: bool) -> float | None:
    """The longest wait for a limit that is used up; with `or_unknown`, else for one of which nothing is said."""
    used_up: list[float] = []
    unknown: list[float] = []
    for name, value in lower.items():
        plain = name.replace("rate-limit", "ratelimit")
        if "ratelimit" not in plain or "reset" not in plain:
            continue
        seconds = _seconds_until(value, now=now)
        remaining = lower.get(name.replace("reset", "remaining"))
        if seconds is None:
            continue
        if remaining is None:
            unknown.append(seconds)
        elif _number(remaining) == 0:
            used_up.append(seconds)
    if used_up:
        return max(used_up)
    return max(unknown) if unknown and or_unknown else None


def _seconds_until(value: str, *, now: float) -> float | None:
    """Seconds until a reset, given as a duration, or as a point in time: seconds or milliseconds since the epoch, or a
    date."""
    seconds = duration_s(value)
    if seconds is None:
        then = _iso_date(value)
        then = _http_date(value) if then is None else then
        return None if then is None else max(0.0, then - now)
    if seconds >= _EPOCH_FROM_MS:
        return max(0.0, seconds / 1000 - now)
    if seconds >= _EPOCH_FROM_S:
        return max(0.0, seconds - now)
    return seconds


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _number(text: str) -> float | None:
    """A finite number that is not negative, else None."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None


def _iso_date(value: str) -> float | None:
    try:
        parsed = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _http_date(value: str) -> float | None:
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
