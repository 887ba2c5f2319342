"""The seam between a prompt and a text that was written elsewhere: the ids that the model itself would have written.

A prompt, a text and what ends it enter; the token ids of the text leave, for a model that is given exactly the ids of
the prompt. What the prompt has written already is dropped from the text. A tokenizer treats the beginning of a text
unlike its middle (SentencePiece puts a blank before it), so prompt and text are tokenised together, and cut where the
prompt's ids end. Where that is impossible, other cuts are tried; whatever is taken must decode to the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mralign.chat.prompts import Prompt
from mralign.chat.thought import empty_block
from mralign.chat.turns import Turn
from mralign.config import ThinkMode

# Texts to stand before a completion in place of its prompt, none of which merges with what follows.
_ANCHORS = ("\n", "a", "")


@dataclass(frozen=True)
class Continuation:
    """The ids of a completion, its end included, and the text that they decode to, without the end."""

    token_ids: list[int]
    text: str


def without_prefill(text: str, *, prompt: Prompt, mode: ThinkMode, turn: Turn) -> str | None:
    """The `text` of a whole turn as it goes on after `prompt`; None where it does not begin as the prompt ends.

    Dropped: the prefill, an opening tag or an empty block that the template has written, and white space where the
    prompt ends in some. An answer gets the white space that the template writes before it.
    """
    bare, dropped = text.lstrip(), 0
    for written in _written(prompt, mode=mode, turn=turn):
        dropped = _begins_with(bare, written)
        if dropped:
            break
    closed = _own_block(prompt, turn=turn).rstrip().endswith(turn.tags[1])
    if not dropped and closed:
        dropped = empty_block(bare, tags=turn.tags)
    if not dropped and prompt.opened and bare.startswith(turn.tags[0]):
        return None
    rest = bare[dropped:] if dropped else text
    if prompt.text[-1:].isspace():
        return rest.lstrip()
    if turn.lead and not dropped and not bare.startswith(turn.tags[0]):
        return turn.lead + bare
    return rest


def _written(prompt: Prompt, *, mode: ThinkMode, turn: Turn) -> list[str]:
    found = [mode.prefill if mode.prefill and prompt.text.endswith(mode.prefill) else "", _own_block(prompt, turn=turn)]
    return [written for written in found if written.strip()]


def _own_block(prompt: Prompt, *, turn: Turn) -> str:
    """The block of thought that the prompt ends in, open or empty; else nothing."""
    opening, closing = turn.tags
    start = prompt.text.rfind(opening)
    block = prompt.text[start:] if start >= 0 else ""
    empty = empty_block(block, tags=turn.tags)
    if prompt.opened or (empty and not block[empty:].strip()):
        return block
    return closing if prompt.text.rstrip().endswith(closing) else ""


def _begins_with(text: str, written: str) -> int:
    """How many characters of `text` say what `written` says, white space aside; 0 if it begins otherwise."""
    pattern = r"\s*".join(re.escape(piece) for piece in written.split())
    found = re.match(pattern + (r"(?!\w)" if pattern[-1:].isalnum() else ""), text)
    return found.end() if found else 0


def continuation(tokenizer: Any, *, prompt: Prompt, text: str, end: str) -> Continuation | None:
    """The ids that write `text` and `end` after the ids of `prompt`; None where no ids of this tokenizer do.

    The text that leaves is what an engine would spell: white space before the end token belongs to it. The tokenizer's
    own normalisation (NFC) is allowed for, and so is a blank that it cannot but write before a text.
    """
    mark = end.lstrip()
    wanted = text + end
    before = _decoded(tokenizer, list(prompt.token_ids))
    close: Continuation | None = None
    for ids in _cuts(tokenizer, prompt=prompt, text=wanted):
        whole = _decoded(tokenizer, [*prompt.token_ids, *ids])
        if not whole.startswith(before) or not whole.endswith(mark):
            continue
        said = whole[len(before) : len(whole) - len(mark)]
        if said + mark == wanted:
            return Continuation(ids, said)
        if close is None and _normal(said + mark) == _normal(wanted):
            blank = said.startswith(" ") and not text.startswith(" ")
            close = Continuation(ids, said[1:] if blank else said)
    return close


def said_after(tokenizer: Any, *, prompt: Prompt, token_ids: Sequence[int], keep_special: bool) -> str:
    """The text of sampled ids after their prompt, as an engine spells it; `keep_special`: with special tokens."""
    before, whole = (_decoded(tokenizer, [*prompt.token_ids, *ids], special=keep_special) for ids in ((), token_ids))
    return whole.removeprefix(before)


def separate_ids(tokenizer: Any, *, text: str, end: str) -> list[int]:
    """The ids of text and end without a prompt before them."""
    ids: list[int] = tokenizer(text + end, add_special_tokens=False)["input_ids"]
    return ids


def survives(tokenizer: Any, *, text: str) -> bool:
    """Whether the tokenizer can write `text` at all: its ids decode to it."""
    return _normal(_decoded(tokenizer, separate_ids(tokenizer, text=text, end=""))) == _normal(text)


def _cuts(tokenizer: Any, *, prompt: Prompt, text: str) -> Iterator[list[int]]:
    """Ids of `text` after the prompt: cut from the whole, then from behind a text that merges with nothing."""
    prompt_ids = list(prompt.token_ids)
    joint = separate_ids(tokenizer, text=prompt.text, end=text)
    if joint[: len(prompt_ids)] == prompt_ids:
        yield joint[len(prompt_ids) :]
    for anchor in _ANCHORS:
        head = separate_ids(tokenizer, text=anchor, end="") if anchor else []
        ids = separate_ids(tokenizer, text=anchor, end=text)
        if ids[: len(head)] == head:
            yield ids[len(head) :]


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).removeprefix(" ")


def _decoded(tokenizer: Any, ids: list[int], *, special: bool = True) -> str:
    """The text of the ids, special tokens as their literals: what `tokenizer.decode` calls, without its clean-up."""
    if tokenizer.is_fast:
        return str(tokenizer.backend_tokenizer.decode(ids, skip_special_tokens=not special))
    return str(tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))
