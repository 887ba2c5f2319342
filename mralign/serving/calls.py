"""One call of an endpoint that is OpenAI-compatible (or searches), and what can come of it.

Calls enter an endpoint; a reply or a failure leaves for each. A response is judged here by its status and bytes alone:
a whole JSON answer, a failure that another try may mend, one that stays, or a refusal that ends the run. What a whole
answer says is the business of whoever asked (for a completion: `completions.py`): it was paid for, and is kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mralign.serving.api_key import ApiKey

_DETAIL = 2000  # characters of a response that a failure keeps
RETRIED = frozenset({"rate_limited", "server_error", "timeout", "connection", "malformed_reply", "usage_missing"})
_BY_STATUS = {408: "timeout", 409: "server_error", 425: "server_error", 429: "rate_limited"}


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

    Reasons: rate_limited, server_error, timeout, connection, malformed_reply (all tried again until max_retries) and
    http_<status> (the server refuses this call: not tried again).
    """

    reason: str
    detail: str


class Stopped(ValueError):
    """Nothing more is sent: the message says why, and what to do before the same command is run again."""


class BudgetExceeded(Stopped):
    """The money of http.budget is spent."""


class EndpointRefused(Stopped):
    """The endpoint takes no request of ours: wrong key, empty account, wrong address."""


@dataclass(frozen=True)
class Response:
    """What the server sent, whole."""

    status: int
    content_type: str
    raw: bytes


def read_response(
    response: Response, *, key: ApiKey, priced: bool, tries: int, fault_of: Callable[[Any], str] | None = None
) -> Reply | Failure:
    """The reply in a response, or the failure; `priced`: a reply that does not tell its tokens will not do.

    `fault_of` says what keeps a JSON value from being an answer (empty: nothing); None: that of chats and completions.
    Raises EndpointRefused for 401, 402, 403 and for a 429 that says that the account is empty.
    """
    text = response.raw.decode("utf-8", "replace")
    if response.status == 200:
        return _read_answer(response, key=key, priced=priced, tries=tries, fault_of=fault_of or _answer_fault)
    detail = failure_detail(f"HTTP {response.status}: {text}", key=key)
    if response.status in (401, 402, 403) or (response.status == 429 and "insufficient_quota" in text):
        held = "holds the key that was sent" if key.value else "is not set, so no key was sent"
        raise EndpointRefused(
            f"the endpoint refuses to serve: {detail:.500}. The environment variable {key.env} ({key.setting}) {held}; "
            f"correct the key or the account and run the same command again; answers so far are kept"
        )
    if response.status in _BY_STATUS or response.status >= 500:
        return Failure(_BY_STATUS.get(response.status, "server_error"), detail)
    return Failure(f"http_{response.status}" if response.status >= 300 else "malformed_reply", detail)


def failure_detail(text: str, *, key: ApiKey) -> str:
    """What a failure keeps of `text`: the key blacked out first, then cut."""
    return key.redact(text)[:_DETAIL]


def _read_answer(
    response: Response, *, key: ApiKey, priced: bool, tries: int, fault_of: Callable[[Any], str]
) -> Reply | Failure:
    body: dict[str, Any] = {}
    fault = f"content type {response.content_type!r} is not JSON"
    if "json" in response.content_type:
        try:
            body = json.loads(response.raw)
            fault = fault_of(body)
        except (ValueError, RecursionError) as error:
            fault = f"not JSON: {type(error).__name__}"
    text = response.raw.decode("utf-8", "replace")
    if fault:
        return Failure("malformed_reply", failure_detail(f"{fault}: {text}", key=key))
    prompt_tokens, completion_tokens = _usage(body)
    if priced and (prompt_tokens is None or completion_tokens is None):
        return Failure("usage_missing", failure_detail(f"usage {body.get('usage')!r}: {text}", key=key))
    try:
        cleaned = key.clean(body)
    except RecursionError:
        return Failure("malformed_reply", failure_detail(f"nested too deeply: {text}", key=key))
    return Reply(cleaned, prompt_tokens or 0, completion_tokens or 0, cached=False, tries=tries)


def _usage(body: dict[str, Any]) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the completion, None where the answer does not tell."""
    usage = body.get("usage")
    tokens = [usage.get(n) if isinstance(usage, dict) else None for n in ("prompt_tokens", "completion_tokens")]
    known = [t if type(t) is int and t >= 0 else None for t in tokens]
    return known[0], known[1]


def _answer_fault(body: Any) -> str:
    """What keeps a JSON value from being an answer; empty if nothing does."""
    if not isinstance(body, dict):
        return "not a JSON object"
    if body.get("error"):
        return "an error in a response of status 200"
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "no choices"
    return ""
