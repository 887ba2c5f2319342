"""When memory runs out in a micro-batch all the same: the step once more, with half as many tokens in each.

An engine in the middle of an optimizer step enters; it leaves without gradients, with settings of half the tokens. One
worker begins the step again. Where several wait for each other, or ZeRO-3 or offload has done part of the step, the
worker fails, and all of them go on from the last checkpoint with the smaller micro-batches.
"""

from __future__ import annotations

from typing import Any

import torch

from mralign.config import Training
from mralign.training.engine import World
from mralign.training.guards import TrainingStopped


class MemoryRanOut(RuntimeError):
    """A try of a training that ended so; the next one takes micro-batches of `tokens`."""

    def __init__(self, said: str, *, tokens: int) -> None:
        super().__init__(f"memory ran out ({said}); the next try takes micro-batches of {tokens} tokens")
        self.tokens = tokens


def with_less(engine: Any, settings: Training, *, world: World, shortest: int, most: int, said: str) -> Training:
    """Settings with half the tokens, and the engine ready to begin the step again.

    `shortest`: tokens of the shortest sequence, `most`: what a micro-batch of this batch can have at all. Raises
    TrainingStopped where each sequence goes alone already, and MemoryRanOut where this try must end.
    """
    tokens = min(settings.tokens_used, most)
    if tokens <= shortest:
        raise TrainingStopped(
            f"memory ran out with one sequence in a micro-batch ({said.splitlines()[0]}); give "
            f"training.gradient_checkpointing=true, a smaller examples.max_length, or training.zero_stage=3"
        )
    half = max(1, tokens // 2)
    if world.size > 1 or settings.zero_stage == 3 or settings.offload != "none":
        raise MemoryRanOut(said.splitlines()[0], tokens=half)
    forget_gradients(engine)
    if settings.gpu:
        torch.cuda.empty_cache()
    return settings.model_copy(update={"micro_batch_tokens": half})


def at_most(settings: Training, tokens: int | None) -> Training:
    """The settings with micro-batches of no more than `tokens`, where an earlier try ran out of memory."""
    if tokens is None or settings.tokens_used <= tokens:
        return settings
    return settings.model_copy(update={"micro_batch_tokens": tokens})


def forget_gradients(engine: Any) -> None:
    """Leave an engine of ZeRO 0 to 2 as it is before a step, wherever in a micro-batch it was."""
    for parameter in engine.module.parameters():
        parameter.grad = None
        if hasattr(parameter, "grad_accum"):
            parameter.grad_accum = None
    optimizer = engine.optimizer
    if hasattr(optimizer, "clear_hp_grads"):
        optimizer.clear_hp_grads()  # DeepSpeed's optimizer for ZeRO 1 in bfloat16 adds gradients up in float32
    if not hasattr(optimizer, "ipg_buckets"):
        return
    for bucket in optimizer.ipg_buckets.values():
        bucket.clear()
    optimizer.extra_large_param_to_reduce.clear()
    optimizer.params_already_reduced = [False] * len(optimizer.params_already_reduced)
    for kept in (optimizer.averaged_gradients, optimizer.all_grad_tensors):
        kept.clear()
    optimizer._release_ipg_buffers()
    optimizer.micro_step_id = -1
    optimizer._backward_active_depth = 0
    optimizer.clear_backward_seen_flag()
