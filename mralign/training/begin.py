"""How a worker begins: afresh, or where a checkpoint was.

A task and perhaps the directory of a checkpoint enter; a DeepSpeed engine and the state to go on from leave.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mralign.training.checkpoint import WEIGHTS, State, load_checkpoint, load_cut_anew, read_state
from mralign.training.engine import World, cut_while_loading, start_engine
from mralign.training.guards import TrainingStopped
from mralign.training.loop import Task
from mralign.training.policy import build_policy
from mralign.training.policy_checks import check_policy


def begin(task: Task, *, world: World, checkpoint: Path | None = None) -> tuple[Any, State]:
    """Engine and state: fresh, or those of the checkpoint, whatever the number of workers that wrote it.

    Raises TrainingStopped for a checkpoint that could run code, and for a policy whose log-probabilities are not its
    model's own.
    """

    def engine(weights: Path | None = None) -> Any:
        with cut_while_loading(task.model, task.settings, rate=task.rate, world=world):
            policy = build_policy(task.model, task.settings, seed=task.seed, start=weights)
        started = start_engine(policy, task.settings, rate=task.rate, world=world)
        check_engine(started, task)
        return started

    if checkpoint is None:
        return engine(), State()
    state, workers = read_state(checkpoint)
    if workers != world.size:
        state.regrouped.append([state.step, workers, world.size])
    if workers == world.size or task.settings.zero_stage == 0:
        started = engine()
        load_checkpoint(started, checkpoint)
        return started, state
    started = engine(checkpoint / WEIGHTS)
    load_cut_anew(started, checkpoint, workers=workers, world=world)
    return started, state


def check_engine(engine: Any, task: Task) -> None:
    """Raise TrainingStopped for a policy whose log-probabilities are not its model's own. Call on all ranks.

    Where this model is the reference too, the stage that scored it has tried the longest sequence.
    """
    tried = task.objective.reference and task.settings.reference is None
    try:
        check_policy(engine, task, beside=not tried)
    except ValueError as error:
        raise TrainingStopped(f"this model cannot be trained as it is configured: {error}") from None
