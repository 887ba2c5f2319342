"""The training loop with one worker in this process, for many small trainings in a row.

Sources and settings enter; a directory with the merged model, what lies beside the base's weights, and a probe (a few
examples with the trained policy's log-probabilities, for whoever serves it to check) leaves.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mralign.chat.model_files import copy_companions, model_path
from mralign.config import Training
from mralign.serving.adapter import save_model
from mralign.serving.merging import merge
from mralign.training.begin import check_engine
from mralign.training.checkpoint import State
from mralign.training.engine import World, prepare_process, start_engine
from mralign.training.loop import train
from mralign.training.policy import build_policy
from mralign.training.task_files import Sources
from mralign.training.write_probe import write_probe


def train_alone(sources: Sources, *, settings: Training, target: Path) -> dict[str, Any]:
    """The same loop with one worker in this process; `target` gets the merged model and a probe for its server.

    The reference may have been planned for more epochs than are trained: the plan of an epoch does not depend on their
    number.
    """
    prepare_process(settings)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    task = replace(sources, settings=settings).load()
    policy = build_policy(task.model, settings, seed=task.seed)
    engine = start_engine(policy, settings, rate=task.rate, world=World())
    check_engine(engine, task)
    began = time.monotonic()
    state = train(engine, task, world=World(), state=State(), save=lambda state: None)
    target.mkdir(parents=True, exist_ok=True)
    write_probe(engine, task, world=World(), directory=target)
    save_model(merge(engine.module.model, kind=settings.dtype), target)
    base = model_path(task.model)
    copy_companions(base, target=target, trust_remote_code=task.model.trust_remote_code)
    engine.destroy()
    return {"steps": state.step, "seconds": round(time.monotonic() - began, 1), "last": state.history[-1]}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
