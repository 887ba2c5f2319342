"""Responses and verdicts become scores, and scores the figures of the tables: {method: {benchmark: figures}}.

Rows of responses (schema GENERATIONS and `method`), what the judges said of each, and each data set's benchmark enter;
rows of schema SCORES and `metrics.json` leave. A response is measured as its benchmark is, and null in all else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.config import Evaluation
from mralign.evaluation.benchmarks import find, registry
from mralign.evaluation.judging import Verdict
from mralign.rows.subjects import Subject, Way
from mralign.run.store import StageDir, ahead

_OF_EVERY_RESPONSE = {
    "row_id": pa.string(),
    "question_id": pa.string(),
    "dataset": pa.string(),
    "method": pa.string(),  # as tables name it, e.g. base_think_on, base_self_refine, mralign
    "invalid": pa.string(),
    "completion_tokens": pa.int32(),
    "thought_tokens": pa.int32(),  # 0 where there is no thought
}

Shared = Mapping[str, Mapping[str, Any]]  # benchmark -> what all methods are scored with (K of F1@K)


def _scores_schema() -> pa.Schema:
    columns: dict[str, pa.DataType] = dict(_OF_EVERY_RESPONSE)
    for name, benchmark in registry().items():
        for column, kind in benchmark.columns.items():
            assert columns.setdefault(column, kind) == kind, f"{name} has another type for the column {column}"
    return pa.schema(columns)


# One response as it counts in the tables: the columns of all benchmarks, null where its own does not measure them.
SCORES = _scores_schema()


def read_scores(out: StageDir) -> pa.Table:
    """All committed scores, schema SCORES; columns of a benchmark that was added since are null."""
    tables = ahead(partial(_read_scores, out), out.parts())
    return pa.concat_tables([SCORES.empty_table(), *tables], promote_options="default")


def _read_scores(out: StageDir, part: str) -> pa.Table:
    there = set(out.columns(part))
    return out.read_parts([part], schema=SCORES, columns=[name for name in SCORES.names if name in there])


def score_responses(
    rows: Sequence[dict[str, Any]],
    *,
    benchmarks: Mapping[str, str],
    verdicts: Mapping[str, Verdict],
    settings: Evaluation,
) -> list[dict[str, Any]]:
    """A row of SCORES for each response, in order; one that judges should have seen has no measure without a verdict.

    `benchmarks`: name of the benchmark by data set. What hangs on all responses (F1@K) comes later, by `completed`.
    """
    scores = []
    for row in rows:
        benchmark = find(benchmarks[row["dataset"]])
        score = dict.fromkeys(SCORES.names) | {name: row[name] for name in _OF_EVERY_RESPONSE}
        verdict = verdicts.get(row["row_id"], Verdict(rejected="missing" if benchmark.steps else ""))
        if not verdict.rejected:
            score |= benchmark.score(row, verdict.said, settings)
        scores.append(score)
    return scores


def shared_of(
    base: Sequence[Mapping[str, Any]], *, benchmarks: Mapping[str, str], settings: Evaluation, source: str
) -> Shared:
    """What each benchmark scores all methods with, by name, from the scores of the base model (`base`).

    Of these it sees think-on's where that was asked for, else those of the first method. `source` says where they are
    from: this run | base.
    """
    way = Way.THINK_ON if Way.THINK_ON in settings.methods else settings.methods[0]
    method = Subject.BASE.method(way, name=settings.label)
    found: dict[str, Mapping[str, Any]] = {}
    for name in dict.fromkeys(benchmarks.values()):
        own = [row for row in base if row["method"] == method and benchmarks[row["dataset"]] == name]
        found[name] = find(name).shared(own, settings, source=source)
    return found


def completed(
    scores: Sequence[dict[str, Any]], *, benchmarks: Mapping[str, str], shared: Shared
) -> list[dict[str, Any]]:
    """The scores with what hangs on `shared`."""
    found = []
    for row in scores:
        name = benchmarks[row["dataset"]]
        found.append(find(name).complete(row, **shared[name]))
    return found


def result_figures(
    scores: Sequence[dict[str, Any]], *, benchmarks: Mapping[str, str], shared: Shared, settings: Evaluation
) -> dict[str, dict[str, Any]]:
    """{method: {data set: figures}}, methods and data sets in the order of `scores` and `benchmarks`."""
    bounds: dict[str, Any] = {"level": settings.level, "samples": settings.bootstrap_samples}
    by_place: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in scores:
        by_place.setdefault((row["method"], row["dataset"]), []).append(row)
    found: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(row["method"] for row in scores):
        found[method] = {}
        for dataset, name in benchmarks.items():
            own = by_place.get((method, dataset))
            if own:
                found[method][dataset] = {"kind": name, **find(name).figures(own, **bounds, **shared[name])}
    return found
