"""The training loop with one worker in this process, for many small trainings in a row.

Sources and settings enter; a directory with the merged model and a probe (a few examples with the trained policy's
log-probabilities, for whoever serves it to check) leaves.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from mralign.config import Training
from mralign.training.logprobs import TokenLogProbs
from mralign.training.reference import score
from mralign.training.sources import Sources
from mralign.training.worker import State, Task, World, prepare_process, start_engine, train


def train_alone(sources: Sources, *, settings: Training, target: Path) -> dict[str, Any]:
    """The same loop with one worker in this process; `target` gets the merged model and a probe for its server.

    The reference may have been planned for more epochs than are trained: the plan of an epoch does not depend on their
    number.
    """
    prepare_process(gpu=settings.gpu, threads=settings.threads_per_worker)
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    task = replace(sources.load(), settings=settings)
    engine = start_engine(task, world=World())
    began = time.monotonic()
    state = train(engine, task, world=World(), state=State(), save=lambda state: None)
    merged = engine.module.model.merge_and_unload()
    merged.save_pretrained(target, safe_serialization=True)
    (target / "probe.json").write_text(json.dumps(_probe(TokenLogProbs(merged), task)))
    engine.destroy()
    return {"steps": state.step, "seconds": round(time.monotonic() - began, 1), "last": state.history[-1]}


def _probe(policy: TokenLogProbs, task: Task, *, size: int = 4) -> list[dict[str, Any]]:
    """A few examples with the trained policy's log-probabilities: what a server of it must reproduce."""
    chosen = task.examples[:: max(1, len(task.examples) // size)][:size]
    logps = score(policy, [(e.prompt_ids, e.completion_ids) for e in chosen], pad_id=0)
    return [
        {"prompt_ids": e.prompt_ids.tolist(), "completion_ids": e.completion_ids.tolist(), "logps": row.tolist()}
        for e, row in zip(chosen, logps, strict=True)
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
