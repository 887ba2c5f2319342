"""LongFact by VeriScore: the share of a long answer's claims that evidence supports, and how many there are, as F1@K.

The claims of an answer and those of them that are supported (claims.py) enter; F1@K leaves (Song et al. 2024). K is
configured, or the median number of claims of the base model: all methods are measured by the same K
(method.md §6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import Evaluation
from mralign.evaluation import claims
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure, Row, Said
from mralign.evaluation.intervals import mean_or_none, rate


def score(row: Row, said: Said, settings: Evaluation) -> dict[str, Any]:
    """|C| and S; F1@K waits for K."""
    return claims.counts(said)


def f1_at_k(supported: int, *, claims: int, k: int) -> float:
    """F1@K = 2·Prec·Rec/(Prec + Rec), 0 if S = 0; Prec = S/|C|, Rec_K = min(S/K, 1) (method.md §6)."""
    assert 0 <= supported <= claims and k >= 1
    if not supported:
        return 0.0
    precision, recall = supported / claims, min(supported / k, 1.0)
    return 2 * precision * recall / (precision + recall)


def median_claims(rows: Sequence[Row]) -> int:
    """K: the median of |C| over the score rows that were judged, rounded up, at least 1.

    A valid answer without claims counts as 0; an invalid response and a rejected one (claims null) say nothing of how
    much a whole answer claims, and are left out. Where most answers claim nothing, or none is whole, K is 1, the least
    that gives a recall. Raises ValueError where nothing was judged.
    """
    judged = [row for row in rows if row["claims"] is not None]
    if not judged:
        raise ValueError(
            f"K of F1@K is the median number of claims, and none of {len(rows)} responses was judged: look at the "
            f"rejects of the judgements, or give K as evaluation.longfact.k"
        )
    counts = [row["claims"] for row in judged if row["invalid"] is None]
    return max(1, math.ceil(np.median(counts))) if counts else 1


def shared(rows: Sequence[Row], settings: Evaluation, *, source: str) -> dict[str, Any]:
    """K and where it comes from: the configuration, or the scores of the base model (`rows`)."""
    if settings.longfact.k is not None:
        return {"k": settings.longfact.k, "k_source": "config"}
    return {"k": median_claims(rows), "k_source": source} if rows else {}


def complete(row: Row, *, k: int | None = None, k_source: str = "") -> dict[str, Any]:
    """The score with F1@K and K, where it was judged. Raises ValueError where K is not known."""
    if row["claims"] is None:
        return dict(row)
    return {**row, "k": k, "f1": f1_at_k(row["supported"], claims=row["claims"], k=_known(k))}


def _known(k: int | None) -> int:
    if k is None:
        raise ValueError(
            "K of F1@K is the median number of claims of the untrained model, of which there is no response to this "
            "benchmark: look at the rejects of responses_base, or give K as evaluation.longfact.k"
        )
    return k


def figures(
    rows: Sequence[Row], *, k: int | None = None, k_source: str = "", level: float = 0.95, samples: int = 2000
) -> dict[str, Any]:
    """Figures of the scores of one method (question_id, invalid, claims, supported; null where rejected).

    f1: mean F1@K with its bootstrap interval over questions; recall: mean Rec_K; claims_mean: #Claims. All over the
    judged rows, those without claims (abstentions, and invalid responses) with 0. precision: mean S/|C| over the rows
    that have claims. Null where there is none. n: questions of the judged rows; judged + rejected = all rows.
    """
    judged = [row for row in rows if row["claims"] is not None]
    questions = [row["question_id"] for row in judged]
    f1 = [f1_at_k(row["supported"], claims=row["claims"], k=_known(k)) for row in judged]
    return rate("f1", f1, questions=questions, level=level, samples=samples) | {
        "precision": mean_or_none([row["supported"] / row["claims"] for row in judged if row["claims"]]),
        "recall": mean_or_none([min(row["supported"] / _known(k), 1.0) for row in judged]),
        "claims_mean": mean_or_none([row["claims"] for row in judged]),
        "k": k,
        "k_source": k_source,
        "abstentions": sum(row["invalid"] is None and not row["claims"] for row in judged),
        "n": len(set(questions)),
        "judged": len(judged),
        "rejected": len(rows) - len(judged),
    }


def alike(scores: pa.Table, reference: pa.Table) -> pa.Table:
    """`scores` with F1@K at the K that `reference` was scored with, where both have claims."""
    known = pc.unique(reference.column("k").drop_null()).to_pylist()
    if not known:
        return scores
    (k,) = known  # one evaluation scores all with one K
    f1 = []
    for supported, count in zip(*(scores.column(name).to_pylist() for name in ("supported", "claims")), strict=True):
        f1.append(None if count is None else f1_at_k(supported, claims=count, k=k))
    return scores.set_column(scores.schema.get_field_index("f1"), "f1", pa.array(f1, pa.float64()))


BENCHMARK = Benchmark(
    formats=("longfact",),
    steps=claims.STEPS,
    columns={**claims.COLUMNS, "f1": pa.float64(), "k": pa.int32()},
    score=score,
    shared=shared,
    complete=complete,
    alike=alike,
    figures=figures,
    measures=(
        Measure("f1", "F1@K", 1, interval=True, paired=True, terminal=True, table=True, parameter="k"),
        Measure("precision", "Prec", terminal=True),
        Measure("recall", "Rec", terminal=True),
        Measure("claims_mean", "#Claims", unit="count", terminal=True, table=True),
        Measure("k", "K", unit="count", note="k_source"),
        Measure("abstentions", "Abstentions", unit="count"),
        Measure("rejected", "Rejected", unit="count"),
        Measure("n", "Questions", unit="count"),
    ),
    explain=lambda settings: (
        "F1@K, Prec, Rec: claims that a judge found supported; K comes from the configuration, this run, or the "
        "untrained model (base)."
    ),
)
