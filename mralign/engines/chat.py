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

from mralign.config import ThinkMode

MODES = ("on", "off")
_THINK_TAGS = ("<think>", "</think>", "<answer>", "</answer>")


@dataclass(frozen=True)
class Prompt:
    """A rendered prompt; `opened`: it ends inside `<think>`, so the completion begins inside the thought."""

    token_ids: tuple[int, ...]
    text: str
    opened: bool


def chat_prompt(tokenizer: Any, message: str, *, mode: ThinkMode) -> Prompt:
    """The prompt of one user's message, generation prompt and prefill included.

    A prefill that opens a block which the template has opened already does not open it again.
    """
    asked = mode.prompt.replace("{question}", message)
    system = [{"role": "system", "content": mode.system}] if mode.system is not None else []
    text = tokenizer.apply_chat_template(
        [*system, {"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False, **mode.template
    )
    prefill = mode.prefill
    if _ends_open(text) and prefill.startswith("<think>"):
        prefill = prefill.removeprefix("<think>").removeprefix("\n")
        text = text.rstrip("\n") + "\n"
    text += prefill
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return Prompt(tuple(ids), text, _ends_open(text))


def _ends_open(text: str) -> bool:
    return text.rstrip().endswith("<think>")


def question_fault(question: str, *, special_tokens: Iterable[str]) -> tuple[str, str] | None:
    """(reason, detail) if the question cannot be put into a chat prompt as it is, else None.

    Reasons: empty_question; control_characters (category Cc but tab and line breaks); control_tokens, a special token
    of the tokenizer or a tag of the thought or answer, which would end the user's turn or begin a thought in it.
    """
    if not question.strip():
        return "empty_question", ""
    odd = sorted({c for c in question if unicodedata.category(c) == "Cc" and c not in "\t\n\r"})
    if odd:
        return "control_characters", ", ".join(f"U+{ord(c):04X}" for c in odd)
    marks = [mark for mark in (*special_tokens, *_THINK_TAGS) if mark.strip() and mark in question]
    if marks:
        return "control_tokens", ", ".join(sorted(set(marks)))
    return None


def check_model_directory(path: str) -> None:
    """Raise ValueError if `path` is a local directory that cannot serve as a chat model; a hub name passes.

    Looked at: config.json, weights, a chat template (in tokenizer_config.json or chat_template.jinja).
    """
    directory = Path(path)
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
    """The chat template of the model in the local directory `path`; None where there is none, or no such directory."""
    directory = Path(path)
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    if not config.is_file():
        return None
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return found if found is None or isinstance(found, str) else json.dumps(found)
