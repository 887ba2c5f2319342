"""From a prompt to the payload of POST /completions, and from the body of its reply to a completion.

The prompt goes as token ids, which OpenAI and vLLM both take, so that the endpoint continues exactly the prompt that
the in-process engine would. A vLLM server fills in the sampling parameters that a request leaves out from the model's
generation_config.json; the in-process engine does not. With `vllm_extras` they are all named, and both sample alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.config import Decoding
from mralign.serving.calls import Failure

_IDS_END = 2**31  # tables hold token ids in 32 bits


@dataclass(frozen=True)
class Completion:
    """What a model wrote; `token_ids` (end token included) only from a server that tells them.

    `stopped_by`: the stop text or stop token that ended it (vLLM tells: its `stop_reason`). `tells_stop`: the server
    says so, and None then means the model's `eos_token`.
    """

    text: str
    token_ids: tuple[int, ...] | None
    finish_reason: str
    stopped_by: str | int | None = None
    tells_stop: bool = False


def completion_payload(
    prompt_ids: Sequence[int],
    *,
    model: str,
    decoding: Decoding,
    max_tokens: int,
    seed: int,
    vllm_extras: bool,
    keep_special: bool = False,
) -> dict[str, Any]:
    """The JSON object for POST /completions; `max_tokens` is the room of this prompt, `vllm_extras` as in http.

    `keep_special`: special tokens must stay in the text. Raises ValueError for that, and for a top_k, where an endpoint
    without the extras cannot be told.
    """
    payload = {
        "model": model,
        "prompt": list(prompt_ids),
        "max_tokens": max_tokens,
        "temperature": decoding.temperature,
        "top_p": decoding.top_p,
        "seed": seed,
    }
    if vllm_extras:
        return payload | {
            "top_k": decoding.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "return_token_ids": True,
            **({"skip_special_tokens": False} if keep_special else {}),
        }
    if keep_special:
        raise ValueError(
            "model.thought_tags holds special tokens, which an endpoint with http.vllm_extras=false leaves out of its "
            "texts; set vllm_extras to true if the server is vLLM, or sample with rollouts.engine=vllm"
        )
    if decoding.top_k:
        raise ValueError(
            f"decoding.top_k={decoding.top_k} cannot be asked of an endpoint with http.vllm_extras=false: OpenAI's API "
            f"has no such field; set top_k to 0, or vllm_extras to true if the server is vLLM"
        )
    return payload


def amend(payload: dict[str, Any], *, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The payload with the fields of `http.request` put in, and those that are null there taken out."""
    merged = payload | dict(changes)
    return {name: value for name, value in merged.items() if value is not None}


def read_completion(body: dict[str, Any]) -> Completion | Failure:
    """The first choice of a reply's body; Failure `malformed_completion` where it is not a completion.

    The reply was paid for and is kept, so the same body is read again on the next run: nobody asks twice.
    """
    choice = body["choices"][0]
    text, ids, finish = choice.get("text"), choice.get("token_ids"), choice.get("finish_reason")
    if not isinstance(text, str):
        return Failure("malformed_completion", f"text is {type(text).__name__}, not a string")
    if not isinstance(finish, str):
        return Failure("malformed_completion", f"finish_reason is {finish!r:.100}, not a string")
    if not _can_be_stored(text + finish):
        return Failure("malformed_completion", f"it holds half a character (a lone surrogate): {text!r:.100}")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < _IDS_END for i in ids)):
        return Failure("malformed_completion", f"token_ids are not a list of token ids: {ids!r:.100}")
    stop = choice.get("stop_reason")
    stopped_by = stop if isinstance(stop, str) or type(stop) is int else None
    return Completion(text, None if ids is None else tuple(ids), finish, stopped_by, "stop_reason" in choice)


def _can_be_stored(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
