"""What a server says that an answer took: tokens of the prompt, those of them that its prefix cache held and those that
it wrote into that cache, and of the completion.

The body of a response enters. Servers name the cached ones in four ways: OpenAI, vLLM and most gateways in
`prompt_tokens_details.cached_tokens`, DeepSeek in `prompt_cache_hit_tokens`, gateways to Anthropic's models in
`cache_read_input_tokens`, Moonshot in `cached_tokens`. Written ones are told by gateways to Anthropic's models alone.
All of these are a part of `prompt_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CACHED = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens")
_WRITTEN = ("cache_creation_input_tokens",)
_DETAILS = "prompt_tokens_details"
_CACHED_DETAILS, _WRITTEN_DETAILS = ("cached_tokens",), ("cache_write_tokens", "cache_creation_tokens")


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer, None where the server does not tell. `prefix_tokens` of the prompt were in its cache,
    `written_tokens` others were put there."""

    prompt_tokens: int | None
    completion_tokens: int | None
    prefix_tokens: int
    written_tokens: int = 0


def usage_of(body: Mapping[str, Any]) -> Usage:
    """What the field `usage` of a response's body says."""
    told = body.get("usage")
    usage = told if isinstance(told, dict) else {}
    prompt = _count(usage.get("prompt_tokens"))
    cached = min(_most(usage, names=_CACHED, details=_CACHED_DETAILS), prompt or 0)
    written = min(_most(usage, names=_WRITTEN, details=_WRITTEN_DETAILS), (prompt or 0) - cached)
    return Usage(prompt, _count(usage.get("completion_tokens")), cached, written)


def _most(usage: Mapping[str, Any], *, names: Sequence[str], details: Sequence[str]) -> int:
    """The most that any of the names tells: a gateway may fill in a second one with 0."""
    inner = usage.get(_DETAILS)
    told = [inner.get(name) for name in details] if isinstance(inner, dict) else []
    told += [usage.get(name) for name in names]
    return max(_count(value) or 0 for value in told)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
