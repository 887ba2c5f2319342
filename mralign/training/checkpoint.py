"""Checkpoints of a training: what makes a killed run go on as if nothing had happened.

An engine and the state of the loop enter a directory and come back from it. DeepSpeed's shards (optimizer included)
belong to a number of workers; the trained weights beside them do not, so another number can begin from those with a
fresh optimizer, if the user says so (`training.resume=adapter`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mralign.config import Training
from mralign.training.engine import World, gathered
from mralign.training.guards import TrainingStopped

WEIGHTS = "weights"  # a PEFT adapter, or the whole model in the training dtype under tuning=full


@dataclass
class State:
    """What a checkpoint must remember besides DeepSpeed's own. `history`: one row a logged step."""

    step: int = 0
    z0: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    reset: list[int] = field(default_factory=list)  # steps after which the optimizer began anew


def save_checkpoint(engine: Any, state: State, directory: Path, *, world: World) -> None:
    """DeepSpeed's shards from every rank; trained weights and state from rank 0. Call on all ranks."""
    engine.save_checkpoint(str(directory / "deepspeed"), exclude_frozen_parameters=True)
    policy = engine.module
    with gathered(policy):
        if world.rank == 0:
            policy.model.save_pretrained(directory / WEIGHTS)
            (directory / "state.json").write_text(json.dumps({**asdict(state), "workers": world.size}))


def read_state(directory: Path) -> tuple[State, int]:
    """The state of a checkpoint, and how many workers wrote it."""
    values = json.loads((directory / "state.json").read_text())
    workers = values.pop("workers")
    return State(**values), workers


def weights_to_start_from(directory: Path, *, settings: Training, world: World) -> Path | None:
    """The trained weights of a checkpoint that this number of workers cannot load whole, or None if it can.

    Raises TrainingStopped for such a checkpoint unless `training.resume` is `adapter`.
    """
    state, workers = read_state(directory)
    if workers == world.size:
        return None
    if settings.resume == "adapter":
        return directory / WEIGHTS
    raise TrainingStopped(
        f"the checkpoint of step {state.step} was written by {workers} workers, now there are {world.size}; ZeRO's "
        f"optimizer state does not fit. Run with training.workers={workers}; or with training.resume=adapter, which "
        f"keeps the trained weights and begins with a fresh optimizer, so that the result is no longer that of an "
        f"undisturbed run; or remove this stage's directory, training/ and its fingerprint, to begin anew"
    )


def load_checkpoint(engine: Any, directory: Path) -> State:
    """Restore engine and state saved by the same number of workers."""
    engine.load_checkpoint(str(directory / "deepspeed"), load_module_strict=False)
    return read_state(directory)[0]
