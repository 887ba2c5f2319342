"""Matching an answer or a thought against gold aliases: normal forms, then equality or containment on token boundaries.

Enters: texts of the model and the gold aliases of a question. Leaves: a boolean, or where in a text the aliases stand.
Normal forms and tokens are those of `normalisation`, on English SQuAD's to the letter. method.md §1.

An alias whose normal form is empty (`A`, `The The`, `+`, `---`) is compared as it is written, articles and punctuation
kept, and only with texts in that same form:

- Equality: but for case, for quotes, brackets or bold type around all of it, and for a full stop behind it. `A` is
  "A.", "(A)" and **a**; it is neither "A+" nor "an A".
- Containment: as a whole token in the alias's own case, between white space, quotes, brackets, bold type or sentence
  punctuation. Prose must not hold the answer `A` by its articles alone: before a word, `a`, `an` and `the` count only
  if that word cannot follow an article ("A is right"), or as a capital within a sentence of small letters ("vitamin A
  helps"). Nor do symbols count that lead their line (bullets, rules), unless quoted. "It is A." and "the + sign" hold
  their answers; "A dog and a cat", "the film A Beautiful Mind", "2+2" and "* item" do not.

What has a normal form keeps SQuAD's: `C++` and `C` are one answer. An alias of which nothing can be seen never matches.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

from mralign.config import MatchMode
from mralign.questions.choices import without_letters
from mralign.questions.normalisation import key, normalize, visible, visible_lines

MODES: tuple[str, ...] = get_args(MatchMode)

_ALIASES_KEPT = 2**15  # normal forms of aliases that are remembered: a question's come again with every draw
_WRAPPERS = (("**", "**"), ("__", "__"), *((mark, mark) for mark in "*_`\"'"), ("(", ")"), ("[", "]"), ("{", "}"))
_SENTENCE_ENDS = ".,;:!?"
_BEFORE = "\"'`([{*_"
_AFTER = "\"'`)]}*_.,;:!?"
_NEAR = 200  # characters before an occurrence in which its sentence is looked for
_QUOTED = ("''", '""', "``", "()", "[]", "{}")
_ARTICLE = re.compile(r"(?:a|an|the)", re.IGNORECASE)
_NEXT_WORD = re.compile(r"\s+(\w+)")
_VERBS = ("is", "was", "are", "were", "has", "had", "does", "will", "would", "can", "could")
_JOINING = ("and", "or", "but", "because", "since", "to", "in", "of", "on", "for", "with", "by", "as")
_NEVER_AFTER_ARTICLE = frozenset((*_VERBS, *_JOINING))


@dataclass(frozen=True)
class _Alias:
    """A gold alias: its normal form, or if that is empty the text as it is written (empty: nothing can be seen)."""

    normal: str
    written: str = ""


def contains(haystack: str, aliases: Sequence[str]) -> bool:
    """True if some alias occurs in `haystack` on token boundaries ("art" not in "party"). method.md §1, EM_t.

    An answer that `equals` an alias contains it. ValueError if `aliases` is one string.
    """
    golds = _golds(aliases)
    padded = f" {normalize(haystack)} "
    if any(f" {gold.normal} " in padded for gold in golds if gold.normal):
        return True
    written = [gold.written for gold in golds if gold.written]
    return bool(written) and (_is_written(haystack, written) or _first_written(haystack, written) is not None)


def thought_matches(thought: str, aliases: Sequence[str]) -> bool:
    """Whether a thought holds a gold answer: EM_t of docs/method.md §1, equation 1.1.

    `aliases`: the gold answers, a list of texts; one occurs if its normal form stands on token boundaries. The letter
    of a choice in a thought about choices is no hit. Raises ValueError for `aliases` that are one text, not a list.

    >>> import mralign
    >>> mralign.thought_matches("It could be Paris, or Lyon.", ["paris"])
    True
    >>> mralign.thought_matches("a party", ["art"])
    False
    """
    return contains(thought, without_letters(aliases))


def equals(answer: str, aliases: Sequence[str]) -> bool:
    """True if some alias has the normal form of the `answer`. method.md §1.

    ValueError if `aliases` is one string.
    """
    golds, normal = _golds(aliases), normalize(answer)
    if normal:
        return any(gold.normal == normal for gold in golds)
    return _is_written(answer, [gold.written for gold in golds if gold.written])


def answer_matches(answer: str, aliases: Sequence[str], *, mode: str = "exact", thinking: bool = True) -> bool:
    """Whether an answer is right: EM_a of docs/method.md §1, equation 1.2.

    `aliases`: the gold answers, a list of texts. Mode "exact" asks that one of them has the normal form of the answer,
    "contains" that one occurs in it on token boundaries; "paper" asks for equality of an answer that was given after
    `thinking`, and for containment of any other. Raises ValueError for any other mode, and for `aliases` that are one
    text instead of a list.

    >>> import mralign
    >>> mralign.matches("The Beatles!", ["beatles"])
    True
    >>> mralign.matches("It was the Beatles.", ["beatles"])
    False
    >>> mralign.matches("It was the Beatles.", ["beatles"], mode="contains")
    True
    """
    if mode not in MODES:
        raise ValueError(
            f"answer matching mode {mode!r} is not known; allowed are {', '.join(MODES)}; choose one of them"
        )
    if mode == "exact" or (mode == "paper" and thinking):
        return equals(answer, aliases)
    return contains(answer, aliases)


def can_match(alias: str) -> bool:
    """Whether any text at all matches `alias`: not one of which nothing can be seen (white space, zero-width marks)."""
    return bool(key(alias))


def token_places(haystack: str, aliases: Sequence[str]) -> tuple[int, int, int] | None:
    """Tokens before the first and before the last occurrence of an alias in the normal form of `haystack`, and all of
    its tokens; None where `thought_matches` finds none. An occurrence behind the last token counts as in it."""
    golds = _golds(without_letters(aliases))
    padded = f" {normalize(haystack)} "
    tokens = max(1, padded.count(" ") - 1)
    places: list[int] = []
    for gold in golds:
        padded_alias = f" {gold.normal} "
        if gold.normal and padded_alias in padded:
            first, last = padded.find(padded_alias), padded.rfind(padded_alias)
            places += [padded.count(" ", 0, first), padded.count(" ", 0, last)]
    written = [gold.written for gold in golds if gold.written]
    if written:
        text = visible_lines(haystack)
        starts = [0] if _is_written(haystack, written) else []
        for alias in written:
            starts += _occurrences(text, alias=alias)
        if starts:
            places += [len(normalize(text[:start]).split()) for start in (min(starts), max(starts))]
    if not places:
        return None
    return min(*places, tokens - 1), min(max(places), tokens - 1), tokens


def _golds(aliases: Sequence[str]) -> list[_Alias]:
    if isinstance(aliases, str):  # a str is a Sequence[str]: its letters would match as aliases
        raise ValueError(f"gold aliases must be a list of strings, given the string {aliases!r}; wrap it in a list")
    return [_gold(alias) for alias in aliases]


@lru_cache(maxsize=_ALIASES_KEPT)
def _gold(alias: str) -> _Alias:
    normal = normalize(alias)
    return _Alias(normal) if normal else _Alias("", _unwrapped(visible(alias)))


def _unwrapped(text: str) -> str:
    """`text` without quotes, brackets or bold type around it and sentence ends behind it, if anything is left."""
    while True:
        bare = text.rstrip(_SENTENCE_ENDS).strip() or text
        inner = _within_wrapper(bare)
        if not inner:
            return bare
        text = inner


def _within_wrapper(text: str) -> str:
    for opening, closing in _WRAPPERS:
        inner = text[len(opening) : -len(closing)]
        if text == f"{opening}{inner}{closing}" and inner.strip():
            return inner.strip()
    return ""


def _is_written(answer: str, written: Sequence[str]) -> bool:
    if not written:
        return False
    said = _unwrapped(visible(answer)).casefold()
    return any(alias.casefold() == said for alias in written)


def _first_written(haystack: str, written: Sequence[str]) -> int | None:
    text = visible_lines(haystack)
    for alias in written:
        for start in _occurrences(text, alias=alias):
            return start
    return None


def _occurrences(text: str, *, alias: str) -> Iterator[int]:
    """Where the written `alias` stands in `text` (of `visible_lines`) as a token of its own, by the module's rules."""
    for place in _pattern(alias).finditer(text):
        near = text[max(0, place.start() - _NEAR) : place.start()]
        line_before = near.rpartition("\n")[2]
        leads = not re.search(r"\w", line_before)
        if not re.search(r"\w", alias):
            around = line_before[-1:].strip() + text[place.end() : place.end() + 1].strip()
            counts = around in _QUOTED or (not leads and (not around or around in _SENTENCE_ENDS))
        elif _ARTICLE.fullmatch(alias) and (word := _NEXT_WORD.match(text, place.end())):
            within = not leads and not re.search(r"[.!?:]\W*$", line_before)
            counts = word[1] in _NEVER_AFTER_ARTICLE or (within and not alias.islower() and word[1].islower())
        else:
            counts = True
        if counts:
            yield place.start()


@lru_cache(maxsize=_ALIASES_KEPT)
def _pattern(alias: str) -> re.Pattern[str]:
    before = "".join(char for char in _BEFORE if char not in alias)
    after = "".join(char for char in _AFTER if char not in alias)
    text = r"\s+".join(re.escape(part) for part in alias.split())
    return re.compile(rf"(?:^|(?<=[\s{re.escape(before)}])){text}(?=$|[\s{re.escape(after)}])")
