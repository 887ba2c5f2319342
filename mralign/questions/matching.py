"""Matching an answer or a thought against gold aliases: SQuAD normalisation, then equality or token containment.

Enters: texts of the model and the gold aliases of a question. Leaves: a boolean. Normalisation is SQuAD's to the
letter, so numbers stand beside published ones: punctuation is `string.punctuation` (ASCII only; a curly quote or an
em dash stays in its token), articles are the English a, an, the, and white space is Unicode's, NBSP included. A token
is what white space separates after normalisation. METHOD.md section 1.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

MODES = ("exact", "contains")

_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """SQuAD normal form: lower case, no ASCII punctuation, no articles, single spaces. May be empty (`---`, `The`)."""
    bare = text.lower().translate(_DROP_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def contains(haystack: str, aliases: Sequence[str]) -> bool:
    """True if some normalised alias occurs in the normalised `haystack` on token boundaries ("art" not in "party").

    An alias that normalises to nothing never matches. METHOD.md section 1, EM_t.
    """
    padded = f" {normalize(haystack)} "
    return any(f" {alias} " in padded for alias in _normal_aliases(aliases))


def equals(answer: str, aliases: Sequence[str]) -> bool:
    """True if some normalised alias equals the normalised `answer`; an empty alias never does. METHOD.md section 1."""
    return normalize(answer) in _normal_aliases(aliases)


def answer_matches(answer: str, aliases: Sequence[str], *, mode: str) -> bool:
    """EM_a of METHOD.md section 1: `equals` in mode "exact" (the paper's definition), `contains` in mode "contains".

    Raises ValueError for any other mode.
    """
    if mode == "exact":
        return equals(answer, aliases)
    if mode == "contains":
        return contains(answer, aliases)
    raise ValueError(f"answer matching mode {mode!r} is not known; allowed are {', '.join(MODES)}; choose one of them")


def _normal_aliases(aliases: Sequence[str]) -> list[str]:
    if isinstance(aliases, str):  # a str is a Sequence[str]: its letters would match as aliases
        raise ValueError(f"gold aliases must be a list of strings, given the string {aliases!r}; wrap it in a list")
    return [normal for normal in map(normalize, aliases) if normal]
