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
from mralign.evaluation.benchmarks import find, of_config, source_of
from mralign.evaluation.judging import Verdict, verdicts
from mralign.evaluation.positions import position_figures
from mralign.evaluation.responses import read_responses
from mralign.evaluation.scoring import SCORES, completed, read_scores, result_figures, score_responses, shared_of
from mralign.evaluation.strata import strata_figures
from mralign.rows.schema import JUDGEMENTS
from mralign.rows.subjects import Subject, Way
from mralign.run.part_names import part_name
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir


def _evaluate(context: Context, *, subject: Subject) -> Outcome:
    """Score the responses of one model."""
    config, upstream = context.config, context.upstream
    settings, benchmarks = config.evaluation, of_config(config)
    is_base = subject is Subject.BASE
    judged = _verdicts(upstream.get(subject.stage("judgements")))
    parts, thoughts = [], []
    for table in read_responses(upstream[subject.stage("responses")]):
        rows = table.to_pylist()
        parts.append(score_responses(rows, benchmarks=benchmarks, verdicts=judged, settings=settings))
        thoughts += [row for row in rows if row["thought_start"] >= 0]
    scores = [row for part in parts for row in part]
    base = scores if is_base else read_scores(upstream[Subject.BASE.stage("evaluation")]).to_pylist()
    source = "this run" if is_base else "base"
    shared = shared_of(base, benchmarks=benchmarks, settings=settings, source=source)
    complete = partial(completed, benchmarks=benchmarks, shared=shared)
    for number, part in enumerate(parts):
        table = pa.Table.from_pylist(complete(part), schema=SCORES)
        context.out.commit(part_name(f"{number:05d}"), table, schema=SCORES)
    context.out.quiet()
    results = result_figures(complete(scores), benchmarks=benchmarks, shared=shared, settings=settings)
    files = {"metrics.json": results, "positions.json": position_figures(thoughts, scores)}
    thinking = [] if is_base else _thinking(base, config=config)
    if thinking:
        bounds: dict[str, Any] = {"level": settings.level, "samples": settings.bootstrap_samples}
        files["strata.json"] = strata_figures(thinking, scores, **bounds)
    context.out.write_texts({name: json.dumps(value, indent=1) for name, value in files.items()})
    return Outcome(len(scores), len(scores), {"metrics": results})


def _verdicts(judged: StageDir | None) -> Mapping[str, Verdict]:
    if judged is None:
        return {}
    return verdicts(judged.read(schema=JUDGEMENTS).to_pylist(), judged.read_rejects().to_pylist())


def _thinking(base: Sequence[dict[str, Any]], *, config: RunConfig) -> list[dict[str, Any]]:
    """The untrained model's scores when it thinks, by which strata are made; empty where it was not asked so."""
    name = Subject.BASE.method(Way.THINK_ON, name=config.evaluation.label)
    return [row for row in base if row["method"] == name]


def judges(config: RunConfig) -> bool:
    """Whether a benchmark of the evaluation split needs judges."""
    return any(find(name).steps for name in of_config(config).values())


def _code(config: RunConfig) -> dict[str, Any]:
    """How each data set is scored."""
    return {f"benchmark of {dataset}": [name, source_of(name)] for dataset, name in of_config(config).items()}


def evaluation_stage(config: RunConfig, *, subject: Subject) -> Stage:
    """Scores of one model; of the trained one, what all are scored with and the strata come from the untrained one."""
    is_base = subject is Subject.BASE
    upstream = [subject.stage("responses")]
    if judges(config):
        upstream.append(subject.stage("judgements"))
    if not is_base:
        upstream.append(Subject.BASE.stage("evaluation"))
    return Stage(
        name=subject.stage("evaluation"),
        words="scoring the untrained model" if subject is Subject.BASE else "scoring the trained model",
        run=partial(_evaluate, subject=subject),
        reads=("evaluation",),
        ignores=("evaluation.reannotate", *(["evaluation.trained_methods"] if is_base else [])),
        code=_code,
        upstream=tuple(upstream),
        version=4,
    )
