"""The tokenizer: one token a word, Qwen3's chat marks, and text that survives the way there and back.

A word's token carries its leading space (U+2581); at the start of a text and after a mark no space is written. So
decode(ids) is plain text, and encode(text) gives the same ids with offsets that cover it. `<think>`, `</think>` and the
blank line are one token each and visible in decoded text; the chat marks are special and are skipped.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, UNK, TURN, END = "<|endoftext|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
THINK, UNTHINK, BLANK_LINE = "<think>", "</think>", "\n\n"
ROLES = ("system", "user", "assistant")
SPACE = "\u2581"

# Qwen3's, without its line breaks: a role is a word of its own, so nothing more is needed to end it.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + ' ' + message['content'] + '<|im_end|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|im_start|>assistant' -}}"
    "{%- if enable_thinking is defined and enable_thinking is false -%}"
    "{{- '<think>\\n\\n</think>\\n\\n' -}}"
    "{%- endif -%}"
    "{%- endif -%}"
)


def make_tokenizer(words: Iterable[str], *, max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of the given words; ids follow the order PAD, UNK, chat marks, thought marks, roles, words."""
    marks = [PAD, UNK, TURN, END, THINK, UNTHINK, BLANK_LINE]
    entries = marks + [SPACE + word for word in dict.fromkeys([*ROLES, *words])]
    core = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    core.decoder = _decoder()
    core.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in (PAD, UNK, TURN, END)])
    core.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in (THINK, UNTHINK, BLANK_LINE)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        additional_special_tokens=[TURN],
        model_max_length=max_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _decoder() -> decoders.Decoder:
    """Spaces for the word mark, then none at the start of the text nor after a mark.

    It looks back one token only, so decoding token by token (vLLM's streams) gives the same text.
    """
    after_marks = [decoders.Replace(mark + " ", mark) for mark in (TURN, END, THINK, UNTHINK, BLANK_LINE)]
    return decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.Fuse(), *after_marks, decoders.Strip(content=" ", left=1, right=0)]
    )


def prompt_ids(tokenizer: PreTrainedTokenizerFast, question: str, *, thinking: bool) -> list[int]:
    """The ids of the chat prompt of a question."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True, enable_thinking=thinking
    )
    assert isinstance(text, str)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids
