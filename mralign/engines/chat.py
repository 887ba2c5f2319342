"""How a question becomes the prompt of a chat model with thinking on or off.

A question enters; the token ids of the rendered template leave. Families that switch by `enable_thinking` (Qwen3 and
the embedded model) are handled by their own template; a template without the switch renders both modes alike, which
is refused when the prompts are built rather than found out in the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MODES = ("on", "off")


def user_message(prompt: str, question: str) -> str:
    """The user's message: `prompt` with the question in place of `{question}`; other braces are left alone."""
    return prompt.replace("{question}", question)


def prompt_ids(tokenizer: Any, question: str, *, mode: str) -> list[int]:
    """Token ids of the chat prompt for `question` in `mode` (on | off), generation prompt included."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        enable_thinking=mode == "on",
    )
    return list(rendered["input_ids"])


def check_model_directory(path: str) -> None:
    """Raise ValueError if `path` is a local directory that cannot serve as a chat model; a hub name passes.

    Looked at: config.json, weights, a chat template (in tokenizer_config.json or chat_template.jinja), and whether
    the template knows `enable_thinking`.
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
    template = _chat_template(directory)
    if template is None:
        raise ValueError(
            f"model directory {path} has no chat template: neither chat_template.jinja nor `chat_template` in "
            f"tokenizer_config.json. Use a chat model, or add the template that the model was trained with."
        )


def switches_thinking(path: str) -> bool:
    """Whether the chat template in the local directory `path` reads `enable_thinking`; True for a hub name."""
    directory = Path(path)
    return not directory.exists() or "enable_thinking" in (_chat_template(directory) or "")


def _chat_template(directory: Path) -> str | None:
    jinja = directory / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    config = directory / "tokenizer_config.json"
    if not config.is_file():
        return None
    found = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    return found if found is None or isinstance(found, str) else json.dumps(found)
