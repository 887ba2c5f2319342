"""FActScore-like: the share of a biography's facts that evidence supports (after Min et al. 2023).

As in FActScore, a model is asked for a biography, its facts are listed one by one, and the score is the share of them
that is supported, times a penalty for answers of fewer than gamma = 10 facts; answers without any fact abstain and are
counted apart. Not as in FActScore: the facts are found by the configured extractor passage by passage, and the evidence
is what the configured retrieval finds for each fact, not the Wikipedia page of the entity. The numbers can be compared
with each other, not with published ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mralign.config import Evaluation
from mralign.evaluation import claims
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure, Row, Said
from mralign.evaluation.intervals import mean_or_none, rate

GAMMA = 10  # facts below which an answer is penalised


def factscore(supported: int, *, facts: int, gamma: int = GAMMA) -> float:
    """S/|C| times min(1, exp(1 - gamma/|C|)). gamma 0: no penalty. Needs at least one fact."""
    assert 0 <= supported <= facts and facts
    penalty = 1.0 if facts > gamma else math.exp(1 - gamma / facts)
    return penalty * supported / facts


def score(row: Row, said: Said, settings: Evaluation) -> dict[str, Any]:
    """|C|, S and the score: 0 of an invalid response, none of an answer without facts."""
    found = claims.counts(said)
    if found["claims"]:
        return {**found, "factscore": factscore(found["supported"], facts=found["claims"])}
    return {**found, "factscore": None if row["invalid"] is None else 0.0}


def figures(rows: Sequence[Row], *, level: float = 0.95, samples: int = 2000) -> dict[str, Any]:
    """Figures of the scores of one method (question_id, invalid, claims, supported, factscore; null where rejected).

    factscore: the mean with its bootstrap interval over questions, of the judged rows that do not abstain, invalid ones
    with 0. precision: the mean share of supported facts of the rows that have facts, without the penalty. responded:
    the share of judged rows that have facts; claims_mean: their mean number of facts.
    """
    judged = [row for row in rows if row["claims"] is not None]
    told = [row for row in judged if row["claims"]]
    questions = [row["question_id"] for row in judged]
    scores = [row["factscore"] for row in judged]
    return rate("factscore", scores, questions=questions, level=level, samples=samples) | {
        "precision": mean_or_none([row["supported"] / row["claims"] for row in told]),
        "claims_mean": mean_or_none([row["claims"] for row in told]),
        "responded": len(told) / len(judged) if judged else None,
        "n": len(set(questions)),
        "judged": len(judged),
        "rejected": len(rows) - len(judged),
    }


BENCHMARK = Benchmark(
    formats=("factscore",),
    prompt="Tell me a bio of {question}.",
    steps=claims.STEPS,
    columns={**claims.COLUMNS, "factscore": pa.float64()},
    score=score,
    figures=figures,
    measures=(
        Measure("factscore", "FActScore-like", 1, interval=True, paired=True, terminal=True, table=True),
        Measure("precision", "Prec", terminal=True),
        Measure("claims_mean", "#Claims", unit="count", terminal=True, table=True),
        Measure("responded", "Responded %"),
        Measure("rejected", "Rejected", unit="count"),
        Measure("n", "Questions", unit="count"),
    ),
    explain=lambda settings: (
        f"FActScore-like: facts that a judge found supported by this run's retrieval, times a penalty for fewer than "
        f"{GAMMA} facts (Prec: without it); not to be compared with published FActScores."
    ),
)
