"""Stages `rollouts` and `candidates`: questions become generations, generations become labelled candidates.

Questions enter; N think-on and N think-off generations each leave the first stage (sampled by vLLM, or imported), and
the questions where thinking helped or hurt leave the second one, cut into segments. No arithmetic lives here.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import pyarrow as pa

from mralign.config import Candidates, RunConfig, resolve_path
from mralign.engines.chat import MODES, check_model_directory, switches_thinking
from mralign.engines.vllm import build_requests, generate
from mralign.rejects import Reject, to_table
from mralign.rollouts.candidates import Limits, funnel, judge
from mralign.rollouts.imported import read_rollouts
from mralign.schema import CANDIDATES, GENERATIONS, QUESTIONS
from mralign.stage import Context, Outcome, Stage, exchange_parts
from mralign.store import Directory, part_name

_ROWS_A_BUCKET, _MIN_BUCKETS = 50_000, 4


def _train_questions(context: Context) -> pa.Table:
    return context.upstream["questions"].read_parts([part_name("train")], schema=QUESTIONS)


def _sample(context: Context) -> Outcome:
    config = context.config
    requests = build_requests(_train_questions(context), modes=MODES, draws=config.rollouts.n, seed=config.run.seed)
    decoding = config.rollouts.decoding
    figures = generate(
        requests,
        model=config.model,
        engine=config.engine,
        decoding=decoding,
        prompt=config.rollouts.prompt,
        out=context.out,
    )
    rejected = context.out.read_rejects().num_rows
    return Outcome(rows_in=requests.num_rows, rows_out=requests.num_rows - rejected, figures=figures)


def check_model(config: RunConfig) -> None:
    """Raise ValueError before any engine starts if the model cannot think on and off by its template."""
    path = resolve_path(config.model.path)
    check_model_directory(path)
    if not switches_thinking(path):
        raise ValueError(
            f"the chat template of {path} does not read `enable_thinking`, so thinking on and off would be the same "
            f"prompt; sample with a model that switches, or import rollouts (rollouts.import_on, rollouts.import_off)"
        )


def _sampling_matters(config: RunConfig) -> object:
    return {
        "seed": config.run.seed,
        "model": config.model.model_dump(mode="json", exclude={"path"}),
        "n": config.rollouts.n,
        "decoding": config.rollouts.decoding.model_dump(mode="json"),
        "prompt": config.rollouts.prompt,
        "max_model_len": config.engine.max_model_len,
    }


def _check_import(config: RunConfig) -> None:
    for path in (config.rollouts.import_on, config.rollouts.import_off):
        Directory(resolve_path(path or "")).require("file of imported rollouts")
    check_model_directory(resolve_path(config.model.path))


def _import(context: Context) -> Outcome:
    config = context.config.rollouts
    assert config.import_on and config.import_off
    model = context.config.model
    known = set(_train_questions(context).column("question_id").to_pylist())
    rows_in = 0
    for mode, path in zip(MODES, (config.import_on, config.import_off), strict=True):
        table, rejects = read_rollouts(
            path, mode=mode, name=config.import_name, fields=config.import_fields, model=model, draws=config.n
        )
        table, strangers = _of_questions(table, questions=known)
        rejects += strangers
        context.out.commit(part_name(mode), table, schema=GENERATIONS, rejects=to_table(rejects))
        rows_in += table.num_rows + len(rejects)
    return Outcome(rows_in=rows_in, rows_out=context.out.read(schema=GENERATIONS, columns=["row_id"]).num_rows)


def _of_questions(table: pa.Table, *, questions: set[str]) -> tuple[pa.Table, list[Reject]]:
    """Generations of the train questions, and rejects for the rest (duplicates, questions held out)."""
    ids = zip(table.column("row_id").to_pylist(), table.column("question_id").to_pylist(), strict=True)
    keep, rejects = [], []
    for row_id, question_id in ids:
        keep.append(question_id in questions)
        if question_id not in questions:
            rejects.append(Reject(row_id, "question_not_in_train", "see the rejects of the stage questions"))
    return table.filter(pa.array(keep, pa.bool_())), rejects


def _judge_table(table: pa.Table, *, settings: Candidates, draws: int) -> tuple[pa.Table, list[Reject]]:
    limits = Limits(
        min_segments=settings.min_segments,
        max_segments=settings.max_segments,
        min_thought_tokens=settings.min_thought_tokens,
        max_thought_tokens=settings.max_thought_tokens,
    )
    kept, rejects = judge(
        table.to_pylist(),
        match=settings.match,
        draws=draws,
        limits=limits,
        keep_all_draws=settings.keep_all_draws,
        keep_neutral=settings.keep_neutral,
    )
    return pa.Table.from_pylist(kept, schema=CANDIDATES), rejects


def _candidates(context: Context) -> Outcome:
    config, source = context.config, context.upstream["rollouts"]
    rows = source.read(schema=GENERATIONS, columns=["row_id"]).num_rows
    exchange_parts(
        context,
        partial(_judge_table, settings=config.candidates, draws=config.rollouts.n),
        source=source,
        key="question_id",
        buckets=max(_MIN_BUCKETS, rows // _ROWS_A_BUCKET),
        schema=CANDIDATES,
        upstream_schema=GENERATIONS,
    )
    kept = context.out.read(schema=CANDIDATES)
    if not kept.num_rows:
        raise ValueError(
            "no candidate is left: no question was right in every draw of one mode and wrong in every draw of the "
            f"other, or the length filter dropped all. Reasons: {_reasons(context)}. See candidates.* in the config."
        )
    questions = Counter(_train_questions(context).column("dataset").to_pylist())
    rejects = [Reject(**row) for row in context.out.read_rejects().to_pylist()]
    return Outcome(rows, kept.num_rows, {"funnel": funnel(kept.to_pylist(), rejects, questions)})


def _reasons(context: Context) -> dict[str, int]:
    return dict(Counter(context.out.read_rejects().column("reason").to_pylist()))


ROLLOUTS_STAGE = Stage(
    name="rollouts",
    run=_sample,
    matters=_sampling_matters,
    upstream=("questions",),
    inputs=lambda config: {"model": config.model.path},
    check=check_model,
)

IMPORT_STAGE = Stage(
    name="rollouts",
    run=_import,
    matters=lambda config: {
        "fields": config.rollouts.import_fields.model_dump(),
        "name": config.rollouts.import_name,
        "n": config.rollouts.n,
    },
    upstream=("questions",),
    inputs=lambda config: {
        "on": config.rollouts.import_on or "",
        "off": config.rollouts.import_off or "",
        "model": config.model.path,
    },
    check=_check_import,
)

CANDIDATES_STAGE = Stage(
    name="candidates",
    run=_candidates,
    matters=lambda config: {**config.candidates.model_dump(), "n": config.rollouts.n},
    upstream=("questions", "rollouts"),
)
