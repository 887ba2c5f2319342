"""Stages `evaluation_base` and `evaluation`: held-out questions become Acc and Mis with intervals.

Questions of the evaluation split enter; committed generations of the base model (thinking off and on) and of the
trained one (thinking on) leave, each with its metrics in the manifest's figures. Every figure can be followed to the
row it came from. The base is a stage of its own: another method or weight setting does not sample it again.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from mralign.config import Evaluation, Model, RunConfig
from mralign.engines.requests import build_requests, sampling_of_evaluation
from mralign.engines.streaming import generate
from mralign.evaluation.short_answer import metrics, score
from mralign.schema import GENERATIONS, QUESTIONS
from mralign.stage import Context, Outcome, Stage
from mralign.store import StageDir


def _evaluate(context: Context, *, model: Model, names: dict[str, str], probe: str = "") -> Outcome:
    """Sample every mode in `names` (mode -> method's name) with `model` and score it. `probe`: see `Sampling`."""
    settings = context.config.evaluation
    questions = context.upstream["questions"]
    parts = questions.parts(settings.split)
    sampling = sampling_of_evaluation(context.config, model=model, modes=tuple(names), probe=probe)
    cost = generate(questions, parts, sampling=sampling, out=context.out)
    table = questions.read_parts(parts, schema=QUESTIONS)
    requests = build_requests(table, modes=sampling.modes, draws=sampling.draws, seed=sampling.seed)
    rows = context.out.read(schema=GENERATIONS).to_pylist() + _unanswered(context.out, requests=requests)
    results = {name: scored(rows, mode=mode, settings=settings) for mode, name in names.items()}
    context.out.write_text("metrics.json", json.dumps(results, indent=1))
    return Outcome(
        requests.num_rows, requests.num_rows - context.out.read_rejects().num_rows, {**cost, "metrics": results}
    )


def scored(rows: list[dict[str, Any]], *, mode: str, settings: Evaluation) -> dict[str, Any]:
    """{acc, acc_ci, mis, mis_ci, n, ...} of the generations of one mode; `by_dataset` where there are several."""

    def measured(chosen: list[dict[str, Any]]) -> dict[str, Any]:
        scores = score(chosen, match=settings.match)
        return metrics(scores, samples=settings.bootstrap_samples, level=settings.level)

    chosen = [row for row in rows if row["mode"] == mode]
    names = sorted({row["dataset"] for row in chosen})
    if len(names) == 1:
        return measured(chosen)
    apart = {name: measured([row for row in chosen if row["dataset"] == name]) for name in names}
    return {**measured(chosen), "by_dataset": apart}


def _unanswered(out: StageDir, *, requests: pa.Table) -> list[dict[str, Any]]:
    """Rejected requests as generations without text: what could not be asked counts as wrong, it never vanishes."""
    reasons = {row["row_id"]: row["reason"] for row in out.read_rejects().to_pylist()}
    empty = {
        "text": "",
        "completion_tokens": 0,
        "thought_start": -1,
        "thought_end": -1,
        "answer": None,
        "thought_tokens": 0,
    }
    asked = [row for row in requests.to_pylist() if row["row_id"] in reasons]
    return [{**row, **empty, "invalid": reasons[row["row_id"]]} for row in asked]


def _base(context: Context) -> Outcome:
    names = {"off": "base_think_off", "on": "base_think_on"}
    return _evaluate(context, model=context.config.model, names=names)


def _trained(context: Context) -> Outcome:
    config = context.config
    trained = context.upstream["training"].uri
    merged = config.model.model_copy(update={"path": f"{trained}/model", "adapter": None})
    return _evaluate(context, model=merged, names={"on": method_name(config)}, probe=trained)


def method_name(config: RunConfig) -> str:
    """The trained method as tables name it, e.g. mralign, mralign-opposite, mralign-shuffle, kto, sft."""
    if config.training.method != "mralign":
        return config.training.method
    parts = ["mralign"]
    if config.weights.anchor != "global":
        parts.append(config.weights.anchor)
    if config.weights.control != "none":
        parts.append(config.weights.control)
    return "-".join(parts)


def _matters(config: RunConfig) -> dict[str, Any]:
    return {
        "seed": config.run.seed,
        "model": config.model.matters(),
        "max_model_len": config.engine.max_model_len,
        **config.evaluation.model_dump(mode="json"),
    }


def _check(config: RunConfig) -> None:
    split = config.evaluation.split
    if not getattr(config.questions, split):
        raise ValueError(f"evaluation.split={split!r} has no questions; give questions.{split}, or another split")
    unjudged = [source.name for source in getattr(config.questions, split) if source.format == "longfact"]
    if unjudged:
        raise ValueError(
            f"questions.{split} holds {unjudged}: LongFact has no gold answers, so Acc and Mis cannot be told and its "
            f"judge is not here yet; take it out of questions.{split}, or stop before the evaluation (--until training)"
        )


BASE_STAGE = Stage(
    name="evaluation_base",
    run=_base,
    matters=_matters,
    upstream=("questions",),
    inputs=lambda config: config.model.inputs(),
    check=_check,
)

TRAINED_STAGE = Stage(
    name="evaluation",
    run=_trained,
    matters=lambda config: {**_matters(config), "name": method_name(config)},
    upstream=("questions", "training"),
)
