"""A measured run that comes with the program: what a plan can go by where nothing was measured yet.

It is the preset `miniworld`: its tiny model on two CPU cores that other work shared. It says something of models of
that size on CPUs, and of nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mralign.config import RunConfig

_TINY = 2_000_000  # parameters


@dataclass(frozen=True)
class ShippedRun:
    """A finished run: its questions, examples and mean tokens of an answer, and the seconds of its stages."""

    source: str
    train: int
    held_out: int
    examples: int
    epochs: int
    answer_tokens: float
    seconds: Mapping[str, float]


SHIPPED = ShippedRun(
    source="a run of the preset miniworld on two shared CPU cores, 2026-11-27",
    train=600,
    held_out=240,
    examples=477,
    epochs=4,
    answer_tokens=36.4,
    seconds={},
)


def shipped_run(config: RunConfig, *, parameters: int | None) -> ShippedRun | None:
    """The shipped run, where it says something of this one."""
    on_gpus = config.training.gpu or config.engine.gpus_per_replica
    return None if parameters is None or parameters > _TINY or on_gpus else SHIPPED
