"""What a completion says: its thought and its answer.

Enters: the text of one completion, the mode it was asked in and why it stopped. Leaves: the span of the thought in
characters of that text, the answer without tags and end tokens, or the reason why the draw cannot be judged. Models
differ: Qwen3 writes `<think>` itself, R1 distills find it in their prompt, some never close it, and answers come bare,
as `Answer: X`, in a box or inside `<answer>` tags. method.md §1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mralign.chat.endings import ending_fault
from mralign.chat.stated_answer import stated_answer
from mralign.rows.vocabulary import Mode

MODES = tuple(Mode)
# Why a completion that ended by itself has no answer that could be judged.
FORMAT_FAULTS = ("no_thought", "unclosed_thought", "second_thought", "unexpected_thought")
OPENING, CLOSING = "<think>", "</think>"
TAGS = (OPENING, CLOSING)
END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "<end_of_turn>",
    "<|end|>",
    "<SPECIAL_12>",  # Nemotron Nano v2
)

# Of several opening tags before one closing tag the last one opens.
_ANSWER_BLOCK = re.compile(r"<answer>((?:(?!</?answer>).)*)</answer>", re.DOTALL)


@dataclass(frozen=True)
class Split:
    """A completion taken apart.

    `thought_start`, `thought_end`: characters of the text inside the tags, (-1, -1) where there is no thought.
    `answer`: None exactly where `invalid` holds a reason: truncated, unfinished, no_thought, unclosed_thought,
    second_thought or unexpected_thought. An empty answer is an answer, and a wrong one. A thought's offsets stand even
    where it is invalid, if they are known.
    """

    thought_start: int
    thought_end: int
    answer: str | None
    invalid: str | None


def split_thinking(
    text: str, *, mode: str = "on", opened: bool = False, finish_reason: str = "stop", tags: tuple[str, str] = TAGS
) -> Split:
    """Split the completion `text` into thought and answer (docs/method.md §1).

    `mode`: "on" expects `<think>thought</think>answer`, "off" an answer alone. `opened`: the prompt already opened the
    block; an opening tag the model repeats at once is then the opening. A closing tag without an opening one means the
    same. An empty block counts as no thought in mode "off", also where only its closing tag is in the text.
    `finish_reason`: one that does not make an answer whole is the reason (`endings.ending_fault`: truncated,
    unfinished). `tags`: what the model writes in place of `<think>` and `</think>`.
    Reasons are tried in the order of `Split`.
    A second tag of either kind makes a second_thought: where the thought ends would be a guess.
    Raises ValueError for an unknown mode.

    >>> import mralign
    >>> text = "<think>Rome? No, Paris.</think>Answer: Paris"
    >>> found = mralign.split(text)
    >>> text[found.thought_start : found.thought_end], found.answer
    ('Rome? No, Paris.', 'Paris')
    >>> mralign.split("<think>Rome?", finish_reason="length").invalid
    'truncated'
    """
    if mode not in MODES:
        raise ValueError(f"thinking mode {mode!r} is not known; allowed are {', '.join(MODES)}; choose one of them")
    cut = ending_fault(finish_reason)
    if mode == "off":
        empty = empty_block(text, tags=tags)
        if empty and not _has_tag(text[empty:], tags=tags):
            return _judged(-1, -1, tail=text[empty:], reason=cut)
        reason = "unexpected_thought" if opened or _has_tag(text, tags=tags) else None
        return _judged(*_thought_span(text, opened=opened, tags=tags), tail=text, reason=cut or reason)
    start, end = _thought_span(text, opened=opened, tags=tags)
    reason = cut or _thought_fault(text, start=start, end=end, tags=tags)
    return _judged(start, end, tail=text[end + len(tags[1]) :], reason=reason)


def empty_block(text: str, *, tags: tuple[str, str] = TAGS) -> int:
    """How many characters of `text` an empty thought takes at its beginning, its closing tag included; 0: none."""
    opening, closing = (re.escape(tag) for tag in tags)
    found = re.match(rf"\s*(?:{opening}\s*)?{closing}", text)
    return found.end() if found else 0


def clean_answer(text: str) -> str:
    """The answer in `text`, without tags, end tokens at the end, and white space at the edges; may be empty.

    First the `<answer>` block decides, if there is one: the last that is closed (else to the end), or what stands
    before a closing tag that nothing opened, for the prompt did. In it, or else in all of the text, `stated_answer`
    decides: a label `Answer: X` at the end, then `\\boxed{X}`, then everything.
    """
    bare = _strip_end_tokens(text)
    if "<answer>" in bare or "</answer>" in bare:
        bare = _strip_end_tokens(_answer_block(bare))
    return stated_answer(bare)


def _answer_block(text: str) -> str:
    """What stands before a closing tag that the prompt opened; else in the last block that is closed; else behind the
    last opening tag."""
    head, closing, _ = text.partition("</answer>")
    if closing and "<answer>" not in head and head.strip():
        return head
    blocks = _ANSWER_BLOCK.findall(text)
    return str(blocks[-1]) if blocks else text.rpartition("<answer>")[2].partition("</answer>")[0]


def _judged(start: int, end: int, *, tail: str, reason: str | None) -> Split:
    answer = clean_answer(tail)
    return Split(start, end, None if reason else answer, reason)


def _thought_span(text: str, *, opened: bool, tags: tuple[str, str]) -> tuple[int, int]:
    opening, closing = text.find(tags[0]), text.find(tags[1])
    led = opening >= 0 and (closing < 0 or opening < closing)  # an opening tag leads
    if opened:
        led = led and not text[:opening].strip()
    if not led and not opened and closing < 0:
        return -1, -1
    start = opening + len(tags[0]) if led else 0
    return start, closing if closing >= 0 else len(text)


def _thought_fault(text: str, *, start: int, end: int, tags: tuple[str, str]) -> str | None:
    opening, closing = tags
    if start < 0:
        return "no_thought"
    if closing not in text:
        return "unclosed_thought"
    if opening in text[start:] or closing in text[end + len(closing) :]:
        return "second_thought"
    return None


def _has_tag(text: str, *, tags: tuple[str, str]) -> bool:
    return tags[0] in text or tags[1] in text


def _strip_end_tokens(text: str) -> str:
    bare = text.strip()
    while token := next((token for token in END_TOKENS if bare.endswith(token)), None):
        bare = bare.removesuffix(token).rstrip()
    return bare
