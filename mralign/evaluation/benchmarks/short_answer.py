"""Short answers (NQ-Open, SciQ, SimpleQA and the like): accuracy, and how often thought and answer disagree.

A response and its gold aliases enter; whether its thought and its answer hold a gold one leaves, and of many responses
the means with bootstrap intervals over questions. A draw that cannot be judged (truncated, thought never closed, no
answer) is a wrong answer and stays in every mean: a model must not gain by answers that break off. method.md §6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.chat.thought import FORMAT_FAULTS
from mralign.config import Evaluation
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure, Published, Row, Said
from mralign.evaluation.intervals import mean_or_none, rate
from mralign.questions.matching import answer_matches, contains, thought_matches

_RATES = ("acc", "acc_contains", "mis", "mis_contains")
_RIGHT = {  # by evaluation.match
    "exact": "it equals a gold one",
    "contains": "it holds a gold one",
    "paper": "it equals a gold one after thinking, or holds one without",
}


def score(row: Row, said: Said, settings: Evaluation) -> dict[str, Any]:
    """EM_t, EM_a, and by them acc and mis of one response; nobody is asked.

    `settings.match` (exact | contains | paper) decides em_answer. Think-on: acc = EM_t and EM_a, mis = EM_t xor EM_a.
    Think-off: acc = EM_a, em_thought and mis are None. Where `invalid` holds a reason EM_a is False; EM_t still counts
    what was thought.
    """
    valid = row["invalid"] is None
    thinking = row["mode"] != "off"
    em_answer = valid and answer_matches(row["answer"], row["answers"], mode=settings.match, thinking=thinking)
    answer_contains = valid and contains(row["answer"], row["answers"])
    em_thought = _em_thought(row) if thinking else None
    return {
        "em_thought": em_thought,
        "em_answer": em_answer,
        "acc": em_answer and em_thought is not False,
        "acc_contains": answer_contains and em_thought is not False,
        "mis": None if em_thought is None else em_thought != em_answer,
        "mis_contains": None if em_thought is None else em_thought != answer_contains,
    }


def _em_thought(row: Row) -> bool:
    start, end = row["thought_start"], row["thought_end"]
    return start >= 0 and thought_matches(row["text"][start:end], row["answers"])


def figures(rows: Sequence[Row], *, level: float = 0.95, samples: int = 2000) -> dict[str, Any]:
    """Means over the draws of one method (rows of SCORES), as shares in [0, 1].

    acc, acc_contains, mis and mis_contains (None for think-off), each with its `_ci`; n (questions), draws,
    invalid_share and what it is made of (truncated_share: the token limit was met; format_failure_share: no answer
    could be told apart; the rest could not be asked); thought_tokens_mean (tokens; None for think-off, and where nobody
    has counted them).
    """
    questions = [row["question_id"] for row in rows]
    found: dict[str, Any] = {}
    for key in _RATES:
        values = [row[key] for row in rows]
        found |= rate(key, values, questions=questions, level=level, samples=samples)
    reasons = [row["invalid"] for row in rows]
    thinks = any(row["em_thought"] is not None for row in rows)
    counted = [row["thought_tokens"] for row in rows if row["thought_tokens"] is not None]
    return found | {
        "n": len(set(questions)),
        "draws": len(rows),
        "invalid_share": float(np.mean([reason is not None for reason in reasons])),
        "truncated_share": float(np.mean([reason == "truncated" for reason in reasons])),
        "format_failure_share": float(np.mean([reason in FORMAT_FAULTS for reason in reasons])),
        "thought_tokens_mean": mean_or_none(counted) if thinks else None,
    }


def explain(settings: Evaluation) -> str:
    """What Acc and Mis are."""
    return (
        "Acc, accuracy: thought and answer both hold a gold answer (think-off: the answer alone). Mis, misleading: "
        f"exactly one of the two does. An answer is right if {_RIGHT[settings.match]}."
    )


BENCHMARK = Benchmark(
    columns={name: pa.bool_() for name in ("em_thought", "em_answer", *_RATES)},
    score=score,
    figures=figures,
    measures=(
        Measure("acc", "Acc", 1, interval=True, paired=True, terminal=True, table=True, gain="Accuracy"),
        Measure("mis", "Mis", -1, interval=True, paired=True, terminal=True, table=True, gain="Misleading"),
        Measure("acc_contains", "Acc, contains", 1, interval=True, paired=True),
        Measure("mis_contains", "Mis, contains", -1, interval=True, paired=True),
        Measure("truncated_share", "Truncated %"),
        Measure("format_failure_share", "Format failures %"),
        Measure("thought_tokens_mean", "Thought tokens", unit="count"),
        Measure("n", "Questions", unit="count"),
    ),
    explain=explain,
    published=Published(  # method.md §6: to look at, never to assert
        source="Wang et al., arXiv 2510.24794, Qwen3-8B",
        model="Qwen3-8B",
        methods=("think-off", "think-on", "Self-Refine", "SFT", "KTO", "MR-ALIGN"),
        figures={
            "nq_open": {
                "acc": ("22.66", "34.10", "35.26", "34.43", "35.48", "37.34"),
                "mis": ("–", "9.89", "9.36", "8.63", "8.69", "7.20"),
            },
            "sciq": {
                "acc": ("55.60", "67.10", "65.10", "68.20", "69.30", "70.70"),
                "mis": ("–", "14.10", "17.80", "13.40", "12.60", "11.70"),
            },
            "simpleqa": {
                "acc": ("4.10", "4.51", "3.63", "4.35", "4.69", "5.11"),
                "mis": ("–", "5.24", "6.26", "4.04", "5.20", "4.46"),
            },
        },
    ),
)
