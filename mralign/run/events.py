"""What a run tells of itself while it goes on: plain values, and those who listen to them.

The pipeline, the stages, the stream of rows and the training tell events in the driver's process. Screens, lines and
JSON (mralign/cli) listen. Nobody has to: an event that nobody hears costs nothing, and in a worker nobody listens. The
words beside each field are its documentation; docs/events.md holds them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, TypeAlias, TypeVar

T = TypeVar("T")

_listeners: list[Listener] = []
_telling = threading.RLock()  # the training tells from a thread of its own
_APART_S = 0.2  # between two items of a piece of work that are told
_current = [""]  # the stage that is under way


def current_stage() -> str:
    """The name of the stage that is under way; empty between stages."""
    return _current[0]


@contextmanager
def within(stage: str) -> Iterator[None]:
    """While it holds, events (and lines of the log) are of this stage."""
    before, _current[0] = _current[0], stage
    try:
        yield
    finally:
        _current[0] = before


@dataclass(frozen=True, kw_only=True)
class StageAhead:
    """A stage of the plan."""

    name: Annotated[str, "name of the stage, as in the run directory"]
    words: Annotated[str, "what it does, in words"]
    done: Annotated[bool, "whether an earlier start of the command has finished it"]
    expected_s: Annotated[float | None, "seconds that it is expected to take; null: nothing was measured yet"] = None


@dataclass(frozen=True, kw_only=True)
class RunBegan:
    """A run begins; a command with several runs (a table) tells it once for each."""

    run_dir: Annotated[str, "path or URI of the run directory"]
    stages: Annotated[tuple[StageAhead, ...], "the stages of the plan, in order"]
    title: Annotated[str, "which of several runs it is; empty where there is one"] = ""


@dataclass(frozen=True, kw_only=True)
class StageSkipped:
    """A stage was finished by an earlier start."""

    stage: Annotated[str, "name of the stage"]
    rows_out: Annotated[int, "rows of its result"]


@dataclass(frozen=True, kw_only=True)
class StageBegan:
    """A stage begins, or goes on where an earlier start left it."""

    stage: Annotated[str, "name of the stage"]
    kept_parts: Annotated[int, "parts that an earlier start has committed"] = 0


@dataclass(frozen=True, kw_only=True)
class StageEnded:
    """A stage is finished and sealed."""

    stage: Annotated[str, "name of the stage"]
    rows_in: Annotated[int, "rows that it took"]
    rows_out: Annotated[int, "rows of its result"]
    rejects: Annotated[Mapping[str, int], "rows that were put aside, by reason"] = field(default_factory=dict)
    seconds: Annotated[float, "how long this start worked at it"] = 0.0


@dataclass(frozen=True, kw_only=True)
class WorkBegan:
    """A piece of work of a stage begins; its items are counted."""

    what: Annotated[str, "what the work is; empty where the stage has one piece"] = ""
    unit: Annotated[str, "what is counted: rows, parts, groups of parts, blocks, steps"] = "parts"
    total: Annotated[int | None, "how many there are, those that were done before included; null: unknown"] = None
    done: Annotated[int, "how many an earlier start has done"] = 0
    stage: Annotated[str, "name of the stage"] = field(default_factory=current_stage)


@dataclass(frozen=True, kw_only=True)
class WorkAdvanced:
    """Items of the work that began last are done."""

    done: Annotated[int, "how many are done in all"]
    worked_s: Annotated[float, "seconds of work by this start, engines' start left out"]
    rejects: Annotated[int, "rows that this start has put aside so far"] = 0
    stage: Annotated[str, "name of the stage"] = field(default_factory=current_stage)


@dataclass(frozen=True, kw_only=True)
class MoneySpent:
    """What the paid endpoints of a stage have cost so far."""

    spent: Annotated[float, "money spent by this start"]
    before: Annotated[float, "money that earlier starts had spent on the same replies"] = 0.0
    currency: Annotated[str, "name of the money, as http.currency says it"] = ""
    expected: Annotated[float | None, "money that the whole stage is expected to take; null: not known"] = None
    ahead: Annotated[float, "of what this start has spent, what it spent before the stage began (run.overlap)"] = 0.0
    stage: Annotated[str, "name of the stage"] = field(default_factory=current_stage)


@dataclass(frozen=True, kw_only=True)
class TrainingStepped:
    """An optimizer step is done, or (without figures) the training goes on from a checkpoint."""

    step: Annotated[int, "optimizer steps that are done"]
    of: Annotated[int | None, "optimizer steps of the whole training; null: not told yet"] = None
    figures: Annotated[Mapping[str, float], "figures of the step, as in metrics.jsonl"] = field(default_factory=dict)
    stage: Annotated[str, "name of the stage"] = field(default_factory=current_stage)


@dataclass(frozen=True, kw_only=True)
class Noted:
    """A line of the log that the user should see: a warning, or why the run stopped."""

    level: Annotated[str, "INFO, WARNING or ERROR"]
    text: Annotated[str, "the line, without control characters"]
    stage: Annotated[str, "name of the stage; empty between stages"] = field(default_factory=current_stage)


@dataclass(frozen=True, kw_only=True)
class RunEnded:
    """The command is over. It is the last event."""

    status: Annotated[int, "exit status: 0 done, 1 a fault of ours, 2 stopped, 130 interrupted"]
    text: Annotated[str, "where the result is and what to do next, or why it stopped"] = ""
    log: Annotated[str, "path or URI of the log file; empty where no run began"] = ""


Event: TypeAlias = (
    RunBegan
    | StageSkipped
    | StageBegan
    | StageEnded
    | WorkBegan
    | WorkAdvanced
    | MoneySpent
    | TrainingStepped
    | Noted
    | RunEnded
)
Listener: TypeAlias = Callable[[Event], None]


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While it holds, `listener` hears every event of this process, one at a time."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(event: Event) -> None:
    """Let all who listen hear an event."""
    with _telling:
        for listener in tuple(_listeners):
            listener(event)


def counted(items: Iterable[T], *, total: int | None, what: str = "", unit: str = "parts") -> Iterator[T]:
    """The items as they come, told as a piece of work: the first, the last, and a few a second between them."""
    tell(WorkBegan(what=what, unit=unit, total=total))
    began = time.monotonic()
    done, told, said = 0, 0, -_APART_S
    for done, item in enumerate(items, 1):
        worked = time.monotonic() - began
        if worked - said >= _APART_S:
            told, said = done, worked
            tell(WorkAdvanced(done=done, worked_s=worked))
        yield item
    if done > told:
        tell(WorkAdvanced(done=done, worked_s=time.monotonic() - began))
