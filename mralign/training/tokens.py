"""Which step every token belongs to.

A completion as text and as the token ids the engine sampled enters; the character span of every token and its step
leave. All in characters of the text, never from re-tokenised pieces: ".\\n\\n" is one token in Qwen's vocabulary, and
sampled ids need not be the canonical ones. method.md §4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

ANSWER = -1  # step of a token that is part of the answer

_REPLACEMENT = "\ufffd"  # what decoders put for bytes that are no character, or none yet
# What may stand before a completion: nothing, or (SentencePiece puts a blank before a text) a line of its prompt.
_BEFORE = ("", "\n")
_PENDING_TOKENS = 16  # a character has at most 4 bytes, so more tokens than this never wait for one


def token_steps(
    offsets: Sequence[tuple[int, int]],
    *,
    segment_spans: Sequence[tuple[int, int]],
    segment_steps: Sequence[int],
    thought_end: int,
) -> list[int]:
    """The step of every completion token; ANSWER (-1) from `thought_end` on.

    `offsets`: character span of each token (`token_offsets`). `segment_steps`: the step of each segment.
    method.md §4, our choice: a token belongs to the segment in which its first character lies; the blank text
    after a segment belongs to that segment, and all before the first segment goes with the first.
    """
    assert len(segment_spans) == len(segment_steps), (len(segment_spans), len(segment_steps))
    first_chars = np.array([start for start, _ in offsets], dtype=np.int64)
    in_answer = first_chars >= thought_end
    assert len(segment_spans) or in_answer.all(), "tokens of a thought that has no segment"
    if in_answer.all():
        return [ANSWER] * len(first_chars)
    starts = np.array([start for start, _ in segment_spans], dtype=np.int64)
    segment = np.maximum(np.searchsorted(starts, first_chars, side="right") - 1, 0)
    return np.where(in_answer, ANSWER, np.asarray(segment_steps, dtype=np.int64)[segment]).tolist()


def token_offsets(tokenizer: Any, *, token_ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    """The character span in `text` of every sampled token; starts never fall.

    `tokenizer`: a fast Hugging Face tokenizer. `text`: the ids decoded, with or without the literals of special
    tokens. A token that completes no character has the span of the character it is part of; a special token that is
    not in the text has no width, and neither has the last token where the text ends before it: engines leave the token
    that ended a turn out of the text, special or not. Ids that are the canonical tokenisation take its offsets if these
    cover the text, others are decoded piece by piece, in time linear in their number.
    Raises ValueError if the ids do not spell the text.
    """
    try:
        return _offsets(tokenizer, token_ids=token_ids, text=text)
    except ValueError:
        if not text.startswith(" "):
            raise
        rest = text[1:]
    # SentencePiece writes the blank before a word into its token, and decodes the first token without it.
    spans = _offsets(tokenizer, token_ids=token_ids, text=rest)
    return [(start + 1 if number else 0, end + 1) for number, (start, end) in enumerate(spans)]


def _offsets(tokenizer: Any, *, token_ids: Sequence[int], text: str) -> list[tuple[int, int]]:
    for before in _BEFORE:
        found = _canonical_offsets(tokenizer, token_ids=token_ids, text=text, before=before)
        if found is not None:
            return found
    return _decoded_offsets(tokenizer, token_ids=list(token_ids), text=text)


def _canonical_offsets(
    tokenizer: Any, *, token_ids: Sequence[int], text: str, before: str
) -> list[tuple[int, int]] | None:
    """The tokenizer's own offsets, if it writes these ids for `text` when `before` stands before it."""
    encoding = tokenizer(before + text, return_offsets_mapping=True, add_special_tokens=False)
    shift = len(before)
    spans = [(start - shift, end - shift) for start, end in encoding["offset_mapping"]]
    head = sum(end <= 0 for _, end in spans) if before else 0
    canonical, spans = encoding["input_ids"][head:], spans[head:]
    rest = token_ids[len(canonical) :]
    ends = set(rest) <= _special_ids(tokenizer) or (len(rest) == 1 and _is_mark(tokenizer, rest[0]))
    if list(token_ids[: len(canonical)]) != canonical or not ends or not _tiles(spans, length=len(text)):
        return None
    return spans + [(len(text), len(text))] * len(rest)


@lru_cache(maxsize=4)
def _added(tokenizer: Any) -> Mapping[int, bool]:
    """Ids that were added to the vocabulary, and whether they are special: decoders leave these out.

    Gathered once a tokenizer: where thousands of tokens were added it takes milliseconds.
    """
    added = {index: bool(token.special) for index, token in tokenizer.added_tokens_decoder.items()}
    return added | dict.fromkeys(tokenizer.all_special_ids, True)


def _special_ids(tokenizer: Any) -> set[int]:
    return {index for index, special in _added(tokenizer).items() if special}


def _is_mark(tokenizer: Any, token_id: int) -> bool:
    """Whether the token was added to the vocabulary, as every stop token is; not all of them are marked as special."""
    return token_id in _added(tokenizer)


def _tiles(offsets: Sequence[tuple[int, int]], *, length: int) -> bool:
    """True if the spans leave out no character. Those of tokenizers with `trim_offsets` (Llama 3) leave out blanks."""
    reached = 0
    for start, end in offsets:
        if start > reached:
            return False
        reached = max(reached, end)
    return reached == length


def _decoded_offsets(tokenizer: Any, *, token_ids: list[int], text: str) -> list[tuple[int, int]]:
    """Offsets by decoding prefixes, from the last clean position on and not from the start.

    ids[:settled] spell text[:base]. Windows start one clean position earlier (`context`), because some decoders strip
    the blank before the first token they are given. `done` is the number of characters spelt in full.
    """

    backend = tokenizer.backend_tokenizer  # what `tokenizer.decode` calls, without 100 µs of wrapping a call

    def decode(first: int, last: int) -> str:
        return backend.decode(token_ids[first:last], skip_special_tokens=True)

    special = _special_ids(tokenizer)
    offsets: list[tuple[int, int]] = []
    context = settled = base = done = 0
    before = ""  # decode(context, settled)
    for index, token_id in enumerate(token_ids):
        if token_id in special:
            literal = tokenizer.convert_ids_to_tokens(token_id)
            width = len(literal) if text.startswith(literal, done) else 0
            offsets.append((done, done + width))
            done += width
            base += width
            continue
        if index == len(token_ids) - 1 and base == done == len(text) and _is_mark(tokenizer, token_id):
            offsets.append((done, done))
            continue
        fresh = decode(context, index + 1)[len(before) :]
        whole = fresh.rstrip(_REPLACEMENT)
        spelt = base + len(whole)
        while spelt < base + len(fresh) and text.startswith(_REPLACEMENT, spelt):
            spelt += 1  # bytes that are no character, in the text as well
        pending = len(fresh) > spelt - base
        if not text.startswith(whole, base) or (pending and index - settled >= _PENDING_TOKENS):
            raise _does_not_spell(text, position=base, index=index)
        offsets.append((done, min(max(done, spelt) + pending, len(text))))
        done = max(done, spelt)
        if fresh and not pending:
            context, settled, base = settled, index + 1, done
            before = decode(context, settled)
    if done != len(text):
        raise _does_not_spell(text, position=done, index=len(token_ids))
    return offsets


def _does_not_spell(text: str, *, position: int, index: int) -> ValueError:
    return ValueError(
        f"token ids do not spell their text: at token {index} it goes on with {text[position : position + 40]!r}; "
        f"give the ids as sampled, the text they decode to, and the tokenizer they were sampled with"
    )
