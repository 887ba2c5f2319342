"""The probe: what the trained policy says of a few examples, for whoever serves it to check.

A trained engine enters; `probe.json` leaves, with token ids, the policy's log-probabilities and, where the model before
training is the reference, those of that model: a server that still holds the old one is told from one that is wrong.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mralign.training.batches import layout
from mralign.training.checkpoint import PROBE
from mralign.training.engine import World
from mralign.training.loop import Task

_SIZE = 4


def write_probe(engine: Any, task: Task, *, world: World, directory: Path) -> None:
    """Score a few examples of the plan's first batch on all ranks alike; rank 0 writes the file."""
    places = np.sort(task.plan.batch(0).examples)[:_SIZE]
    rows = []
    was_training = getattr(engine, "module", engine).training
    engine.eval()  # no dropout
    own = task.settings.reference is None  # else pi_ref is another model than the one from before the training
    for example in task.reader.fetch(places):
        with torch.no_grad():
            logp_N = engine(layout(task.settings)([(example.prompt_ids, example.completion_ids)]))
        rows.append(
            {
                "prompt_ids": example.prompt_ids.tolist(),
                "completion_ids": example.completion_ids.tolist(),
                "logps": logp_N.cpu().tolist(),
                "dtype": "4bit" if task.settings.tuning == "qlora" else task.settings.dtype,
                "before": example.reference_T.tolist() if own and example.reference_T is not None else None,
            }
        )
    engine.train(was_training)
    if world.rank == 0:
        (directory / PROBE).write_text(json.dumps(rows))
