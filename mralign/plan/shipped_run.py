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
    """A finished run: its questions and examples, the mean tokens of a prompt and of an answer with thinking
    and without, and the seconds of its stages."""

    source: str
    train: int
    held_out: int
    examples: int
    epochs: int
    prompt_tokens: float
    thinking_tokens: float
    silent_tokens: float
    seconds: Mapping[str, float]


SHIPPED = ShippedRun(
    source="a run of the preset miniworld on two shared CPU cores, 2026-11-27",
    train=600,
    held_out=240,
    examples=477,
    epochs=4,
    prompt_tokens=11.4,
    thinking_tokens=70.7,
    silent_tokens=2.0,
    seconds={
        "questions": 4.11,
        "rollouts": 23.29,
        "candidates": 0.14,
        "annotation": 2.36,
        "counts": 0.05,
        "matrices": 2.56,
        "weights": 0.07,
        "signal": 1.6,
        "annotator_matrices": 0.07,
        "agreement": 0.04,
        "examples": 5.34,
        "reference": 10.15,
        "training": 60.06,
        "responses_base": 24.32,
        "evaluation_base": 0.1,
        "responses": 7.79,
        "evaluation": 0.08,
        "thoughts_base": 3.82,
        "thoughts_annotation_base": 1.96,
        "thoughts_counts_base": 0.74,
        "thoughts_matrices_base": 0.08,
        "thoughts": 0.26,
        "thoughts_annotation": 0.25,
        "thoughts_counts": 0.06,
        "thoughts_matrices": 0.06,
    },
)


def shipped_run(config: RunConfig, *, parameters: int | None) -> ShippedRun | None:
    """The shipped run, where it says something of this one."""
    on_gpus = config.training.gpu or config.engine.gpus_per_replica
    return None if parameters is None or parameters > _TINY or on_gpus else SHIPPED
