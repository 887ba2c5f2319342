"""The size of micro-batches and what is recomputed, chosen by memory (`training.memory`).

An engine before its first step enters; settings in which both stand leave, with what was measured and why. Of the ways
to recompute (nothing, all but attention, all) the first is taken with which the longest sequence fits, for it is the
fastest; then the largest micro-batch. Neither changes the result beyond rounding (method.md §5). All ranks choose the
same: the least memory among them decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mralign.config import Training
from mralign.config.learning import Recomputation
from mralign.training.batches import FORWARD_FACTOR
from mralign.training.engine import World, all_gather
from mralign.training.free_memory import room_bytes
from mralign.training.guards import TrainingStopped
from mralign.training.loop import Task
from mralign.training.pass_memory import PassBytes, bytes_to_come, head_bytes, measured
from mralign.training.policy_checks import longest_bound, longest_example
from mralign.training.recomputation import recompute

_GIB = 2**30
# Of what is free. The rest is for what is not counted: workspaces, fragments, Python.
_SHARE = {True: 0.92, False: 0.8}  # on a GPU and on a CPU
# No larger micro-batch is chosen: a device that is busy has little to gain from it. On a CPU it is the default.
_ENOUGH = {True: 32_768, False: 4096}
_WORDS: dict[Recomputation, str] = {
    False: "nothing recomputed",
    "selective": "all but attention recomputed",
    True: "everything recomputed",
}


@dataclass(frozen=True)
class LongestTokens:
    """Tokens: of the longest example, of the longest sequence of a pass without gradient (0: there are none), of a
    worker's share of an optimizer step at the most."""

    example: int
    forward: int
    share: int


@dataclass(frozen=True)
class MemoryNeed:
    """What micro-batches of one way to recompute take."""

    gradient: PassBytes
    forward: PassBytes
    always: float  # whatever the micro-batch

    def at(self, tokens: int, lengths: LongestTokens) -> float:
        """Bytes at the most, if micro-batches have so many tokens, and a longer sequence goes alone."""
        with_gradient = self.gradient.at(max(tokens, lengths.example), longest=lengths.example)
        if not lengths.forward:
            return self.always + with_gradient
        longest = max(FORWARD_FACTOR * tokens, lengths.forward)
        return self.always + max(with_gradient, self.forward.at(longest, longest=lengths.forward))


@dataclass(frozen=True)
class MemoryChoice:
    """What was chosen, and of what."""

    given: str
    room: float  # bytes
    lengths: LongestTokens
    recomputation: Recomputation
    tokens: int
    need: MemoryNeed

    @property
    def needed(self) -> float:
        return self.need.at(self.tokens, self.lengths)

    def figures(self) -> dict[str, Any]:
        """For the manifest of the stage."""
        return {
            "memory": self.given,
            "room_gib": round(self.room / _GIB, 3),
            "needed_gib": round(self.needed / _GIB, 3),
            "kib_a_token": round(self.need.gradient.token / 2**10, 1),
            "longest_example": self.lengths.example,
            "micro_batch_tokens": self.tokens,
            "gradient_checkpointing": self.recomputation,
        }

    def __str__(self) -> str:
        over = "" if self.needed <= self.room else ", more than there is: training.micro_batch_tokens is given"
        return (
            f"training.memory={self.given}: micro-batches of {self.tokens:,} tokens, {_WORDS[self.recomputation]}, "
            f"take {_gib(self.needed)} of the {_gib(self.room)} GiB that a worker has for them{over} "
            f"({self.need.gradient.token / 2**10:,.1f} KiB a token; longest example: {self.lengths.example:,} tokens)"
        )


def _gib(size: float) -> str:
    return f"{max(size, 0) / _GIB:.2f}"


