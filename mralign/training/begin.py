"""How a worker begins: afresh, or where a checkpoint was.

A task and perhaps the directory of a checkpoint enter; a DeepSpeed engine and the state to go on from leave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mralign.training.checkpoint import State, load_checkpoint, read_state, weights_to_start_from
from mralign.training.engine import World, cut_while_loading, start_engine
from mralign.training.guards import TrainingStopped
from mralign.training.loop import Task
from mralign.training.policy import build_policy
from mralign.training.policy_checks import check_policy


def begin(task: Task, *, world: World, checkpoint: Path | None = None) -> tuple[Any, State]:
    """Engine and state: fresh, those of the checkpoint, or its weights alone with a fresh optimizer.

    Raises TrainingStopped for a checkpoint of another number of workers, unless `training.resume` is `adapter`, and for
    a policy whose log-probabilities are not its model's own.
    """

    def engine(weights: Path | None = None) -> Any:
        with cut_while_loading(task.settings, rate=task.rate, world=world):
            policy = build_policy(task.model, task.settings, seed=task.seed, start=weights)
        started = start_engine(policy, task.settings, rate=task.rate, world=world)
        check_engine(started, task)
        return started

    if checkpoint is None:
        return engine(), State()
    weights = weights_to_start_from(checkpoint, settings=task.settings, world=world)
    if weights is None:
        started = engine()
        return started, load_checkpoint(started, checkpoint)
    state, _ = read_state(checkpoint)
    state.reset.append(state.step)
    return engine(weights), state


def check_engine(engine: Any, task: Task) -> None:
    """Raise TrainingStopped for a policy whose log-probabilities are not its model's own. Call on all ranks.

    Where there is a reference, the stage that made it has tried the longest sequence.
    """
    try:
        check_policy(engine, task, beside=not task.objective.reference)
    except ValueError as error:
        raise TrainingStopped(f"this model cannot be trained as it is configured: {error}") from None
