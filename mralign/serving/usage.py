"""What a server says that an answer took: tokens of the prompt, those of them that its prefix cache held, and of the
completion.

The body of a response enters. Servers name the cached ones in four ways: OpenAI, vLLM and most gateways in
`prompt_tokens_details.cached_tokens`, DeepSeek in `prompt_cache_hit_tokens`, gateways to Anthropic's models in
`cache_read_input_tokens`, Moonshot in `cached_tokens`. All of these are a part of `prompt_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens")


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, None where the server does not tell. `prefix_tokens` of the prompt were in its cache."""

    prompt_tokens: int | None
    completion_tokens: int | None
    prefix_tokens: int


def usage_of(body: Mapping[str, Any]) -> Usage:
    """What the field `usage` of a response's body says."""
    told = body.get("usage")
    usage = told if isinstance(told, dict) else {}
    prompt = _count(usage.get("prompt_tokens"))
    return Usage(prompt, _count(usage.get("completion_tokens")), min(_cached(usage), prompt or 0))


def _cached(usage: Mapping[str, Any]) -> int:
    """The most that any of the names tells: a gateway may fill in a second one with 0."""
    details = usage.get("prompt_tokens_details")
    told = [details.get("cached_tokens")] if isinstance(details, dict) else []
    told += [usage.get(name) for name in _CACHED]
    return max(_count(value) or 0 for value in told)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
