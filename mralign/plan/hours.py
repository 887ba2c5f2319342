"""How long a run will take: a range, from what was measured before, and what nothing was measured of.

Measured is an earlier result in the same run directory; else the shipped run of the embedded world, for a model of its
size on a CPU; else, of a training on a GPU, the share of its peak that a step has reached. What stands on questions
takes as much longer as there are more of them. Nothing else is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mralign.config import RunConfig
from mralign.plan.expected import ExpectedExamples, KnownCounts
from mralign.plan.memory import Shape
from mralign.plan.placing import Planned
from mralign.plan.shipped_run import shipped_run
from mralign.run.changes import newest_result, newest_results

_SPREAD = (0.8, 1.5)  # of a measurement, by other things that the machine does
_AFTER_TEST = ("evidence", "responses", "judgements", "evaluation", "thoughts")  # beginnings of stages on held-out sets


# Of an optimizer step after the first, LoRA on the shape of Qwen3-8B in bfloat16, without and with checkpointing.
_MFU = (0.38, 0.47)
_MFU_SOURCE = "training: 38 to 47 % of the GPU's peak, measured on one H200, 2026-11-26"
_PEAK_FLOPS = 989e12  # of an H100 or H200 in bfloat16


@dataclass
class Hours:
    """Seconds, at least and at most, of the `stages` that are known; the sources of that; the stages that are not."""

    low_s: float = 0.0
    high_s: float = 0.0
    stages: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    by_stage: dict[str, float] = field(default_factory=dict)  # seconds that are most likely

    def add(self, stage: str, low_s: float, high_s: float, *, source: str) -> None:
        """Add the time of a stage."""
        self.stages.append(stage)
        self.by_stage[stage] = (low_s + high_s) / 2
        self.low_s += low_s
        self.high_s += high_s
        if source not in self.sources:
            self.sources.append(source)

    def measured(self, stage: str, seconds: float, *, source: str) -> None:
        """Add the time of a stage that took so long when it was measured."""
        self.add(stage, seconds * _SPREAD[0], seconds * _SPREAD[1], source=source)
        self.by_stage[stage] = seconds


def expected_hours(
    config: RunConfig,
    planned: Sequence[Planned],
    *,
    counts: KnownCounts,
    shape: Shape | None,
    examples: ExpectedExamples,
) -> Hours:
    """The time of all stages that have work."""
    found = Hours()
    earlier = _earlier_questions(planned)
    shipped = shipped_run(config, parameters=shape.parameters if shape else None)
    todo = [item for item in planned if item.manifest is None]
    for item, older in zip(todo, newest_results([item.out for item in todo]), strict=True):
        name = item.stage.name
        if older is not None:
            measured = older[1].seconds * _more(name, counts=counts, train=earlier.train, held_out=earlier.held_out)
            found.measured(name, measured, source="earlier results in this run directory")
        elif shipped is not None and name in shipped.seconds:
            times = _more(name, counts=counts, train=shipped.train, held_out=shipped.held_out)
            epochs = config.training.epochs / shipped.epochs if name == "training" else 1.0
            found.measured(name, shipped.seconds[name] * times * epochs, source=shipped.source)
        elif name == "training" and shape is not None and _on_gpus(config) and counts.train:
            found.add(name, *training_s(config, examples=examples, shape=shape), source=_MFU_SOURCE)
        elif item.stage.workers(config) or item.stage.expects is not None:
            found.unknown.append(name)
        else:
            found.by_stage[name] = 0.0  # it takes seconds
    return found


def _earlier_questions(planned: Sequence[Planned]) -> KnownCounts:
    """Questions of the run whose results lie there."""
    first = planned[0]
    manifest = first.manifest
    if manifest is None:
        older = newest_result(first.out)
        manifest = older[1] if older else None
    figures = manifest.figures if manifest else {}
    return KnownCounts(train=figures.get("train"), held_out=figures.get("test"), examples=None)


def _more(name: str, *, counts: KnownCounts, train: int | None, held_out: int | None) -> float:
    """How many times the questions of the measured run there are."""
    on_held_out = name.startswith(_AFTER_TEST)
    now, then = (counts.held_out, held_out) if on_held_out else (counts.train, train)
    return now / then if now and then else 1.0


def _on_gpus(config: RunConfig) -> bool:
    return config.training.gpu and config.training.dtype == "bfloat16"


def training_s(config: RunConfig, *, examples: ExpectedExamples, shape: Shape) -> tuple[float, float]:
    """Seconds of the training: forward and backward of its tokens, and a forward pass of its mismatched pairs."""
    tokens = examples.number * examples.tokens * config.training.epochs
    passes = 8 if config.training.tuning == "full" else 6  # x parameters x tokens
    seconds = passes * shape.parameters * tokens / (_PEAK_FLOPS * config.training.workers)
    return seconds / _MFU[1], seconds / _MFU[0]
