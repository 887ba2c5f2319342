"""A response of a server is judged: a whole answer, a failure, a refusal, or the end of the run.

Status, headers and bytes enter; a `Reply` or a `Failure` leaves. A status of 200 proves nothing: gateways answer before
they know that the provider behind them fails, and put the error into the body, into the first choice, or leave an empty
message. None of that is an answer; only what another try could not change may be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mralign.chat.endings import ending_fault
from mralign.serving.api_key import ApiKey
from mralign.serving.backoff import asked_wait_s
from mralign.serving.calls import EndpointRefused, Failure, Refusal, Reply, failure_detail
from mralign.serving.error_body import ServerError, read_error
from mralign.serving.usage import usage_of

_PASSING_STATUS = {408: "timeout", 409: "server_error", 425: "server_error", 429: "rate_limited"}
_OF_KEY = (401, 407)
# Finish reasons of a model that was interrupted: OpenRouter and vLLM; vLLM, SGLang; DeepSeek; Zhipu.
_INTERRUPTED = frozenset({"error", "abort", "aborted", "insufficient_system_resource", "network_error"})


@dataclass(frozen=True)
class Response:
    """What the server sent, whole; `now`: when, in seconds since the epoch."""

    status: int
    content_type: str
    raw: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    now: float = 0.0


def read_response(
    response: Response, *, key: ApiKey, priced: bool, tries: int, fault_of: Callable[[Any], str] | None = None
) -> Reply | Failure:
    """The reply in a response, or the failure; `priced`: a reply that does not tell its tokens will not do.

    `fault_of` says what keeps a JSON value from being an answer (empty: nothing); None: that of chats and completions.
    Raises EndpointRefused where no other call would fare better: a refused key, an empty account.
    """
    text = response.raw.decode("utf-8", "replace")
    if response.status == 200:
        return _read_answer(response, text=text, key=key, priced=priced, tries=tries, fault_of=fault_of or answer_fault)
    detail = failure_detail(f"HTTP {response.status}: {text}", key=key)
    return _failure(_error_in(text, status=response.status), response, detail=detail, key=key)


def answer_fault(body: Any) -> str:
    """What keeps a JSON value from being the answer of a chat or completion; empty if nothing does."""
    if not isinstance(body, dict):
        return "not a JSON object"
    if body.get("error"):
        return "an error in a response of status 200"
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return "no choices"
    return _choice_fault(choices[0], usage=body.get("usage"))


def _choice_fault(choice: Mapping[str, Any], *, usage: Any) -> str:
    finish, message = choice.get("finish_reason"), choice.get("message")
    if choice.get("error"):
        return "an error in the choice of a response of status 200"
    if isinstance(finish, str) and finish.lower() in _INTERRUPTED:
        return f"the model was interrupted (finish reason {finish})"
    if message is None and choice.get("text") is None:
        return "neither a message nor a text"
    said = message if isinstance(message, dict) else {"content": choice.get("text")}
    spoken = any(said.get(name) for name in ("content", "refusal", "tool_calls", "reasoning", "reasoning_content"))
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    # A limit of tokens or a filter may leave nothing by right: some count no token of a thought.
    ended_by_itself = not finish or ending_fault(finish) is None
    if not spoken and not choice.get("token_ids") and tokens == 0 and ended_by_itself:
        return "an empty text of 0 tokens"
    return ""


def _read_answer(
    response: Response, *, text: str, key: ApiKey, priced: bool, tries: int, fault_of: Callable[[Any], str]
) -> Reply | Failure:
    body: Any = {}
    fault = f"content type {response.content_type!r} is not JSON"
    if "json" in response.content_type:
        try:
            body = json.loads(response.raw)
            fault = fault_of(body)
        except (ValueError, RecursionError) as error:
            fault = f"not JSON: {type(error).__name__}"
    if fault:
        detail = failure_detail(f"{fault}: {text}", key=key)
        if _holds_error(body):
            return _failure(read_error(body, status=200), response, detail=detail, key=key)
        return Failure("malformed_reply", detail)
    usage = usage_of(body)
    if priced and (usage.prompt_tokens is None or usage.completion_tokens is None):
        return Failure("usage_missing", failure_detail(f"usage {body.get('usage')!r}: {text}", key=key))
    try:
        cleaned = key.clean(body)
    except RecursionError:
        return Failure("malformed_reply", failure_detail(f"nested too deeply: {text}", key=key))
    return Reply(cleaned, usage.prompt_tokens or 0, usage.completion_tokens or 0, cached=False, tries=tries)


def _failure(error: ServerError, response: Response, *, detail: str, key: ApiKey) -> Failure:
    """What an error means for the call, and for the run."""
    if error.status in _OF_KEY or error.of_account:
        held = "holds the key that was sent" if key.value else "is not set, so no key was sent"
        raise EndpointRefused(
            f"the endpoint refuses to serve: {detail:.500}. The environment variable {key.env} ({key.setting}) {held}; "
            f"correct the key or the account and run the same command again; answers so far are kept"
        )
    wait = asked_wait_s({**error.headers, **response.headers}, now=response.now, words=error.words)
    if error.of_row and error.status < 500:
        return Refusal(f"http_{error.status}", detail, signature=error.signature, of_row=True)
    if error.status in _PASSING_STATUS:
        return Failure(_PASSING_STATUS[error.status], detail, wait)
    if error.status >= 500:
        return Failure("server_error", detail, wait)
    if error.status < 300:
        return Failure("malformed_reply", detail, wait)
    return Refusal(f"http_{error.status}", detail, signature=error.signature, of_all=error.of_all)


def _error_in(text: str, *, status: int) -> ServerError:
    try:
        return read_error(json.loads(text), status=status)
    except (ValueError, RecursionError):
        return read_error(text, status=status)


def _holds_error(body: Any) -> bool:
    first = body[0] if isinstance(body, list) and body else body
    if not isinstance(first, dict):
        return False
    choices = first.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return bool(first.get("error") or (isinstance(choice, dict) and choice.get("error")))
