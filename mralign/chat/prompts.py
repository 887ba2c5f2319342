"""How a question becomes the prompt of a chat model with thinking on or off.

A user's message and a way of thinking enter; the token ids of the rendered chat template leave, with whether they end
inside an open thought. Questions come from outside: what would break the frame of the chat is refused beforehand.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mralign.chat.thought import CLOSING, OPENING, TAGS
from mralign.chat.thought import MODES as MODES  # for those who ask in both
from mralign.config import ThinkMode

# `/no_think` stands here because Qwen3 heeds it wherever it is, though its template does not know it.
_MARKS = (OPENING, CLOSING, "<answer>", "</answer>", "/no_think")


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt; `opened`: it ends inside `<think>`, so the completion begins inside the thought."""

    token_ids: tuple[int, ...]
    text: str
    opened: bool


def chat_prompt(
    tokenizer: Any,
    message: str,
    *,
    mode: ThinkMode,
    opened: bool | None = None,
    tags: tuple[str, str] = TAGS,
) -> Prompt:
    """The prompt of one user's message, generation prompt and prefill included.

    `opened`, where it is known from another prompt of the mode, spares a second rendering: no message changes it.
    `tags`: those of the model's thoughts.

    Tokenised once, as a whole, so that the ids are those of `apply_chat_template` where there is no prefill. A prefill
    that opens a block which the template has opened already takes the place of that opening.
    """
    asked = mode.prompt.replace("{question}", message)
    turns = [{"role": "system", "content": mode.system}] if mode.system is not None else []
    turns.append({"role": "user", "content": asked})
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, **mode.template)
    if text.rstrip().endswith(tags[0]) and mode.prefill.startswith(tags[0]):
        text = text.rstrip().removesuffix(tags[0])
    text += mode.prefill
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if opened is not None or tags[0] not in text:
        return Prompt(tuple(ids), text, opened or False)
    said = tokenizer.apply_chat_template(turns, add_generation_prompt=False, tokenize=False, **mode.template)
    return Prompt(tuple(ids), text, _ends_open(text, said=said, tags=tags))


def _ends_open(text: str, *, said: str, tags: tuple[str, str]) -> bool:
    """Whether the model's own turn, all of `text` after `said`, ends inside a thought.

    The tags in the user's turn mean nothing: the message may ask for a thought by naming them. A template that writes
    the model's turn unasked hides where that turn begins; then only a tag at the very end counts.
    """
    own = text[len(said) :] if text.startswith(said) else ""
    return own.rfind(tags[0]) > own.rfind(tags[1]) or text.rstrip().endswith(tags[0])


def check_modes(tokenizer: Any, *, name: str, on: ThinkMode, off: ThinkMode, tags: tuple[str, str] = TAGS) -> None:
    """Raise ValueError if the model `name` would not be asked in two ways, as its tokenizer and template show.

    Looked at: that the template takes both modes, that their token ids differ, that `off` does not end in a thought.
    """
    from jinja2 import TemplateError

    advice = "give model.think_on and model.think_off, or take model.family=prompted"
    try:
        thinking, silent = (chat_prompt(tokenizer, "Who?", mode=mode, tags=tags) for mode in (on, off))
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {name} refuses the way thinking is asked for: {error}; {advice}"
        ) from None
    if thinking.token_ids == silent.token_ids:
        raise ValueError(
            f"thinking on and off would be the same prompt for {name}: its chat template heeds neither {_said(on)} "
            f"nor {_said(off)}; {advice}"
        )
    if silent.opened:
        raise ValueError(
            f"the prompt of thinking off ends inside an open {tags[0]} for {name}: {silent.text[-80:]!r}; close it by "
            f'model.think_off={{prefill: "{tags[0]}\\n\\n{tags[1]}\\n\\n"}} (and give model.think_on), or take '
            f"model.family=deepseek_r1"
        )


def _said(mode: ThinkMode) -> str:
    return str(mode.model_dump(exclude_defaults=True))


def special_tokens(tokenizer: Any) -> set[str]:
    """The tokens that decoders leave out: those that have a name (eos, pad) and those that were added as special."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def control_tokens(tokenizer: Any) -> frozenset[str]:
    """What would steer the chat if it stood in a question: special tokens, other added tokens that the template writes
    (R1's `<｜User｜>` is no special token), and `/think`, `/no_think` where the template heeds them."""
    template = str(tokenizer.chat_template or "")
    added = tokenizer.added_tokens_decoder.values()
    found = {str(token) for token in added if str(token).strip() and str(token) in template}
    switches = {"/think", "/no_think"} if "/no_think" in template else set()
    return frozenset(found | switches | special_tokens(tokenizer))


def question_fault(question: str, *, special_tokens: Iterable[str]) -> tuple[str, str] | None:
    """(reason, detail) if the question cannot be put into a chat prompt as it is, else None.

    `special_tokens`: those of `control_tokens`. Reasons: empty_question; control_characters (category Cc but tab and
    line breaks); control_tokens, one of `special_tokens` or a tag of the thought or answer, which would end the user's
    turn, begin a thought in it or switch thinking.
    """
    if not question.strip():
        return "empty_question", ""
    odd = sorted({c for c in question if unicodedata.category(c) == "Cc" and c not in "\t\n\r"})
    if odd:
        return "control_characters", ", ".join(f"U+{ord(c):04X}" for c in odd)
    marks = [mark for mark in (*special_tokens, *_MARKS) if mark.strip() and mark in question]
    if marks:
        return "control_tokens", ", ".join(sorted(set(marks)))
    return None


def check_model_directory(path: str) -> None:
    """Raise ValueError if `path` is a local directory that cannot serve as a chat model; a hub name passes.

    Looked at: config.json, weights, a chat template (in tokenizer_config.json or chat_template.jinja).
    """
    directory = Path(path)
    if "://" in path:
        return  # on another file system: copied, and looked at, where it is served
    if not directory.exists():
        if path.startswith((".", "/", "~")) or path.count("/") > 1:  # a hub name is NAME or OWNER/NAME
            raise ValueError(f"model.path={path!r} does not exist; give a model directory or a hub name")
        return
    if not (directory / "config.json").is_file():
        raise ValueError(f"model directory {path} has no config.json; save it with transformers' save_pretrained")
    if not any(directory.glob("*.safetensors")):
        raise ValueError(f"model directory {path} has no *.safetensors; save it with transformers' save_pretrained")
    if chat_template(path) is None:
        raise ValueError(
            f"model directory {path} has no chat template: neither chat_template.jinja nor `chat_template` in "
            f"tokenizer_config.json. Use a chat model, or add the template that the model was trained with."
        )


def chat_template(path: str) -> str | None:
    """The chat template of the model in the local directory `path`; None where there is none, or no such directory.

    Where the tokenizer names several, it is the one called `default`, which renders a chat without tools.
    """
    directory = Path(path)
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    if not config.is_file():
        return None
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}.get("default")
    return found
