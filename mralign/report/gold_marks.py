"""Where a gold answer stands in a text, so that a reader sees it.

A text and its gold aliases enter; the text leaves cut into pieces, every second of which is a gold answer. What counts
as an occurrence is what `questions.matching` counts: equal normal forms on token boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from mralign.questions.choices import without_letters
from mralign.questions.normalisation import normalize

_WORD = re.compile(r"\S+")


@lru_cache(maxsize=2**16)
def _tokens(word: str) -> tuple[str, ...]:
    """The tokens of the normal form of one word; articles and punctuation have none."""
    return tuple(normalize(word).split())


def _placed(word: str, *, start: int) -> list[tuple[str, tuple[int, int]]]:
    """Each token with its span: that of the word, or of its character in scripts that do not part words by spaces."""
    tokens = _tokens(word)
    if len(tokens) > 1:
        characters = [(_tokens(char), start + place) for place, char in enumerate(word)]
        alone = [(found[0], (place, place + 1)) for found, place in characters if len(found) == 1]
        if tuple(token for token, _ in alone) == tokens:
            return alone
    return [(token, (start, start + len(word))) for token in tokens]


def gold_spans(text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Spans of the text, in characters and without overlap, that hold a gold alias.

    An alias that has no normal form (`A`, `+`) is not looked for. Where the longest of several aliases begins, it wins.
    """
    aliases = [tuple(normalize(alias).split()) for alias in without_letters(answers)]
    wanted = sorted({alias for alias in aliases if alias}, key=len, reverse=True)
    if not wanted:
        return []
    tokens: list[str] = []
    words: list[tuple[int, int]] = []  # of each token: the word that it comes from
    for word in _WORD.finditer(text):
        for token, span in _placed(word[0], start=word.start()):
            tokens.append(token)
            words.append(span)
    first_tokens = {alias[0] for alias in wanted}
    spans: list[tuple[int, int]] = []
    place = 0
    while place < len(tokens):
        length = _length_here(tokens, place, wanted) if tokens[place] in first_tokens else 0
        if length:
            spans.append(_trimmed(text, words[place][0], words[place + length - 1][1]))
        place += length or 1
    return _apart(spans)


def _length_here(tokens: Sequence[str], place: int, wanted: Sequence[tuple[str, ...]]) -> int:
    """How many tokens the longest alias has that begins at this one; 0 for none."""
    for alias in wanted:
        if tuple(tokens[place : place + len(alias)]) == alias:
            return len(alias)
    return 0


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the punctuation around it, if anything is left."""
    inner = text[start:end]
    before, after = re.match(r"\W*", inner), re.search(r"\W*$", inner)
    assert before is not None and after is not None
    return (start + before.end(), start + after.start()) if before.end() < after.start() else (start, end)


def _apart(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans without those that begin inside the one before: two tokens may come from one word."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if not found or start >= found[-1][1]:
            found.append((start, end))
    return found


def pieces(text: str, spans: Sequence[tuple[int, int]], *, start: int, end: int) -> list[str]:
    """text[start:end] cut at the spans: plain, gold, plain, gold, ..., plain. A span may reach over either end."""
    cut: list[str] = []
    position = start
    for span_start, span_end in spans:
        inside = max(span_start, start), min(span_end, end)
        if inside[0] < inside[1]:
            cut += [text[position : inside[0]], text[inside[0] : inside[1]]]
            position = inside[1]
    return [*cut, text[position:end]]
