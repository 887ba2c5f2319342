"""From a chat request to the payload of POST /chat/completions, and from the body of its reply to a `ChatReply`.

Our own vLLM engines keep their replies in the same form, so one reader serves both, and what was once paid for is found
again by the same key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from mralign.config import Decoding, ThinkMode
from mralign.serving.calls import Failure
from mralign.serving.conversation import ChatReply, ChatRequest, Message
from mralign.serving.usage import usage_of

Structured = Literal["json_schema", "json_object", "none"]


def chat_payload(
    request: ChatRequest,
    *,
    model: str,
    decoding: Decoding,
    mode: ThinkMode,
    structured: Structured,
    vllm_extras: bool,
    seed: int,
) -> dict[str, Any]:
    """The JSON object for POST /chat/completions; the seed is in it where there is something to draw.

    Raises ValueError for what an endpoint without vLLM's extras cannot be told: top_k, variables of the chat template.
    """
    payload: dict[str, Any] = {
        "model": model,
        "messages": [asdict(message) for message in say(request.messages, mode=mode)],
        "max_tokens": decoding.max_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
    }
    if decoding.temperature:
        payload["seed"] = seed
    if structured == "json_schema" and request.schema is not None:
        held = {"name": "reply", "schema": request.schema, "strict": True}
        payload["response_format"] = {"type": "json_schema", "json_schema": held}
    elif structured != "none" and request.schema is not None:
        payload["response_format"] = {"type": "json_object"}
    if vllm_extras:
        payload |= {"top_k": decoding.top_k, "min_p": 0.0, "repetition_penalty": 1.0}
        return payload | ({"chat_template_kwargs": mode.template} if mode.template else {})
    if decoding.top_k or mode.template:
        raise ValueError(
            f"decoding.top_k={decoding.top_k} and mode.template={mode.template} cannot be asked of an endpoint with "
            f"http.vllm_extras=false; set top_k to 0 and the template to {{}}, or vllm_extras to true if it is vLLM"
        )
    return payload


def say(messages: Sequence[Message], *, mode: ThinkMode) -> tuple[Message, ...]:
    """The messages as `mode` wants them: its system text before ours, its prompt around the user's last message."""
    said = list(messages)
    if mode.system is not None:
        if said[0].role == "system":
            said[0] = Message("system", f"{mode.system}\n\n{said[0].content}")
        else:
            said.insert(0, Message("system", mode.system))
    assert said[-1].role == "user"
    said[-1] = Message("user", mode.prompt.replace("{question}", said[-1].content))
    return tuple(said)


def reply_body(reply: ChatReply) -> dict[str, Any]:
    """A reply of our own engines in the form of an endpoint's."""
    usage = {
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.prefix_tokens},
    }
    choice = {"message": {"role": "assistant", "content": reply.text}, "finish_reason": reply.finish_reason}
    return {"choices": [choice], "usage": usage}


def read_chat(body: Mapping[str, Any], *, cached: bool) -> ChatReply | Failure:
    """The first choice of a reply's body; a refusal is text as well. Failure malformed_completion: it is no chat."""
    choice = body["choices"][0]
    message = choice.get("message")
    if not isinstance(message, dict):
        return Failure("malformed_completion", f"message is {type(message).__name__}, not an object")
    text = message.get("content") or message.get("refusal") or ""  # null where all tokens went into a thought
    if not isinstance(text, str):
        return Failure("malformed_completion", f"content is {type(text).__name__}, not a string")
    usage = usage_of(body)
    return ChatReply(
        text=text,
        finish_reason=str(choice.get("finish_reason")),
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        prefix_tokens=usage.prefix_tokens,
        written_tokens=usage.written_tokens,
        cached=cached,
    )
