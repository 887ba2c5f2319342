"""One call of an endpoint that is OpenAI-compatible (or searches), and what can come of it.

Calls enter an endpoint; a reply or a failure leaves for each. `http_response.py` judges what a server sends: a whole
answer, a failure that another try may mend, a refusal, or the end of the run. What a whole answer says is the business
of whoever asked (for a completion: `completions.py`): it was paid for, and is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mralign.serving.api_key import ApiKey

_DETAIL = 2000  # characters of a response that a failure keeps


@dataclass(frozen=True)
class Call:
    """A request: `key_id` is the row that it is for (messages only), `payload` the JSON object to post."""

    key_id: str
    path: str  # after the base URL: /completions, /chat/completions, or that of a search
    payload: dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """A whole answer; `tries` counts the requests that it took, 0 for one from the cache."""

    body: dict[str, Any]
    prompt_tokens: int
    completion_tokens: int
    cached: bool
    tries: int


@dataclass(frozen=True)
class Failure:
    """Why a call has no answer: a constant reason, and at most 2,000 characters of what came, the key blacked out.

    Reasons: those of `run.rejects.PASSING` (another try may mend it); `refused` (the server refuses this call and
    serves others); http_<status> (it refuses this call, and has served no other that would tell whose fault that is).
    """

    reason: str
    detail: str
    wait_s: float | None = field(default=None, compare=False)  # that the server asks for before the next try


@dataclass(frozen=True)
class Refusal(Failure):
    """The server refuses a call; whether just this one, the next calls will tell (`refusals.py`).

    `signature`: equal for refusals of one kind. `of_row`: its words say that the request itself is to blame. `of_all`:
    no request can be to blame (a wrong address).
    """

    signature: str = ""
    of_row: bool = False
    of_all: bool = False


class Stopped(ValueError):
    """Nothing more is sent: the message says why, and what to do before the same command is run again."""


class BudgetExceeded(Stopped):
    """The money of http.budget is spent."""


class EndpointRefused(Stopped):
    """The endpoint takes no request of ours: wrong key, empty account, wrong address, a limit that does not end."""


def failure_detail(text: str, *, key: ApiKey) -> str:
    """What a failure keeps of `text`: the key blacked out first, then cut."""
    return key.redact(text)[:_DETAIL]
