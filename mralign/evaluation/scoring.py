"""Responses and verdicts become scores, and scores the figures of the tables: {method: {benchmark: figures}}.

Rows of responses (schema GENERATIONS and `method`), the judges' verdicts by row, and each benchmark's kind enter; rows
of schema SCORES and `metrics.json` leave. A response is measured as its benchmark is, and null in all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.config import Evaluation, RunConfig
from mralign.evaluation.judging import Verdict, figures_longfact, figures_truthfulqa, median_claims
from mralign.evaluation.longfact import f1_at_k
from mralign.evaluation.short_answer import metrics, score
from mralign.rows.schema import SCORES

SHORT, TRUTHFULQA, LONGFACT = "short_answer", "truthfulqa", "longfact"
JUDGED = (TRUTHFULQA, LONGFACT)
_SAID = ("row_id", "question_id", "dataset", "method", "invalid", "completion_tokens", "thought_tokens")


def kinds_of(config: RunConfig) -> dict[str, str]:
    """Benchmark -> how it is judged, of the sources of the evaluation split."""
    split = getattr(config.questions, config.evaluation.split)
    return {source.name: source.format if source.format in JUDGED else SHORT for source in split}


def score_responses(
    rows: Sequence[dict[str, Any]], *, kinds: Mapping[str, str], found: Mapping[str, Verdict], match: str
) -> list[dict[str, Any]]:
    """A row of schema SCORES for each response; a judged one without a verdict has no measure. F1@K comes later."""
    short = score([row for row in rows if kinds[row["dataset"]] == SHORT], match=match)
    judged = [row for row in rows if kinds[row["dataset"]] != SHORT]
    empty = dict.fromkeys(SCORES.names)
    return [empty | one for one in short] + [empty | _judged(row, found=found) for row in judged]


def _judged(row: Mapping[str, Any], *, found: Mapping[str, Verdict]) -> dict[str, Any]:
    verdict = found.get(row["row_id"])
    said = {name: row[name] for name in _SAID}
    if verdict is None:
        return said
    return said | {name: getattr(verdict, name) for name in ("truthful", "informative", "claims", "supported")}


def claims_bound(scores: Sequence[Mapping[str, Any]], *, kinds: Mapping[str, str], settings: Evaluation) -> int | None:
    """K of F1@K: the configured one, else the median number of claims of the untrained model's responses (`scores`),
    of think-on where it was asked so; None without LongFact."""
    if LONGFACT not in kinds.values():
        return None
    if settings.longfact.k is not None:
        return settings.longfact.k
    preferred = "think_on" if "think_on" in settings.methods else settings.methods[0]
    name = f"{settings.label}_{preferred}"
    own = [row for row in scores if row["method"] == name and kinds[row["dataset"]] == LONGFACT]
    return median_claims(own) if own else None  # no prompt was left of LongFact


def with_f1(scores: Sequence[dict[str, Any]], *, k: int | None) -> list[dict[str, Any]]:
    """The scores, those with claims with their F1@K, and K."""
    if k is None:
        return list(scores)
    return [
        row if row["claims"] is None else row | {"k": k, "f1": f1_at_k(row["supported"], claims=row["claims"], k=k)}
        for row in scores
    ]


def result_figures(
    scores: Sequence[dict[str, Any]], *, kinds: Mapping[str, str], k: int | None, k_source: str, settings: Evaluation
) -> dict[str, dict[str, Any]]:
    """{method: {benchmark: figures}}, methods and benchmarks in the order of `scores` and `kinds`."""
    bounds: dict[str, Any] = {"level": settings.level, "samples": settings.bootstrap_samples}
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(row["method"] for row in scores):
        for dataset, kind in kinds.items():
            own = [row for row in scores if (row["method"], row["dataset"]) == (method, dataset)]
            if not own:
                continue
            if kind == SHORT:
                figures = metrics(own, **bounds)
            elif kind == TRUTHFULQA:
                figures = figures_truthfulqa(own, **bounds)
            else:
                assert k is not None  # claims_bound gives one wherever there is LongFact
                figures = figures_longfact(own, k=k, k_source=k_source, **bounds)
            found.setdefault(method, {})[dataset] = figures
    return found