def settle_memory(engine: Any, task: Task, *, world: World) -> tuple[Task, MemoryChoice | None]:
    """The task with the size of micro-batches and the recomputation that `training.memory` asks for, and the choice;
    the task as it is where nothing is asked. The engine's model is told what to recompute. Call on all ranks.

    Raises TrainingStopped where the longest sequence does not fit.
    """
    settings = task.settings
    if settings.memory is None:
        return task, None
    lengths = _lengths(task, workers=world.size)
    room = room_bytes(settings) * _SHARE[settings.gpu]
    always = head_bytes(engine.module, gpu=settings.gpu) + bytes_to_come(engine, settings, workers=world.size)
    for what in _ways(settings, able=engine.module.causal.supports_gradient_checkpointing):
        if what != settings.recomputation_used:
            recompute(engine.module.model, what)
        need = _need(engine, task, lengths=lengths, always=always)
        least = settings.micro_batch_tokens or 1
        if _on_all_ranks(need.at(least, lengths) <= room):
            break
    if not _on_all_ranks(need.at(1, lengths) <= room):
        raise TrainingStopped(_refused(settings, need, lengths=lengths, room=room, tried=what))
    tokens = settings.micro_batch_tokens or _most_tokens(need, lengths, room=room, gpu=settings.gpu)
    choice = MemoryChoice(str(settings.memory), room, lengths, what, tokens, need)
    chosen = settings.model_copy(update={"micro_batch_tokens": tokens, "gradient_checkpointing": what})
    return replace(task, settings=chosen), choice


def _ways(settings: Training, *, able: bool) -> tuple[Recomputation, ...]:
    """From the fastest to the one that takes the least memory; only the given one if one is given, and the first for
    a model that is not able to recompute."""
    if settings.gradient_checkpointing is not None:
        return (settings.gradient_checkpointing,)
    return (False, "selective", True) if able else (False,)


def _lengths(task: Task, *, workers: int) -> LongestTokens:
    index = task.reader.index
    example = int((index.prompt_tokens_N + index.completion_tokens_N).max())
    forward = longest_bound(task) if task.objective.pairs else 0
    return LongestTokens(example, forward, share=example * math.ceil(task.settings.batch_size / workers))


def _need(engine: Any, task: Task, *, lengths: LongestTokens, always: float) -> MemoryNeed:
    prompt, completion = longest_example(task)
    ids = np.concatenate([prompt, completion])
    longest = max(lengths.example, lengths.forward)
    gradient, forward = measured(engine.module, task.settings, ids, longest=longest)
    return MemoryNeed(gradient, forward, always)


def _on_all_ranks(fits: bool) -> bool:
    return all(all_gather(fits))


def _most_tokens(need: MemoryNeed, lengths: LongestTokens, *, room: float, gpu: bool) -> int:
    """The largest micro-batch that fits on every rank; at least 1, which is one sequence at a time."""
    most = max(1, min(lengths.share, _ENOUGH[gpu]))
    own = largest(lambda tokens: need.at(tokens, lengths) <= room, most=most)
    return int(min(all_gather(own)))


def largest(fits: Callable[[int], bool], *, most: int) -> int:
    """The largest number from 1 to `most` that fits, if whatever is smaller fits too; 0 if 1 does not."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _refused(settings: Training, need: MemoryNeed, *, lengths: LongestTokens, room: float, tried: Recomputation) -> str:
    longest = max(lengths.example, lengths.forward)

    def fits(tokens: int) -> bool:
        shorter = LongestTokens(min(tokens, lengths.example), min(tokens, lengths.forward), lengths.share)
        return need.at(1, shorter) <= room

    most = largest(fits, most=longest)
    shorter = f"; sequences of up to {most:,} tokens fit" if most > 1 else ""
    given = settings.gradient_checkpointing in (False, "selective")
    return (
        f"training.memory={settings.memory} leaves a worker {_gib(room)} GiB for a pass over a "
        f"micro-batch, and the longest sequence ({longest:,} tokens, mismatched pairs included) takes "
        f"{_gib(need.at(1, lengths))} GiB with {_WORDS[tried]}{shorter}. Give a shorter examples.max_length, a larger "
        f"training.memory or more memory, training.zero_stage=3, training.offload=optimizer"
        + (" or training.gradient_checkpointing=true" if given else "")
    )
