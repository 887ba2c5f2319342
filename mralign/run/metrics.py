"""What a run shows to those who watch a cluster: figures that Ray hands to Prometheus, each with its unit in its name.

Events of the driver (rows that wait, money, steps of the training) and batches that an actor has committed enter;
metrics of Ray leave, under Ray's prefix: `mralign_rows_total` is scraped as `ray_mralign_rows_total`. Where Ray is not
running nothing is shown and nothing is imported. cluster/monitoring/ holds a dashboard and alert rules for them.

A batch that Ray runs again is counted again: these are figures to watch by, the manifests hold those to quote.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from mralign.run.events import Event, MoneySpent, StageBegan, StageEnded, TrainingStepped, WorkAdvanced, WorkBegan


@dataclass(frozen=True)
class Shown:
    """A metric: its name with the unit, what it tells, and by what it is told apart. One that `adds` only grows."""

    name: str
    tells: str
    tags: tuple[str, ...] = ("stage",)
    adds: bool = False


ROWS = Shown("mralign_rows_total", "Requests that are answered and committed, with rows or rejects.", adds=True)
REJECTS = Shown("mralign_rejects_total", "Rows that were put aside, by reason.", ("stage", "reason"), adds=True)
TOKENS = Shown("mralign_tokens_total", "Tokens of prompts and completions.", ("stage", "kind"), adds=True)
WAITING = Shown("mralign_rows_waiting", "Items of the work under way that are not done yet (rows, parts or steps).")
SPENT = Shown("mralign_spent_money", "Money spent at paid endpoints by this start.", ("stage", "currency"))
RUNNING = Shown("mralign_stage_running", "1 while the stage is under way, 0 once it is sealed.")
STEP = Shown("mralign_training_step", "Optimizer steps that are done.", ())
STEPS = Shown("mralign_training_steps_planned", "Optimizer steps of the whole training.", ())
LOSS = Shown("mralign_training_loss", "Loss of the last optimizer step.", ())
SPEED = Shown("mralign_training_tokens_per_second", "Completion tokens of the last step, a second.", ())
SHOWN = (ROWS, REJECTS, TOKENS, WAITING, SPENT, RUNNING, STEP, STEPS, LOSS, SPEED)

_KINDS = {"prompt_tokens": "prompt", "completion_tokens": "completion"}
_totals: dict[str, int | None] = {}  # by stage, of the work that is under way


def committed(stage: str, *, rows: int, reasons: Iterable[str], tokens: Mapping[str, int]) -> None:
    """An actor has committed a batch: so many requests, the reasons of the rejects among them, tokens by kind."""
    show(ROWS, rows, stage=stage)
    for reason, number in Counter(reasons).items():
        show(REJECTS, number, stage=stage, reason=reason)
    for kind, number in tokens.items():
        show(TOKENS, number, stage=stage, kind=kind)


def tokens_of(values: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The tokens that rows or tallies tell of, by kind; tallies by name are looked into."""
    found: Counter[str] = Counter()
    for value in values:
        for name, told in value.items():
            if isinstance(told, Mapping):
                found.update(tokens_of([told]))
            elif name in _KINDS and told:
                found[_KINDS[name]] += int(told)
    return dict(found)


def hear(event: Event) -> None:
    """Show what an event tells."""
    match event:
        case StageBegan():
            show(RUNNING, 1, stage=event.stage)
        case StageEnded():
            show(RUNNING, 0, stage=event.stage)
            show(WAITING, 0, stage=event.stage)
        case WorkBegan():
            _totals[event.stage] = event.total
            _show_waiting(event.stage, done=event.done)
        case WorkAdvanced():
            _show_waiting(event.stage, done=event.done)
        case MoneySpent():
            show(SPENT, event.spent, stage=event.stage, currency=event.currency)
        case TrainingStepped():
            _show_step(event)


def _show_waiting(stage: str, *, done: int) -> None:
    total = _totals.get(stage)
    if total is not None:
        show(WAITING, total - done, stage=stage)


def _show_step(event: TrainingStepped) -> None:
    show(STEP, event.step)
    if event.of is not None:
        show(STEPS, event.of)
    for metric, name in ((LOSS, "loss"), (SPEED, "tokens_per_s")):
        if name in event.figures:
            show(metric, event.figures[name])


def show(metric: Shown, value: float, **tags: str) -> None:
    """Set a metric, or add to one that `adds`; nothing where Ray is not running."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    made = _made(metric, ray.get_runtime_context().get_job_id())
    if not metric.adds:
        made.set(value, tags=tags)
    elif value > 0:
        made.inc(value, tags=tags)


@cache
def _made(metric: Shown, job: str) -> Any:
    """Ray's object for a metric; one of an earlier Ray of this process is of no use."""
    from ray.util.metrics import Counter as RayCounter
    from ray.util.metrics import Gauge

    kind = RayCounter if metric.adds else Gauge
    return kind(metric.name, description=metric.tells, tag_keys=metric.tags)
