"""How a model's own turn begins and ends, as its tokenizer, its chat template and its stop tokens show.

A tokenizer and a way of thinking enter; a `Turn` leaves: the white space before the answer, how a thought stands in
front of it, and the text that ends the turn. All of it is found by rendering conversations, never by the model's
name: a template writes `<end_of_turn>` where the tokenizer's `eos_token` is `<eos>`, and a model may have several stop
tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mralign.chat.prompts import special_tokens
from mralign.chat.thought import END_TOKENS, TAGS
from mralign.config import ThinkMode

# Words that no template writes by itself; letters only, so that nothing escapes or splits them.
_USER, _ANSWER, _THOUGHT, _NEXT = "Xuserone", "Xanswerone", "Xthoughtone", "Xusertwo"
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # what templates call the thought of a message
# What ends a turn of other models, in texts that were written with another tokenizer.
_FOREIGN_MARK = re.compile(
    r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|" + "|".join(map(re.escape, END_TOKENS)) + r")\Z"
)


@dataclass(frozen=True)
class Turn:
    """A model's turn. `lead`: white space between prompt and text; `end`: the text that ends the turn, with the white
    space that the template writes before it; empty where nothing does. `stops`: the tokens at which sampling stops.
    A thought stands between `thought_before` and `thought_after`. `tags`: those of the thought."""

    lead: str
    end: str
    thought_before: str
    thought_after: str
    stops: frozenset[str]
    tags: tuple[str, str] = TAGS

    @property
    def end_mark(self) -> str:
        """The token that ends the turn."""
        return self.end.strip()


def stop_tokens(tokenizer: Any, *, model_path: str) -> frozenset[str]:
    """The tokens at which an engine stops: the `eos_token_id` of generation_config.json (often a list), or that of
    config.json where there is no such file, and the tokenizer's own."""
    ids = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        file = _model_file(model_path, name)
        if file is not None:
            found = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ids |= set(found) if isinstance(found, list) else {found}
            break
    return frozenset(tokenizer.convert_ids_to_tokens(sorted(one for one in ids if one is not None)))


def _model_file(model_path: str, name: str) -> Path | None:
    if Path(model_path).is_dir():
        file = Path(model_path) / name
        return file if file.is_file() else None
    from transformers.utils.hub import cached_file

    found = cached_file(model_path, name, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def turn_of(
    tokenizer: Any, *, mode: ThinkMode, stops: frozenset[str] = frozenset(), tags: tuple[str, str] = TAGS
) -> Turn:
    """The turn of a model that is asked by `mode`."""
    before, after = _thought_form(tokenizer, mode=mode, tags=tags)
    return Turn(
        lead=_lead(tokenizer, mode=mode),
        end=_end(tokenizer, mode=mode, stops=stops),
        thought_before=before,
        thought_after=after,
        stops=stops,
        tags=tags,
    )


def cut_end(text: str, *, turn: Turn, tokenizer: Any) -> tuple[str, str]:
    """(the text without the marks at its end, the text that ends its turn).

    The first of the marks at which this model stops, or which its template writes, is what ended the turn; a text that
    has none gets the turn's own end. Marks of other models are dropped.
    """
    marks = {*special_tokens(tokenizer), *turn.stops, turn.end_mark} - {*turn.tags}
    own = sorted((mark for mark in marks if mark.strip()), key=len, reverse=True)
    found: list[str] = []
    bare = text.rstrip()
    while mark := _last_mark(bare, own=own, tags=turn.tags):
        found.append(mark)
        bare = bare.removesuffix(mark).rstrip()
    if not found:
        return text.rstrip(), turn.end
    for mark in reversed(found):
        if mark == turn.end_mark:
            break
        if mark in turn.stops:
            return bare, mark
    return bare, turn.end


def _last_mark(text: str, *, own: Iterable[str], tags: tuple[str, str]) -> str:
    if text.endswith(tags):
        return ""
    for mark in own:
        if text.endswith(mark):
            return mark
    foreign = _FOREIGN_MARK.search(text)
    return foreign[0] if foreign else ""


def _end(tokenizer: Any, *, mode: ThinkMode, stops: frozenset[str]) -> str:
    """The text from the end of an answer to the token that ends the turn.

    Two conversations tell it: the answer as the last message, and the answer with a question after it. Where both
    agree, or where an engine stops at what comes first, that is the end. A template that ends no turn leaves it to the
    next one (GLM's `<|user|>`), which counts if the engine stops there. Else the tokenizer's `eos_token` is taken.
    """
    last = _rendered(tokenizer, _conversation(), mode=mode).rpartition(_ANSWER)[2]
    followed = _rendered(tokenizer, [*_conversation(), {"role": "user", "content": _NEXT}], mode=mode)
    followed = followed.rpartition(_ANSWER)[2].partition(_NEXT)[0]
    marks = sorted({*_written(tokenizer), *stops}, key=len, reverse=True)
    first, second = (_up_to_mark(tail, marks=marks) for tail in (last, followed))
    if first and (first.strip() in stops or first == second):
        return first
    if second and second.strip() in stops:
        return second
    return tokenizer.eos_token or ""


def _written(tokenizer: Any) -> set[str]:
    """All added tokens but blank ones: end tokens are not always marked as special."""
    return {str(token) for token in tokenizer.added_tokens_decoder.values() if str(token).strip()}


def _up_to_mark(tail: str, *, marks: Iterable[str]) -> str:
    """The beginning of `tail` up to the end of a mark that only white space stands before; else nothing."""
    bare = tail.lstrip()
    for mark in marks:
        if bare.startswith(mark):
            return tail[: len(tail) - len(bare) + len(mark)]
    return ""


def _lead(tokenizer: Any, *, mode: ThinkMode) -> str:
    """White space that the template writes between the prompt and an answer (Llama 2: a blank); a prefill ends it."""
    if mode.prefill:
        return ""
    whole = _rendered(tokenizer, _conversation(), mode=mode)
    prompt = _rendered(tokenizer, _conversation()[:-1], mode=mode, add_generation_prompt=True)
    if not prompt or not whole.startswith(prompt):
        return ""
    between = whole[len(prompt) :].partition(_ANSWER)[0]
    return "" if between.strip() else between


def _thought_form(tokenizer: Any, *, mode: ThinkMode, tags: tuple[str, str]) -> tuple[str, str]:
    """What stands before and after a thought: as the template writes one that has a field of its own, else the tags on
    lines of their own and a blank line before the answer."""
    for field in _REASONING_FIELDS:
        turns = _conversation()
        turns[-1] |= {field: _THOUGHT}
        before, thought, rest = _rendered(tokenizer, turns, mode=mode).partition(_THOUGHT)
        after, answer, _ = rest.partition(_ANSWER)
        start = before.rfind(tags[0])
        if thought and answer and start >= 0 and tags[1] in after and not before[start + len(tags[0]) :].strip():
            return before[start:], after
    return f"{tags[0]}\n", f"\n{tags[1]}\n\n"


def _conversation() -> list[dict[str, str]]:
    return [{"role": "user", "content": _USER}, {"role": "assistant", "content": _ANSWER}]


def _rendered(
    tokenizer: Any, turns: list[dict[str, str]], *, mode: ThinkMode, add_generation_prompt: bool = False
) -> str:
    """The conversation as text; empty where the template refuses it."""
    from jinja2 import TemplateError

    system = [{"role": "system", "content": mode.system}] if mode.system is not None else []
    try:
        return str(
            tokenizer.apply_chat_template(
                [*system, *turns], add_generation_prompt=add_generation_prompt, tokenize=False, **mode.template
            )
        )
    except TemplateError:
        return ""
