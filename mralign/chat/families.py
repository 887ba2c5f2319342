"""How each family of models switches thinking on and off.

The configuration of a model, its chat template and its name enter; a `Family` leaves: what a prompt must say in either
mode. How the output splits follows from the prompt: if it ends inside an open `<think>`, the completion begins inside
the thought (`chat/prompts.py` finds that out, `chat/thought.py` uses it). A family is one row of FAMILIES.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mralign.chat.thought import CLOSING, OPENING
from mralign.config import Model, ThinkMode

# method.md §6: one inference prompt that asks for both tags [paper]. The prefill commits a model that was never
# trained to think to its form. Without a thought such a model is put inside the answer tag: an empty block of thought
# would mean nothing to it, and the open tag leaves no room for one.
_ASK_ON = (
    "Think step by step about the question between <think> and </think>, then give the final answer, as short as "
    "possible, between <answer> and </answer>.\n\nQuestion: {question}"
)
_ASK_OFF = (
    "Answer the question at once. Give only the final answer, as short as possible, between <answer> and </answer>."
    "\n\nQuestion: {question}"
)
OPEN_BLOCK, EMPTY_BLOCK = "<think>\n", "<think>\n\n</think>\n\n"


@dataclass(frozen=True)
class Family:
    """One way of switching. `template_sign` and `name_sign` are regular expressions, searched in any case and over
    line ends; None: never found by it. The first family of the table with a sign wins."""

    name: str
    on: ThinkMode
    off: ThinkMode
    template_sign: str | None = None
    name_sign: str | None = None


FAMILIES = (
    Family(
        # The template writes an empty block into the prompt of `off`. Nemotron's templates name the variable too, but
        # set it themselves from `/no_think`; Gemma's reads it and thinks without `<think>`.
        name="qwen3",
        on=ThinkMode(template={"enable_thinking": True}),
        off=ThinkMode(template={"enable_thinking": False}),
        template_sign=r"\A(?!.*/no_think)(?=.*</think>).*\benable_thinking\b",
        name_sign=r"\A(?!.*(deepseek|instruct|coder|thinking)).*qwen3|nemotron-3-(nano|super|ultra)",
    ),
    Family(
        name="nemotron_nano_v2",  # and Llama-Nemotron v1.5, SmolLM3: the template itself reads the system message
        on=ThinkMode(system="/think"),
        off=ThinkMode(system="/no_think"),
        template_sign=r"/no_think",
        name_sign=r"nemotron-nano.*v2|nemotron-super.*v1[._]5",
    ),
    Family(
        # Llama-Nemotron v1; its relatives that always think (OpenReasoning) or never (Instruct, Mini) have no switch.
        name="nemotron",
        on=ThinkMode(system="detailed thinking on"),
        off=ThinkMode(system="detailed thinking off"),
        template_sign=r"detailed thinking",
        name_sign=r"(?<!reason-)(?<!reasoning-)nemotron(?!-mini|-4-|.*(instruct|reward|base))",
    ),
    Family(
        # Newer templates open the block themselves; a prefill does not open it twice. DeepSeek-V3 has the same turns,
        # but no thought in its template, and V3.1 a variable `thinking` of its own.
        name="deepseek_r1",
        on=ThinkMode(prefill=OPEN_BLOCK),
        off=ThinkMode(prefill=EMPTY_BLOCK),
        template_sign=r"\A(?!.*\bthinking is defined)(?=.*<｜Assistant｜>).*</think>",
        name_sign=r"deepseek-r1|r1-distill",
    ),
    Family(
        name="prompted",  # any chat model: asked for by name only
        on=ThinkMode(prompt=_ASK_ON, prefill=OPEN_BLOCK),
        off=ThinkMode(prompt=_ASK_OFF, prefill="<answer>"),
    ),
)


def find_family(model: Model, *, template: str | None, name: str) -> Family:
    """How the model is switched.

    In this order: `model.think_on` and `think_off`; `model.family`; the signs of the families in the chat `template`
    (None: not at hand); the signs in `name`, a path or hub name. Raises ValueError for an unknown family, which says
    the two lines that are needed.
    """
    if model.think_on is not None and model.think_off is not None:
        if model.think_on == model.think_off:
            raise ValueError(f"model.think_on and model.think_off are both {model.think_on!r}: they must differ")
        return Family("custom", model.think_on, model.think_off)
    if model.family != "auto":
        return _named(model.family)
    for text, sign in ((template, "template_sign"), (name, "name_sign")):
        found = _by_sign(text, sign=sign)
        if found is not None:
            return found
    raise ValueError(
        f"how {name} switches thinking is not known: neither its chat template nor its name shows a family "
        f"({_names()}). Say it in two lines, for example\n"
        "  model.think_on={system: detailed thinking on}\n"
        "  model.think_off={system: detailed thinking off}\n"
        "(fields: template, system, prompt, prefill), or take model.family=prompted, which asks any chat model to think"
    )


def with_family(model: Model, *, template: str | None, name: str) -> Model:
    """The model with its family told where only `name` tells it: under another name, such as a directory of trained
    weights, nothing would. Raises ValueError for an unknown family."""
    if model.family != "auto" or model.think_on is not None or _by_sign(template, sign="template_sign") is not None:
        return model
    return model.model_copy(update={"family": find_family(model, template=None, name=name).name})


def _by_sign(text: str | None, *, sign: str) -> Family | None:
    """The first family whose sign of this kind is in the text."""
    for family in FAMILIES:
        pattern = getattr(family, sign)
        if text is not None and pattern is not None and re.search(pattern, text, re.IGNORECASE | re.DOTALL):
            return family
    return None


def with_tags(family: Family, *, tags: tuple[str, str]) -> Family:
    """The family with `tags` in the place of `<think>` and `</think>`; a user's own modes stay as they are."""
    if family.name == "custom":
        return family
    return replace(family, on=_in_tags(family.on, tags=tags), off=_in_tags(family.off, tags=tags))


def _in_tags(mode: ThinkMode, *, tags: tuple[str, str]) -> ThinkMode:
    texts = {
        name: getattr(mode, name).replace(OPENING, tags[0]).replace(CLOSING, tags[1]) for name in ("prompt", "prefill")
    }
    return mode.model_copy(update=texts)


def _named(name: str) -> Family:
    for family in FAMILIES:
        if family.name == name:
            return family
    raise ValueError(f"model.family={name!r} is not known; allowed are auto, {_names()}")


def _names() -> str:
    return ", ".join(family.name for family in FAMILIES)
