"""What Ray Train runs on every worker and, when one is lost, in its controller.

Settings of the stage enter on every worker; checkpoints, metrics and progress leave through Ray. The loop itself is
`loop.py` and knows no Ray.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from pyarrow import fs

from mralign.run.disk import DiskFull, free, full_disk, no_room, own_temporary_directory
from mralign.run.store import Directory
from mralign.training.begin import begin
from mralign.training.board import Place
from mralign.training.checkpoint import State, check_checkpoint, save_checkpoint, seal_checkpoint
from mralign.training.engine import World, prepare_process
from mralign.training.guards import TrainingStopped
from mralign.training.loop import Task, train
from mralign.training.memory_choice import settle_memory
from mralign.training.out_of_memory import MemoryRanOut, at_most
from mralign.training.task_files import Sources
from mralign.training.trackers import Trackers
from mralign.training.write_probe import write_probe


def train_worker(settings: dict[str, Any]) -> str | None:
    """What Ray Train runs on every worker. Why a training stopped that another try cannot mend, or None: the first
    worker's word is the result's `return_value`, and no failure to try again."""
    try:
        _train_worker(settings)
    except TrainingStopped as stopped:
        return str(stopped)
    return None


def _train_worker(given: dict[str, Any]) -> None:
    """Resume from Ray Train's checkpoint, train, report checkpoints."""
    import ray
    import ray.train

    before = ray.get(given["board"].stopped.remote())
    if before:  # another worker has said so: all of this try end alike
        raise TrainingStopped(before)
    sources: Sources = given["sources"]
    settings = sources.settings
    prepare_process(settings)
    place = ray.train.get_context()
    world = World(rank=place.get_world_rank(), size=place.get_world_size())
    board = given["board"]  # not waited for below: a lost board must not end a training
    board.begun.remote(world.rank, world.size, own_place())
    task = sources.load()
    most = ray.get(board.most_tokens.remote())
    training = given["out"].fingerprint
    checkpoint = ray.train.get_checkpoint()
    with nullcontext(None) if checkpoint is None else checkpoint.as_directory() as directory:
        if checkpoint is not None and directory is not None:
            check_checkpoint(Path(directory), training=training, name=checkpoint.path)
        engine, state = begin(task, world=world, checkpoint=None if directory is None else Path(directory))
    task = within_memory(engine, task, state, world=world, board=board, most=most)
    trackers = Trackers.open(settings, out=given["out"], config=given["config"], active=world.rank == 0)

    def show(row: dict[str, float]) -> None:
        if world.rank == 0:
            board.write.remote(row)
            trackers.log(row)

    def save(current: State) -> None:
        with temporary_checkpoint() as directory, stops_when_full(given, directory=directory, alone=world.size == 1):
            save_checkpoint(engine, current, Path(directory), world=world)
            if current.step == len(task.plan):
                write_probe(engine, task, world=world, directory=Path(directory))
            seal_checkpoint(Path(directory), training=training, world=world)
            if world.rank == 0:
                given["out"].write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in current.history))
            trackers.flush()
            check_room(given["out"], directory=directory)
            kept = ray.train.Checkpoint.from_directory(directory)
            ray.train.report(dict(current.history[-1]) if current.history else {}, checkpoint=kept)
        if world.rank == 0:
            board.kept.remote(current.step)

    if state.step and world.rank == 0:
        board.resumed.remote(state.step, world.size, workers_before(state, workers=world.size))
    try:
        train(engine, task, world=world, state=state, save=save, log=show, warn=board.warn.remote)
    except MemoryRanOut as ended:
        ray.get(board.lessen.remote(ended.tokens))
        raise
    finally:
        trackers.close()  # a training that is stopped keeps its curves up to there


def within_memory(engine: Any, task: Task, state: State, *, world: World, board: Any, most: int | None) -> Task:
    """The task with the micro-batches that `training.memory` chooses, of no more than `most` tokens where an earlier
    try ran out of memory; the state and the board are told."""
    task, choice = settle_memory(engine, task, world=world)
    state.memory = choice.figures() if choice else {}
    if choice and world.rank == 0:
        board.tell.remote(str(choice))
    if most is None:
        return task
    task = replace(task, settings=at_most(task.settings, most))
    state.memory["micro_batch_tokens"] = task.settings.tokens_used
    return task


def workers_before(state: State, *, workers: int) -> int:
    """How many workers had come to the step from which `workers` go on now."""
    step, before, _ = state.regrouped[-1] if state.regrouped else (0, workers, workers)
    return before if step == state.step else workers


def own_place() -> Place:
    """Where this process runs."""
    import ray
    import ray.util

    node = ray.get_runtime_context().get_node_id()
    return Place(node=node, host=socket.gethostname(), address=ray.util.get_node_ip_address())


def teller_of_losses(board: Any) -> Any:
    """What Ray Train's controller calls when workers have failed: it puts that on the board."""
    import ray.train

    class TellerOfLosses(ray.train.UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            board.lost.remote({rank: str(error) for rank, error in worker_exceptions.items()})

    return TellerOfLosses()


_MARGIN = 8 * 2**20  # bytes beside a checkpoint: what Ray Train and the trackers note at the same time


@contextmanager
def temporary_checkpoint() -> Iterator[str]:
    """A directory of this process for one checkpoint; those of workers that were killed while writing are removed."""
    directory = own_temporary_directory("checkpoint")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_room(out: Directory, *, directory: str) -> None:
    """Raise DiskFull if the checkpoint in `directory` does not fit where the run lives: a copy that breaks off would
    leave half a checkpoint behind."""
    if not isinstance(out.filesystem, fs.LocalFileSystem):
        return
    size = sum(file.stat().st_size for file in Path(directory).rglob("*") if file.is_file())
    if free(out.path()) < size + _MARGIN:
        raise DiskFull(no_room(out.path(), size=size))


@contextmanager
def stops_when_full(given: dict[str, Any], *, directory: str, alone: bool) -> Iterator[None]:
    """Make a full disk the end of the training, with its reason, and no failure to be tried again.

    One worker of several raises what it got, so that Ray ends the others, which wait for it; the next try reads the
    reason on the board.
    """
    import ray

    try:
        yield
    except Exception as error:
        out = given["out"]
        local = [out.path()] if isinstance(out.filesystem, fs.LocalFileSystem) else []
        reason = full_disk(error, places=[directory, *local])
        if reason is None:
            raise
        if alone:
            raise TrainingStopped(reason) from error
        ray.get(given["board"].stop.remote(reason))
        raise
