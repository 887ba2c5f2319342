"""Stages `examples`, `reference` and `training`: from annotated candidates to an aligned model.

Candidates and annotations become token ids that know their step; one pass with the base model gives the reference; Ray
Train runs the loop of `loop.py` and its last checkpoint becomes adapter/ and model/. No arithmetic lives here.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig, Training, named
from mralign.config.run import check_datasets, chosen_datasets
from mralign.rows.schema import ANNOTATIONS, EXAMPLES, REFERENCE
from mralign.run.disk import full_disk
from mralign.run.events import TrainingStepped, WorkBegan, counted
from mralign.run.events import tell as tell_event
from mralign.run.faults import carried
from mralign.run.filesystems import for_copies
from mralign.run.part_names import part_name
from mralign.run.placement import DEALING, Workers, alive_nodes, bundle, node_ids, pool_arguments, this_node
from mralign.run.room import shortages
from mralign.run.stage import Context, Outcome, Stage, log, map_parts, reduce_tasks
from mralign.run.starts import starting
from mralign.run.store import StageDir, absolute, ahead
from mralign.training.annotated import ANNOTATED, Annotated
from mralign.training.board import Board, Lost, Resumed, Told
from mralign.training.checkpoint import check_checkpoint, read_state
from mralign.training.engine import prepare_process
from mralign.training.examples import example_rows, of_datasets
from mralign.training.export import export, hub_token, keep_trained, local_directory, trained_before
from mralign.training.guards import TrainingStopped, class_balance
from mralign.training.index import index_rows, index_totals, read_index
from mralign.training.kept_checkpoints import RAY_TRAIN, local_places, tidy
from mralign.training.modules import of_run, tell, warning
from mralign.training.objectives import find, source_digest, unread
from mralign.training.objectives.objective import Objective
from mralign.training.policy import base_policy
from mralign.training.policy_checks import check_policy
from mralign.training.reference import Block, blocks, model_mark, put_on_shelf, shelf_dir
from mralign.training.reference_model import OPTIMIZER, check_reference, reference_model, reference_reads, to_score
from mralign.training.rehearsal import lacking_room, rehearse
from mralign.training.requirements import worker_faults
from mralign.training.rope import check_positions
from mralign.training.task_files import Sources, check_shelf, local_model
from mralign.training.worker import teller_of_losses, train_worker

_PARTS_OF_A_TASK = 64  # whose scalars one remote task reads for the index
_NODE_IS_GIVEN_UP_S = 45  # Ray gives up a silent node after some 30


def objective(config: RunConfig) -> Objective:
    """What the run trains. Raises ValueError for an unknown name."""
    return find(config.training.method)


def _examples(context: Context) -> Outcome:
    """A part for each of the annotation, and the index of them all."""
    config, out = context.config, context.out
    source, datasets = context.upstream["annotation"], chosen_datasets(context.config)
    joined = Annotated(source.uri, source.stage, source.fingerprint, context.upstream["candidates"])
    function = partial(example_rows, model=config.model, max_length=config.examples.max_length, datasets=datasets)
    map_parts(context, function, source=joined, schema=EXAMPLES, upstream_schema=ANNOTATED)
    parts = list(enumerate(out.parts()))
    groups = [parts[i : i + _PARTS_OF_A_TASK] for i in range(0, len(parts), _PARTS_OF_A_TASK)]
    figures = reduce_tasks(index_rows, [(out, group) for group in groups], into=index_totals, given=(out,))
    rows_in = sum(ahead(partial(_decided, source, datasets=datasets), source.parts()))
    return Outcome(rows_in, figures["positive"] + figures["negative"], figures)


def _decided(source: StageDir, part: str, *, datasets: Sequence[str]) -> int:
    """Annotated rows of the part that are positive or negative, of the chosen data sets."""
    rows = source.read_parts([part], schema=ANNOTATIONS, columns=["dataset", "polarity"])
    return int((of_datasets(rows, datasets=datasets).column("polarity").to_numpy() != 0).sum())


class ReferenceScorer:
    """A Ray Data actor: the base model in the training dtype. It puts each block that is not there on the shelf.

    A model that must not be trained so is a reason in the result, no exception: Ray would only start the actor again.
    """

    def __init__(self, *, sources: Sources, shelf: StageDir) -> None:
        with starting(f"the reference model {sources.model.path}"):
            self.task, self.shelf, self.refused = sources.load(), shelf, ""
            settings = self.task.settings
            prepare_process(settings)
            try:
                self.policy = base_policy(self.task.model, settings)
                check_policy(self.policy, self.task)
            except ValueError as error:
                self.refused = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self.refused:
            return pa.table({"blocks": [0], "refused": [self.refused]})
        for row in batch.to_pylist():
            task = self.task
            put_on_shelf(
                self.shelf, self.policy, Block(**row), reader=task.reader, plan=task.plan, settings=task.settings
            )
        return pa.table({"blocks": [batch.num_rows], "refused": [""]})


def _reference(context: Context) -> Outcome:
    """Every block of the plan on the shelf, and where it lies."""
    config: RunConfig = context.config
    shelf = shelf_dir(absolute(config.run.dir))
    model = to_score(config)
    sources = Sources(config.training, local_model(model), config.run.seed, context.upstream["examples"])
    task = sources.load()
    wanted = list(blocks(task.reader, task.plan, mark=model_mark(model, config.training)))
    there = set(shelf.parts())
    # Where pairs are fixed every epoch wants the same blocks: each is scored once.
    missing = list({block.address: block for block in wanted if block.address not in there}.values())
    log.info("reference: %d blocks, %d of them to score", len(wanted), len(missing))
    for _ in counted(_score(missing, sources=sources, shelf=shelf), total=len(missing), unit="blocks"):
        pass
    table = pa.Table.from_pylist([asdict(block) for block in wanted], schema=REFERENCE)
    context.out.commit(part_name("all"), table, schema=REFERENCE)
    pairs = Counter({"matched": 0, "pairs": 0})
    for block in wanted:
        pairs[block.kind] += block.rows
    figures = {"matched_pairs": pairs["matched"], "mismatched_pairs": pairs["pairs"], "blocks_scored": len(missing)}
    return Outcome(len(task.reader.index), sum(pairs.values()), figures)


def _score(missing: Sequence[Block], *, sources: Sources, shelf: StageDir) -> Iterator[int]:
    """One item a block that has been put on the shelf. Raises ValueError for a model that must not be trained so."""
    import ray

    if not missing:
        return
    workers = _reference_workers(sources.settings)
    rows = [asdict(block) for block in missing]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), 1000)).map_batches(
        ReferenceScorer,
        fn_constructor_kwargs={"sources": sources, "shelf": shelf},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=workers.least, max_size=workers.most),
        **pool_arguments(workers),
    )
    scored: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    for batch in scored:
        refused = "".join(batch.column("refused").to_pylist()[:1])
        if refused:
            raise ValueError(f"model {sources.model.path} cannot be trained as it is configured: {refused}")
        yield from batch.column("blocks").to_pylist()


def show_progress(board: Any, *, workers: Workers, stop: threading.Event) -> None:
    """Tell each optimizer step of the board and what happens to the `workers`, until `stop` is set or it is lost."""
    import ray

    told: dict[str, float] = {}
    unsure: list[tuple[Lost, float]] = []  # whether their nodes are gone, Ray may know a while later
    stopped = False
    while not stopped:
        stopped = stop.wait(0.5)  # and then one last look
        try:
            row, news = ray.get(board.read.remote())
        except ray.exceptions.RayError as error:
            log.warning("the progress of training is no longer shown: %s", carried(error))
            return
        for item in news:
            if isinstance(item, Resumed | Told):
                log.log(item.level, "%s", item)
            if isinstance(item, Resumed):
                tell_event(TrainingStepped(step=item.step))
            elif isinstance(item, Lost) and not _tell_lost(item, workers=workers):
                unsure.append((item, time.monotonic() + _NODE_IS_GIVEN_UP_S))
        unsure = [(lost, until) for lost, until in unsure if _still_unsure(lost, workers=workers, until=until)]
        if row and row != told:
            figures = {name: float(value) for name, value in row.items() if name not in ("step", "of")}
            tell_event(TrainingStepped(step=int(row["step"]), of=int(row["of"]), figures=figures))
        told = row


def _tell_lost(lost: Lost, *, workers: Workers) -> bool:
    """Say who was lost; whether that is a node, as far as Ray knows now."""
    alive = node_ids()
    log.warning("%s", lost.sentence(alive=alive, lacks=shortages([workers], nodes=alive_nodes())))
    return bool(lost.gone(alive=alive))


def _still_unsure(lost: Lost, *, workers: Workers, until: float) -> bool:
    """Say it if Ray has noticed in the meantime that a node is gone; else look again, until that time."""
    if lost.gone(alive=node_ids()):
        _tell_lost(lost, workers=workers)
        return False
    return time.monotonic() < until


def _train(context: Context) -> Outcome:
    """Train, unless that is finished already, and write what comes of it."""
    with trained_before(context.out) as found:
        if found is not None:
            log.info("training: finished before; its adapter is kept, what is missing is written")
            checkpoint, figures = found
            _export(context, checkpoint, figures=figures)
            return Outcome(figures["examples"], figures["examples"], figures)
    return _train_anew(context)


def _train_anew(context: Context) -> Outcome:
    import ray
    import ray.train

    config = context.config
    wanted = objective(config)
    sources = Sources(
        settings=config.training,
        model=local_model(config.model),
        seed=config.run.seed,
        examples=context.upstream["examples"],
        weights=context.upstream["weights"] if wanted.weights else None,
        reference=context.upstream["reference"] if wanted.reference else None,
        shelf=shelf_dir(absolute(config.run.dir)),
    )
    sides = read_index(sources.examples, negatives=wanted.negatives).polarity_N
    warning = class_balance(int((sides > 0).sum()), int((sides < 0).sum()), settings=config.training, objective=wanted)
    if warning:
        log.warning("%s", warning)
    check_shelf(sources)
    tell_event(WorkBegan(what="rehearsing the end"))
    rehearse(
        config,
        figures={"workers": config.training.workers, "class_balance": warning},
        fingerprint=context.out.fingerprint,
    )
    board: Any = ray.remote(Board).options(num_cpus=0, scheduling_strategy=this_node()).remote()
    stop = threading.Event()
    given = {"workers": _training_workers(config.training), "stop": stop}
    shown = threading.Thread(target=show_progress, args=(board,), kwargs=given, daemon=True)
    shown.start()
    tidy(context.out)
    tell_event(WorkBegan(what="starting workers", unit="steps"))
    try:
        result = _fit(context, sources=sources, board=board)
    except ray.train.TrainingFailedError as error:
        reason = ray.get(board.stopped.remote()) or full_disk(error, places=local_places(context.out))
        if not reason:
            raise
        tidy(context.out)
        raise TrainingStopped(reason) from error
    finally:
        stop.set()
        shown.join(timeout=5)
    if result.return_value is not None:
        tidy(context.out)
        raise TrainingStopped(result.return_value)
    assert result.checkpoint is not None
    with local_directory(result.checkpoint.filesystem, result.checkpoint.path) as directory:
        check_checkpoint(directory, training=context.out.fingerprint, name=result.checkpoint.path)
        state, workers = read_state(directory)
        figures = {"steps": state.step, "workers": workers, "workers_changed": state.regrouped}
        noted = {"memory": state.memory} if state.memory else {}
        figures |= {"last": state.history[-1], "class_balance": warning, "examples": len(sides), **noted}
        keep_trained(context, directory, figures=figures, name=Path(result.checkpoint.path).name)
        _export(context, directory, figures=figures)
    return Outcome(len(sides), len(sides), figures)


def _export(context: Context, checkpoint: Path, *, figures: dict[str, Any]) -> None:
    tell_event(WorkBegan(what="writing the model"))
    export(context, checkpoint, figures=figures)


def _reference_workers(training: Training) -> Workers:
    """The actors that score the reference, as many as there is room for."""
    return Workers("models for the reference", "training.gpu", gpus=int(training.gpu), most=training.workers)


def _training_workers(training: Training) -> Workers:
    """The workers of Ray Train: it begins when there is room for the least, and takes more as they come."""
    least, most = training.fewest_workers, training.workers
    setting = "training.workers" if training.min_workers is None else "training.min_workers"
    return Workers(
        "training workers",
        f"{setting}, training.gpu",
        gpus=int(training.gpu),
        least=least,
        most=most,
        elastic=least < most,
    )


def _fit(context: Context, *, sources: Sources, board: Any) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    config = context.config.training
    given = {"sources": sources, "board": board, "out": context.out, "config": context.config.model_dump(mode="json")}
    function: Any = train_worker
    return TorchTrainer(
        function,
        train_loop_config=given,
        torch_config=TorchConfig(backend="nccl" if config.gpu else "gloo"),
        scaling_config=scaling(config),
        run_config=ray.train.RunConfig(
            name=RAY_TRAIN,
            storage_path=context.out.path(),
            storage_filesystem=for_copies(context.out.filesystem),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            failure_config=ray.train.FailureConfig(max_failures=config.max_failures),
            callbacks=[teller_of_losses(board)],
        ),
    ).fit()


def scaling(config: Training) -> Any:
    """What Ray Train is asked for: a bundle a worker, and between which numbers it may choose."""
    import ray.train

    asked = _training_workers(config)
    number: Any = (asked.least, asked.most) if asked.elastic else asked.most
    return ray.train.ScalingConfig(num_workers=number, use_gpu=config.gpu, resources_per_worker=bundle(asked))


def _training_reads(wanted: Objective, config: RunConfig) -> dict[str, Any]:
    """What an objective does not read is left at its default: changing it trains nothing anew."""
    fields = Training.model_fields
    unused = {name: fields[name].default for name in unread(wanted, config.training)}
    settings = config.training.resolved.model_copy(update=unused)
    return {"training": settings, **named(config, "model", "run.seed")}


def _check(config: RunConfig) -> None:
    """Raise ValueError for a missing token and for what the model's configuration forbids."""
    if config.training.push_to:
        hub_token(config)
    check_positions(config)
    found = of_run(config)
    left_out = None if found is None else warning(found)
    if left_out:
        log.warning("%s", left_out)


