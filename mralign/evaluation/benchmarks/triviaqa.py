"""TriviaQA: exact match and F1 of words, over all aliases (Joshi et al. 2017), beside Acc and Mis.

EM and F1 are those of the published script: of the alias that fits best, in TriviaQA's own normal form, in which
punctuation becomes a space (the project's form deletes it: `Spider-Man` is `spider man` here, `spiderman` there). They
are of the answer alone, so EM may exceed Acc. Acc and Mis are those of all short answers (method.md §6).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mralign.config import Evaluation
from mralign.evaluation.benchmarks import short_answer
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure, Row, Said
from mralign.evaluation.intervals import rate

_RATES = ("em", "token_f1")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_SPACES = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))


def tokens(text: str) -> list[str]:
    """The words of a text in TriviaQA's normal form: small letters, punctuation as spaces, no articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_SPACES)).split()


def token_f1(answer: str, alias: str) -> float:
    """F1 of the words that answer and alias share, as often as both hold them; 0 if they share none."""
    said, gold = tokens(answer), tokens(alias)
    common = sum((Counter(said) & Counter(gold)).values())
    return 2 * common / (len(said) + len(gold)) if common else 0.0


def score(row: Row, said: Said, settings: Evaluation) -> dict[str, Any]:
    """What every short answer has, and EM and F1 of the alias that fits best; both are 0 of an invalid response."""
    found = short_answer.score(row, said, settings)
    if row["invalid"] is not None:
        return {**found, "em": False, "token_f1": 0.0}
    answer, aliases = row["answer"], row["answers"]
    matches = [tokens(answer) == tokens(alias) for alias in aliases]
    return {**found, "em": any(matches), "token_f1": max(token_f1(answer, alias) for alias in aliases)}


def figures(rows: Sequence[Row], *, level: float = 0.95, samples: int = 2000) -> dict[str, Any]:
    """The figures of short answers, and the means of EM and F1 with their intervals."""
    questions = [row["question_id"] for row in rows]
    found = short_answer.figures(rows, level=level, samples=samples)
    for key in _RATES:
        found |= rate(key, [row[key] for row in rows], questions=questions, level=level, samples=samples)
    return found


BENCHMARK = Benchmark(
    formats=("triviaqa",),
    columns={**short_answer.BENCHMARK.columns, "em": pa.bool_(), "token_f1": pa.float64()},
    score=score,
    figures=figures,
    measures=(
        Measure("em", "EM", 1, interval=True, paired=True, terminal=True, table=True),
        Measure("token_f1", "F1", 1, interval=True, paired=True, terminal=True, table=True),
        *short_answer.BENCHMARK.measures,
    ),
    explain=lambda settings: (
        f"EM, F1: the answer against the alias that fits best, by TriviaQA's script. {short_answer.explain(settings)}"
    ),
)
