"""What the body of an error says: every gateway words it in its own way.

The parsed body (or the plain text) and the status enter; a `ServerError` leaves, whose properties tell what the error
is of: the account, one row, or everything. Words are looked for only in what the server says itself, never in fields
that repeat what was asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

_REPEATS = frozenset({"input", "flagged_input", "prompt", "messages", "content", "body", "headers"})
_MESSAGES = ("message", "detail", "msg", "error_description", "error")
_COMPARED = 60  # characters of a message that say whether two refusals are alike; later ones may quote the row
_OF_ALL = frozenset({404, 405, 410, 421, 426, 451})  # no row is to blame for these, nor for a redirect

# The account is empty or closed (OpenAI, Moonshot, DeepSeek, Anthropic, xAI, OpenRouter, Alibaba, Hugging Face, Zhipu).
_SPENT = re.compile(
    r"insufficient_quota|exceeded_current_quota|insufficient[ _](?:account[ _])?(?:balance|credit|fund)"
    r"|billing_hard_limit|billing_not_active|credit balance|(?:out of|no more|not enough) credit"
    r"|available credits|spending limit|spend limit|included credits|key limit exceeded|budget has been exceeded"
    r"|payment required|arrearage|account[ _](?:is |has been )?(?:suspended|deactivated|disabled|not active)|余额不足",
    re.IGNORECASE,
)
# A quota of a day or more: whoever waits for it waits for hours.
_LONG_QUOTA = re.compile(
    r"(?:per[ _-]?|/ )(?:day|month|week)|(?:daily|weekly|monthly)[ _-]?(?:\w+[ _-])?(?:limit|quota)"
    r"|\b[RT]PD\b|_daily\b",
    re.IGNORECASE,
)
# One request cannot be served, however often it is sent: what it says, or how long it is.
_OF_ROW = re.compile(
    r"content[ _-]?(?:filter|polic|management|moderation)|moderation|moderated|flagged|usage polic|responsible ?ai"
    r"|prohibited|inappropriate|harmful|unsafe|safety|data_?inspection|content exists risk|high risk|sensitive|敏感"
    r"|invalid_prompt|violat(?:es|ing|ed)|reduce the length"
    r"|context[ _]?(?:length|window|size)|maximum (?:model |input )?(?:context|length)|maximum number of tokens"
    r"|prompt is too long|(?:input|prompt|request|message|payload|body)s? (?:\w+ )?(?:is |are )?too (?:long|large)"
    r"|max_new_tokens|string_above_max_length|longer than the maximum",
    re.IGNORECASE,
)
_TOO_LARGE = re.compile(r"request too large|too large for", re.IGNORECASE)  # a 429 that no waiting ends
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|`[^`]*`")
_MESSAGE, _WORDS = 2000, 20_000  # characters that are looked at
_WITH_DIGIT = re.compile(r"\S*\d\S*")


@dataclass(frozen=True)
class ServerError:
    """`status`: that of the response, or the one that the body of a 200 gives; 200 where it gives none."""

    status: int
    message: str
    words: str = field(repr=False)  # everything that the server says itself: message, codes, details
    headers: Mapping[str, str] = field(default_factory=dict)  # some gateways put the provider's into the body

    @cached_property
    def of_account(self) -> bool:
        """The account or the quota is used up: no request will be answered soon."""
        if self.status == 402:
            return True
        if self.status not in (200, 400, 403, 429):
            return False
        long_quota = self.status == 429 and _LONG_QUOTA.search(self.words)
        return bool(long_quota or _SPENT.search(self.words))

    @cached_property
    def of_row(self) -> bool:
        """The request itself is refused for what it says or for its length."""
        if self.status == 429:
            return bool(_TOO_LARGE.search(self.words))
        return self.status == 413 or (not self.of_all and bool(_OF_ROW.search(self.words)))

    @property
    def of_all(self) -> bool:
        """The address or the model's name is wrong: every request will be refused."""
        return 300 <= self.status < 400 or self.status in _OF_ALL

    @property
    def signature(self) -> str:
        """Equal for refusals of one kind: status and first words, without what is quoted and without numbers."""
        plain = _WITH_DIGIT.sub("#", _QUOTED.sub("#", self.message.lower()))
        return f"{self.status} {' '.join(plain.split()):.{_COMPARED}}"


def read_error(body: Any, *, status: int) -> ServerError:
    """The error in the parsed body of a response (or in its text, where it is no JSON)."""
    if isinstance(body, list) and body:
        body = body[0]  # Google wraps its errors
    if not isinstance(body, dict):
        text = _without_tags(str(body))
        return ServerError(status, text[:_MESSAGE], text[:_WORDS])
    error = _error_of(body)
    if not isinstance(error, dict):
        error = {"message": error} | {name: body[name] for name in ("error_type", "code") if name in body}
    said = {name: value for name, value in error.items() if name not in ("stack", "traceback")}
    words = json.dumps(_without_repeats(said), ensure_ascii=False)
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, dict) else None
    texts = {str(n): str(v) for n, v in headers.items()} if isinstance(headers, dict) else {}
    message = _message_of(error)[:_MESSAGE]
    return ServerError(_status_of(error, given=status), message, words[:_WORDS], texts)


def _error_of(body: Mapping[str, Any]) -> Any:
    """The object or text that speaks of the error: of the whole, of the first choice, or the body itself."""
    if body.get("error"):
        return body["error"]
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(first, dict) and first.get("error"):
        return first["error"]
    return dict(body)


def _status_of(error: Mapping[str, Any], *, given: int) -> int:
    """The status that the error of a 200 gives itself: gateways answer before they know that the provider fails."""
    if given != 200:
        return given
    for name in ("code", "status", "status_code"):
        value = str(error.get(name, ""))
        if value.isdigit() and 300 <= int(value) < 600:
            return int(value)
    kinds = f"{error.get('code')} {error.get('type')} {error.get('status')}".lower()
    limited = ("rate_limit" in kinds) or ("ratelimit" in kinds) or ("resource_exhausted" in kinds)
    return 429 if limited else given


def _message_of(error: Mapping[str, Any]) -> str:
    for name in _MESSAGES:
        if error.get(name):
            value = error[name]
            return value if isinstance(value, str) else json.dumps(value)
    return json.dumps(_without_repeats(error))


def _without_repeats(value: Any) -> Any:
    """A JSON value without the fields that repeat what was asked."""
    if isinstance(value, list):
        return [_without_repeats(item) for item in value]
    if isinstance(value, dict):
        return {name: _without_repeats(item) for name, item in value.items() if name not in _REPEATS}
    return value


def _without_tags(text: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())
