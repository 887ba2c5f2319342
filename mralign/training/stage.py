"""Stages `examples`, `reference` and `training`: from annotated candidates to an aligned model.

Candidates and annotations become token ids that know their step; one pass with the base model gives the reference; Ray
Train runs the loop of `worker.py` and its last checkpoint becomes adapter/ and model/. No arithmetic lives here.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import Model, RunConfig, Training, resolve_path
from mralign.engines.adapter import save_merged
from mralign.rejects import Reject
from mralign.schema import ANNOTATIONS, CANDIDATES, EXAMPLES, REFERENCE
from mralign.stage import Context, Outcome, Stage, log, map_parts, progress
from mralign.store import StageDir, part_name
from mralign.training.examples import segment_steps, too_long
from mralign.training.export import upload
from mralign.training.logprobs import TokenLogProbs
from mralign.training.reference import load_model, pairs_to_score, score
from mralign.training.sources import Sources
from mralign.training.tokens import token_offsets, token_steps
from mralign.training.worker import (
    State,
    Task,
    World,
    load_checkpoint,
    prepare_process,
    save_checkpoint,
    start_engine,
    train,
)

_PAIRS_A_PART = 512


def _example_rows(annotated: pa.Table, *, candidates: StageDir, model: Model, max_length: int) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(resolve_path(model.path), trust_remote_code=model.trust_remote_code)
    wanted = {row["row_id"]: row for row in annotated.to_pylist() if row["polarity"] != 0}
    found = candidates.read(schema=CANDIDATES)
    rows, rejects = [], []
    for row in found.filter(pa.array([r in wanted for r in found.column("row_id").to_pylist()])).to_pylist():
        reject = too_long(row, max_length=max_length)
        if reject:
            rejects.append(reject)
            continue
        try:
            offsets = token_offsets(tokenizer, token_ids=row["token_ids"], text=row["text"])
        except ValueError as error:
            rejects.append(Reject(row["row_id"], "tokens_do_not_spell_text", str(error), row["text"]))
            continue
        rows.append(_example_row(row, wanted[row["row_id"]]["steps"], offsets=offsets))
    return pa.Table.from_pylist(rows, schema=EXAMPLES), rejects


def _example_row(row: dict[str, Any], steps: list[dict[str, Any]], *, offsets: list[tuple[int, int]]) -> dict[str, Any]:
    spans = list(zip(row["segment_start"], row["segment_end"], strict=True))
    token_step = token_steps(
        offsets,
        segment_spans=spans,
        segment_steps=segment_steps(steps, segments=len(spans)),
        thought_end=row["thought_end"],
    )
    names = ("row_id", "question_id", "dataset", "polarity", "prompt_token_ids", "token_ids")
    return {**{name: row[name] for name in names}, "token_step": token_step}


def _examples(context: Context) -> Outcome:
    config = context.config
    source = context.upstream["annotation"]
    map_parts(
        context,
        partial(
            _example_rows,
            candidates=context.upstream["candidates"],
            model=config.model,
            max_length=config.examples.max_length,
        ),
        source=source,
        schema=EXAMPLES,
        upstream_schema=ANNOTATIONS,
    )
    rows = context.out.read(schema=EXAMPLES, columns=["polarity", "token_ids"])
    tokens = int(np.sum([len(ids) for ids in rows.column("token_ids").to_pylist()]))
    rows_in = source.read(schema=ANNOTATIONS, columns=["polarity"]).column("polarity").to_numpy()
    sides = rows.column("polarity").to_numpy()
    figures = {"positive": int((sides > 0).sum()), "negative": int((sides < 0).sum()), "completion_tokens": tokens}
    return Outcome(int((rows_in != 0).sum()), rows.num_rows, figures)


class ReferenceScorer:
    """A Ray Data actor: the base model in the training dtype, one committed part a batch of pairs."""

    def __init__(self, *, sources: Sources, out: StageDir) -> None:
        settings, task = sources.settings, sources.load()
        prepare_process(gpu=settings.gpu, threads=settings.threads_per_worker)
        model = load_model(
            task.model_path,
            dtype=settings.dtype,
            adapter=task.adapter,
            trust_remote_code=task.trust_remote_code,
        )
        self.policy = TokenLogProbs(model.cuda() if settings.gpu else model)
        self.rows = {example.row_id: example for example in task.examples}
        self.micro, self.out = settings.micro_batch_size, out

    def __call__(self, batch: pa.Table) -> pa.Table:
        names = list(zip(*(batch.column(c).to_pylist() for c in ("prompt_row", "completion_row")), strict=True))
        rows = []
        for start in range(0, len(names), self.micro):
            chunk = names[start : start + self.micro]
            tokens = [(self.rows[x].prompt_ids, self.rows[y].completion_ids) for x, y in chunk]
            for (x, y), logps in zip(chunk, score(self.policy, tokens, pad_id=0), strict=True):
                total = float(logps.astype(np.float64).sum())
                matched = logps.tolist() if x == y else []
                rows.append({"prompt_row": x, "completion_row": y, "logps": matched, "logp_sum": total})
        table = pa.Table.from_pylist(rows, schema=REFERENCE)
        self.out.commit(batch.column("part")[0].as_py(), table, schema=REFERENCE)
        return pa.table({"pairs": [batch.num_rows]})


def _pair_blocks(task: Task, *, done: set[str]) -> Iterator[pa.Table]:
    """The pairs to score in blocks of similar length, one block a part, committed parts left out."""
    lengths = {e.row_id: len(e.prompt_ids) + len(e.completion_ids) for e in task.examples}
    pairs = pairs_to_score([e.row_id for e in task.examples], task.batches())
    pairs.sort(key=lambda pair: (lengths[pair[1]], pair))
    for number, start in enumerate(range(0, len(pairs), _PAIRS_A_PART)):
        part, block = part_name(f"{number:05d}"), pairs[start : start + _PAIRS_A_PART]
        if part not in done:
            columns = {"prompt_row": [x for x, _ in block], "completion_row": [y for _, y in block]}
            yield pa.table(columns | {"part": [part] * len(block)})


def _reference_stage(context: Context) -> Outcome:
    import ray

    config = context.config
    sources = _sources(context, with_weights=False, with_reference=False)
    task = sources.load()
    blocks = list(_pair_blocks(task, done=set(context.out.parts())))
    if blocks:
        dataset = ray.data.from_arrow(blocks).map_batches(
            ReferenceScorer,
            fn_constructor_kwargs={"sources": sources, "out": context.out},
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=config.training.workers),
            num_cpus=1,
            num_gpus=1 if config.training.gpu else None,
        )
        counts = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
        for _ in progress(counts, total=len(blocks), label=context.out.stage):
            pass
    rows = context.out.read(schema=REFERENCE, columns=["prompt_row", "completion_row"])
    matched = int(pc.sum(pc.equal(rows.column("prompt_row"), rows.column("completion_row"))).as_py())
    figures = {"matched_pairs": matched, "mismatched_pairs": rows.num_rows - matched}
    return Outcome(len(task.examples), rows.num_rows, figures)


def _sources(context: Context, *, with_weights: bool, with_reference: bool) -> Sources:
    config = context.config
    return Sources(
        settings=config.training,
        model=config.model,
        seed=config.run.seed,
        examples=context.upstream["examples"],
        weights=context.upstream["weights"] if with_weights else None,
        reference=context.upstream["reference"] if with_reference else None,
    )


class Board:
    """An actor on which rank 0 writes where the training is, for the driver to show."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}

    def write(self, row: dict[str, float]) -> None:
        self.row = row

    def read(self) -> dict[str, float]:
        return self.row


