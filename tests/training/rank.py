"""One rank of a training run: model, output directory, settings as JSON. A program, started by test_worker.py."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tiny_policy import make_examples, make_task

from mralign.training import worker
from mralign.training.worker import State, World, prepare_process, save_checkpoint, start_engine, train

if __name__ == "__main__":
    model, target, changes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if changes.pop("gather_all", False):  # these tensors are so small that ZeRO-3 would keep them whole
        plain = worker.deepspeed_config
        worker.deepspeed_config = lambda settings, *, world: {
            **plain(settings, world=world),
            "zero_optimization": {"stage": settings.zero_stage, "stage3_param_persistence_threshold": 0},
        }
    spoil = changes.pop("spoil_reference", False)
    prepare_process(gpu=False, threads=1)
    world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    task = make_task(model, make_examples(), epochs=3, **changes)
    if spoil:
        wrong = {row: values + np.float32(0.5) for row, values in task.reference.logps.items()}
        task = replace(task, reference=replace(task.reference, logps=wrong))
    engine = start_engine(task, world=world)
    stage = task.settings.zero_stage
    train(
        engine,
        task,
        world=world,
        state=State(),
        save=lambda state: save_checkpoint(engine, state, target, rank=world.rank, zero_stage=stage),
    )
