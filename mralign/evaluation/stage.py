"""Stages `evaluation_base` and `evaluation`: responses and judgements become scores and the figures of the tables.

Responses of one model enter, with the judges' verdicts where a benchmark needs them; one row of schema SCORES a
response leaves, `metrics.json` ({method: {benchmark: figures}}), and beside it `positions.json` (where in its thought
the answer stands) and, of the trained model, `strata.json` (where it gained). Any figure can be followed to its rows,
and a row by its id to the response. Nothing is asked here: another level, matching or K costs no generation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig
from mralign.evaluation.judging import Verdict, verdicts
from mralign.evaluation.positions import position_figures
from mralign.evaluation.responses import read_responses
from mralign.evaluation.scoring import JUDGED, claims_bound, kinds_of, result_figures, score_responses, with_f1
from mralign.evaluation.strata import strata_figures
from mralign.rows.schema import JUDGEMENTS, SCORES
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir, part_name


def _evaluate(context: Context, *, side: str) -> Outcome:
    """Score the responses of one model: `side` is `_base` or nothing, as in the names of the stages."""
    config, upstream = context.config, context.upstream
    settings, kinds = config.evaluation, kinds_of(config)
    found = _verdicts(upstream.get(f"judgements{side}"))
    parts, thoughts = [], []
    for table in read_responses(upstream[f"responses{side}"]):
        rows = table.to_pylist()
        parts.append(score_responses(rows, kinds=kinds, found=found, match=settings.match))
        thoughts += [row for row in rows if row["thought_start"] >= 0]
    scores = [row for part in parts for row in part]
    base = scores if side else upstream["evaluation_base"].read(schema=SCORES).to_pylist()
    k = claims_bound(base, kinds=kinds, settings=settings)
    for number, part in enumerate(parts):
        table = pa.Table.from_pylist(with_f1(part, k=k), schema=SCORES)
        context.out.commit(part_name(f"{number:05d}"), table, schema=SCORES)
    source = "config" if settings.longfact.k is not None else ("this run" if side else "base")
    results = result_figures(with_f1(scores, k=k), kinds=kinds, k=k, k_source=source, settings=settings)
    _write(context.out, "metrics.json", results)
    _write(context.out, "positions.json", position_figures(thoughts, scores))
    if not side and (thinking := _thinking(base, config=config)):
        _write(
            context.out,
            "strata.json",
            strata_figures(thinking, scores, level=settings.level, samples=settings.bootstrap_samples),
        )
    return Outcome(len(scores), len(scores), {"metrics": results})


def _write(out: StageDir, name: str, value: Any) -> None:
    out.write_text(name, json.dumps(value, indent=1))


def _verdicts(judged: StageDir | None) -> Mapping[str, Verdict]:
    if judged is None:
        return {}
    return verdicts(judged.read(schema=JUDGEMENTS).to_pylist(), judged.read_rejects().to_pylist())


def _thinking(base: Sequence[dict[str, Any]], *, config: RunConfig) -> list[dict[str, Any]]:
    """The untrained model's scores when it thinks, by which strata are made; empty where it was not asked so."""
    name = f"{config.evaluation.label}_think_on"
    return [row for row in base if row["method"] == name]


def judges(config: RunConfig) -> bool:
    """Whether a benchmark of the evaluation split needs judges."""
    return any(kind in JUDGED for kind in kinds_of(config).values())


def base_stage(config: RunConfig) -> Stage:
    """Scores of the untrained model."""
    return Stage(
        name="evaluation_base",
        run=partial(_evaluate, side="_base"),
        reads=("evaluation",),
        ignores=("evaluation.trained_methods", "evaluation.reannotate"),
        upstream=("responses_base", *(["judgements_base"] if judges(config) else [])),
        version=3,
    )


def trained_stage(config: RunConfig) -> Stage:
    """Scores of the trained model; K and the strata come from the untrained one."""
    return Stage(
        name="evaluation",
        run=partial(_evaluate, side=""),
        reads=("evaluation",),
        ignores=("evaluation.reannotate",),
        upstream=("responses", *(["judgements"] if judges(config) else []), "evaluation_base"),
        version=3,
    )