def show_progress(board: Any, *, stop: threading.Event) -> None:
    """A progress bar of optimizer steps, fed from the board until `stop` is set. A lost board ends the bar only."""
    import ray
    from tqdm import tqdm

    resumed: set[float] = set()
    with tqdm(desc="training", unit="step", mininterval=1.0) as bar:
        stopped = False
        while not stopped:
            stopped = stop.wait(0.5)  # and then one last look
            try:
                row = ray.get(board.read.remote())
            except ray.exceptions.RayError as error:
                log.warning("the progress of training is no longer shown: %s", error)
                return
            if "resumed" in row and row["resumed"] not in resumed:
                resumed.add(row["resumed"])
                log.info("training goes on after step %d", row["resumed"])
            if "of" in row:
                bar.total = int(row["of"])
                bar.update(int(row["step"]) - bar.n)
                bar.set_postfix({k: f"{row[k]:.3f}" for k in ("loss", "margin", "z0") if k in row})


def train_worker(settings: dict[str, Any]) -> None:
    """What Ray Train runs on every worker: resume from its checkpoint, train, report checkpoints."""
    import ray
    import ray.train

    sources: Sources = settings["sources"]
    prepare_process(gpu=sources.settings.gpu, threads=sources.settings.threads_per_worker)
    place = ray.train.get_context()
    world = World(rank=place.get_world_rank(), size=place.get_world_size())
    task = sources.load()
    engine = start_engine(task, world=world)
    state = State()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            state = load_checkpoint(engine, Path(directory))

    def show(row: dict[str, float]) -> None:
        if world.rank == 0:
            settings["board"].write.remote(row)  # not waited for: a lost board must not end a training

    def save(current: State) -> None:
        with tempfile.TemporaryDirectory() as directory:
            zero_stage = sources.settings.zero_stage
            save_checkpoint(engine, current, Path(directory), rank=world.rank, zero_stage=zero_stage)
            kept = ray.train.Checkpoint.from_directory(directory)
            ray.train.report(dict(current.history[-1]), checkpoint=kept)

    if state.step:
        show({"resumed": state.step})
        time.sleep(1.0)  # longer than the driver's glance at the board
    train(engine, task, world=world, state=state, save=save, log=show)


