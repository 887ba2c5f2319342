"""Diversity: how far the draws of one question differ from each other.

Generations enter; two figures leave, of answers and of thoughts, each a mean over questions of a mean over pairs of
draws. A policy that has become sure of itself says the same in every draw, right or wrong; one that has lost its
breadth thinks in the same words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations, pairwise

import numpy as np

from mralign.questions.normalisation import normalize
from mralign.rows import Generation, Mode


@dataclass(frozen=True)
class DrawnText:
    """What of a generation counts here."""

    question_id: str
    mode: str
    text: str
    thought_start: int
    thought_end: int
    answer: str | None
    invalid: str | None


COLUMNS = tuple(field.name for field in fields(DrawnText))


@dataclass(frozen=True)
class DrawDiversity:
    """Shares in [0, 1], None where no question has two valid draws.

    `answers`: pairs of draws whose normalised answers differ. `thoughts`: 1 − |A ∩ B| / |A ∪ B| of the sets A and B of
    neighbouring words of two thoughts (0: the same pairs of words; 1: none in common). `questions`: how many count.
    """

    answers: float | None
    thoughts: float | None
    questions: int


def draw_diversity(rows: Iterable[Generation | DrawnText]) -> DrawDiversity:
    """The diversity of thinking draws, over the questions that have two valid ones or more."""
    by_question: dict[str, list[Generation | DrawnText]] = defaultdict(list)
    for row in rows:
        if row.mode == Mode.ON and row.invalid is None:
            by_question[row.question_id].append(row)
    several = [drawn for drawn in by_question.values() if len(drawn) > 1]
    if not several:
        return DrawDiversity(None, None, 0)
    answers = float(np.mean([_answers_differ(drawn) for drawn in several]))
    thoughts = float(np.mean([_thoughts_differ(drawn) for drawn in several]))
    return DrawDiversity(answers, thoughts, len(several))


def _answers_differ(drawn: Sequence[Generation | DrawnText]) -> float:
    """The share of pairs whose answers differ."""
    said = [normalize(row.answer or "") for row in drawn]
    return float(np.mean([one != other for one, other in combinations(said, 2)]))


def _thoughts_differ(drawn: Sequence[Generation | DrawnText]) -> float:
    """The mean distance of pairs of thoughts."""
    thoughts = [_word_pairs(row.text[row.thought_start : row.thought_end]) for row in drawn]
    return float(np.mean([_distance(one, other) for one, other in combinations(thoughts, 2)]))


def _word_pairs(text: str) -> set[tuple[str, str]]:
    return set(pairwise(text.split()))


def _distance(one: set[tuple[str, str]], other: set[tuple[str, str]]) -> float:
    either = one | other
    return 1 - len(one & other) / len(either) if either else 0.0
