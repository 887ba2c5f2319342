"""What is asked of a chat model, whoever serves it, and what comes back.

A `ChatRequest` enters a chat engine (vLLM in an actor, or an endpoint); a `ChatReply` or a `Failure` leaves. The rooms
that ask (annotation, discovery, judges) know these three words and no engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from mralign.serving.calls import Failure


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """`key_id` is the row that it is for (messages only); `schema`, a JSON schema, holds the reply where given."""

    key_id: str
    messages: tuple[Message, ...]
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class ChatReply:
    """The text of a reply and what it took; `cached`: it was paid for by an earlier run, and cost nothing now."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prefix_tokens: int = 0  # prompt tokens that the engine had in its prefix cache
    cached: bool = False
    written_tokens: int = 0  # prompt tokens that an endpoint says it put into its prefix cache


class Chat(Protocol):
    """A chat engine. Raises calls.Stopped where nothing may be sent any more (a budget is spent)."""

    async def reply(self, request: ChatRequest) -> ChatReply | Failure: ...