def _train(context: Context) -> Outcome:
    import ray

    config = context.config.training
    sources = _sources(context, with_weights=config.method == "mralign", with_reference=config.method != "sft")
    board = ray.remote(Board).options(num_cpus=0).remote()
    stop = threading.Event()
    shown = threading.Thread(target=show_progress, args=(board,), kwargs={"stop": stop}, daemon=True)
    shown.start()
    try:
        result = _fit(context, sources=sources, board=board)
    finally:
        stop.set()
        shown.join(timeout=5)
    assert result.checkpoint is not None
    with result.checkpoint.as_directory() as directory:
        history = _export(context, Path(directory))
    trained = len(sources.load().examples)
    return Outcome(trained, trained, {"steps": len(history), "last": history[-1]})


def _fit(context: Context, *, sources: Sources, board: Any) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    config = context.config.training
    return TorchTrainer(
        train_worker,
        train_loop_config={"sources": sources, "board": board},
        torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=config.workers, use_gpu=config.gpu, resources_per_worker={"CPU": 1, **_gpu(config)}
        ),
        run_config=ray.train.RunConfig(
            name="ray_train",
            storage_path=context.out.path(),
            storage_filesystem=context.out.filesystem,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
        ),
    ).fit()


def _gpu(config: Training) -> dict[str, float]:
    return {"GPU": 1} if config.gpu else {}


def _export(context: Context, checkpoint: Path) -> list[dict[str, float]]:
    """Write adapter/, model/ and metrics.jsonl; return the history of the steps."""
    model = context.config.model
    history = json.loads((checkpoint / "state.json").read_text())["history"]
    upload(checkpoint / "adapter", out=context.out, name="adapter")
    with tempfile.TemporaryDirectory() as directory:
        save_merged(
            resolve_path(model.path),
            adapters=[*([resolve_path(model.adapter)] if model.adapter else []), str(checkpoint / "adapter")],
            target=Path(directory),
            dtype=model.dtype,
            trust_remote_code=model.trust_remote_code,
        )
        upload(Path(directory), out=context.out, name="model")
    context.out.write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in history))
    return history


def _training_matters(config: RunConfig) -> object:
    return {
        "seed": config.run.seed,
        "model": config.model.matters(),
        **config.training.model_dump(mode="json", exclude={"checkpoint_every", "max_failures", "threads_per_worker"}),
    }


def _plan_matters(config: RunConfig) -> object:
    """What changes the pairs that the reference must hold, and how it is computed."""
    t = config.training
    return {
        "seed": config.run.seed,
        "model": config.model.matters(),
        "plan": [t.epochs, t.batch_size, t.max_steps],
        "dtype": t.dtype,
        "gpu": t.gpu,
    }


EXAMPLES_STAGE = Stage(
    name="examples",
    run=_examples,
    matters=lambda config: config.examples.model_dump(),
    upstream=("candidates", "annotation"),
    inputs=lambda config: config.model.inputs(),
)

REFERENCE_STAGE = Stage(
    name="reference",
    run=_reference_stage,
    matters=_plan_matters,
    upstream=("examples",),
    inputs=lambda config: config.model.inputs(),
)


def training_stage(method: str) -> Stage:
    """The training stage of a method: it stands only on what the method uses."""
    upstream = {"mralign": ("examples", "weights", "reference"), "kto": ("examples", "reference"), "sft": ("examples",)}
    return Stage(
        name="training",
        run=_train,
        matters=_training_matters,
        upstream=upstream[method],
        inputs=lambda config: config.model.inputs(),
    )
