"""What Ray Train runs on every worker, and the board on which the first one says where it is.

Settings of the stage enter on every worker; checkpoints, metrics and progress leave through Ray. The loop itself is
`loop.py` and knows no Ray.
"""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mralign.training.begin import begin
from mralign.training.checkpoint import State, check_checkpoint, save_checkpoint, seal_checkpoint
from mralign.training.engine import World, prepare_process
from mralign.training.guards import TrainingStopped
from mralign.training.loop import train
from mralign.training.probe import write_probe
from mralign.training.sources import Sources
from mralign.training.trackers import Trackers


class Board:
    """An actor on which rank 0 writes where the training is, for the driver to show."""

    def __init__(self) -> None:
        self.row: dict[str, float] = {}

    def write(self, row: dict[str, float]) -> None:
        self.row = row

    def read(self) -> dict[str, float]:
        return self.row


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

    sources: Sources = given["sources"]
    settings = sources.settings
    prepare_process(settings)
    place = ray.train.get_context()
    world = World(rank=place.get_world_rank(), size=place.get_world_size())
    task = sources.load()
    training = given["out"].fingerprint
    checkpoint = ray.train.get_checkpoint()
    with nullcontext(None) if checkpoint is None else checkpoint.as_directory() as directory:
        if checkpoint is not None and directory is not None:
            check_checkpoint(Path(directory), training=training, name=checkpoint.path)
        engine, state = begin(task, world=world, checkpoint=None if directory is None else Path(directory))
    trackers = Trackers.open(settings, out=given["out"], config=given["config"], active=world.rank == 0)

    def show(row: dict[str, float]) -> None:
        if world.rank == 0:
            given["board"].write.remote(row)  # not waited for: a lost board must not end a training
            trackers.log(row)

    def save(current: State) -> None:
        with tempfile.TemporaryDirectory() as directory:
            save_checkpoint(engine, current, Path(directory), world=world)
            if current.step == len(task.plan):
                write_probe(engine, task, world=world, directory=Path(directory))
            seal_checkpoint(Path(directory), training=training, world=world)
            if world.rank == 0:
                given["out"].write_text("metrics.jsonl", "".join(json.dumps(row) + "\n" for row in current.history))
            trackers.flush()
            kept = ray.train.Checkpoint.from_directory(directory)
            ray.train.report(dict(current.history[-1]) if current.history else {}, checkpoint=kept)

    if state.step and world.rank == 0:
        given["board"].write.remote({"resumed": state.step})
        time.sleep(1.0)  # longer than the driver's glance at the board
    try:
        train(engine, task, world=world, state=state, save=save, log=show)
    finally:
        trackers.close()  # a training that is stopped keeps its curves up to there
