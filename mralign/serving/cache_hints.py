"""Fields of a chat that tell an endpoint which part of it begins like others, so that its prefix cache is found again.

A payload enters as it is keyed and kept; the payload that is sent leaves. A hint changes what an answer costs and how
fast it comes, never what it says: it counts for no key of the response cache. The part that is alike is the system
message: every prompt of ours that has one is the same for all rows up to its end.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

Hint = Literal["plain", "key", "mark"]


def told_to_cache(payload: dict[str, Any], *, how: Hint) -> dict[str, Any]:
    """The payload with the hint that `http.prompt_cache` asks for; anything but a chat with an instruction as it is."""
    messages = payload.get("messages")
    if how == "plain" or not messages or messages[0]["role"] != "system":
        return payload
    instruction, *rest = messages
    if how == "key":
        return payload | {"prompt_cache_key": _key(payload.get("model"), instruction["content"])}
    text = {"type": "text", "text": instruction["content"], "cache_control": {"type": "ephemeral"}}
    return payload | {"messages": [instruction | {"content": [text]}, *rest]}


def _key(model: Any, instruction: str) -> str:
    """The same for all chats of a model that begin with this instruction."""
    return f"mralign-{hashlib.sha256(f'{model}:{instruction}'.encode()).hexdigest()[:16]}"