EXAMPLES_STAGE = Stage(
    name="examples",
    words="writing training examples",
    run=_examples,
    reads=lambda config: {"examples": config.examples, "training.datasets": chosen_datasets(config)},
    upstream=("candidates", "annotation"),
    inputs=lambda config: config.model.inputs(),
    check=check_datasets,
    version=3,
)

REFERENCE_STAGE = Stage(
    name="reference",
    words="scoring with the untrained model",
    run=_reference,
    reads=lambda config: reference_reads(config, paired=objective(config).pairs),
    ignores=(*OPTIMIZER, "training.datasets"),  # the stage `examples` has made the choice
    code=lambda config: {"choice of examples": objective(config).negatives},
    upstream=("examples",),
    inputs=lambda config: reference_model(config).inputs(),
    check=check_reference,
    workers=lambda config: (_reference_workers(config.training), DEALING),
    faults=worker_faults,
    version=3,
)


def training_stage(wanted: Objective) -> Stage:
    """The training stage of an objective: it stands only on what the objective uses."""
    extra = [name for name, needed in (("weights", wanted.weights), ("reference", wanted.reference)) if needed]
    return Stage(
        name="training",
        words="training",
        run=_train,
        reads=partial(_training_reads, wanted),
        ignores=("training.datasets",),
        code=lambda config: {"objective": source_digest(config.training.method)},
        upstream=("examples", *extra),
        inputs=lambda config: config.model.inputs(),
        check=_check,
        lacks=lacking_room,
        workers=lambda config: (_training_workers(config.training),),
        faults=worker_faults,
        tell=tell,
        version=2,
    )
