"""What a screen shows of a run, as a value: events and a clock enter, the state of every stage leaves.

`RunProgress.after(event, now=...)` is pure, so that rates, times left and money are tested without a terminal. A rate
begins with the first answer: the start of engines does not count. The time left of the run is that of the stage under
way and what the later stages are expected to take; where that is unknown it is a lower bound. Texts are made harmless
here, for whoever shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mralign.run.events import (
    Event,
    MoneySpent,
    Noted,
    RunBegan,
    RunEnded,
    StageBegan,
    StageEnded,
    StageSkipped,
    TrainingStepped,
    WorkAdvanced,
    WorkBegan,
)
from mralign.run.printable import one_line


class Standing(StrEnum):
    """Where a stage is."""

    AHEAD = "ahead"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"  # an earlier start has done it
    STOPPED = "stopped"


@dataclass(frozen=True)
class StageProgress:
    """What is known of a stage. Times are of the clock that `after` is given."""

    name: str
    words: str
    standing: Standing = Standing.AHEAD
    expected_s: float | None = None
    began: float = 0.0
    seconds: float | None = None  # of a stage that has ended
    rows_out: int | None = None
    kept_parts: int = 0
    what: str = ""
    unit: str = ""
    total: int | None = None
    done: int = 0
    kept: int = 0  # done by earlier starts
    worked_s: float = 0.0
    advanced: float = 0.0  # when the last item came
    rejects: int = 0
    money: Mapping[str, MoneySpent] = field(default_factory=dict)  # by currency
    figures: Mapping[str, float] = field(default_factory=dict)  # of the last optimizer step
    counts_from: tuple[int, float] | None = None  # first step seen, and when

    @property
    def share(self) -> float | None:
        """The share of the items that is done; None where their number is not known."""
        return min(1.0, self.done / self.total) if self.total else None

    @property
    def rate(self) -> float | None:
        """Items a second since the first answer could come; None before one came."""
        fresh = self.done - self.kept
        return fresh / self.worked_s if fresh > 0 and self.worked_s > 0 else None

    def left_s(self, *, now: float) -> float | None:
        """Seconds until the work under way is done; None where that is not known."""
        if self.rate is None or self.total is None:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (now - self.advanced))

    def forecast(self, money: MoneySpent) -> float | None:
        """Money of the whole stage: what was expected before the first answer came, then what the answers cost."""
        fresh = self.done - self.kept
        if self.standing is not Standing.RUNNING:
            return money.spent
        if fresh > 0 and self.total:
            return money.ahead + (money.spent - money.ahead) * (self.total - self.kept) / fresh
        return money.expected

    def elapsed_s(self, *, now: float) -> float:
        """Seconds that it took, or has taken so far."""
        return now - self.began if self.seconds is None else self.seconds


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the run is done; not `whole`: of some stages it is not known, and it takes longer than that."""

    seconds: float
    whole: bool


@dataclass(frozen=True)
class RunProgress:
    """The state of a run."""

    run_dir: str = ""
    title: str = ""
    stages: tuple[StageProgress, ...] = ()
    began: float = 0.0
    ended: RunEnded | None = None

    def after(self, event: Event, *, now: float) -> RunProgress:
        """The state when the event is heard at the time `now`."""
        match event:
            case RunBegan():
                return _begun(event, now=now)
            case RunEnded():
                return replace(self, ended=event, stages=tuple(_halted(stage, now=now) for stage in self.stages))
            case Noted():
                return self
        return self._with(event, now=now)

    def _with(self, event: Event, *, now: float) -> RunProgress:
        name = getattr(event, "stage", "")
        stages = tuple(_stage_after(one, event, now=now) if one.name == name else one for one in self.stages)
        return replace(self, stages=stages)

    def stage(self, name: str) -> StageProgress | None:
        """The stage of that name."""
        return next((stage for stage in self.stages if stage.name == name), None)

    @property
    def running(self) -> StageProgress | None:
        """The stage that is under way."""
        return next((stage for stage in self.stages if stage.standing is Standing.RUNNING), None)

    @property
    def finished(self) -> int:
        """How many stages are done."""
        return sum(stage.standing in (Standing.DONE, Standing.SKIPPED) for stage in self.stages)

    def left_s(self, *, now: float) -> TimeLeft | None:
        """When the run will be done; None where nothing is known."""
        found: list[float | None] = []
        for stage in self.stages:
            if stage.standing is Standing.RUNNING:
                found.append(_left_or_expected(stage, now=now))
            elif stage.standing is Standing.AHEAD:
                found.append(stage.expected_s)
        known = [seconds for seconds in found if seconds is not None]
        return TimeLeft(sum(known), len(known) == len(found)) if known else None

    def money(self) -> dict[str, tuple[float, float | None]]:
        """By currency: what this start has spent, and what it is expected to have spent when the stages that have
        begun are done."""
        total: dict[str, tuple[float, float | None]] = {}
        for stage in self.stages:
            for currency, money in stage.money.items():
                spent, expected = total.get(currency, (0.0, 0.0))
                forecast = stage.forecast(money)
                more = None if expected is None or forecast is None else expected + forecast
                total[currency] = spent + money.spent, more
        return total


def _begun(event: RunBegan, *, now: float) -> RunProgress:
    stages = []
    for ahead in event.stages:
        standing = Standing.SKIPPED if ahead.done else Standing.AHEAD
        words = one_line(ahead.words) or ahead.name
        stages.append(StageProgress(ahead.name, words, standing, ahead.expected_s))
    return RunProgress(one_line(event.run_dir), one_line(event.title), tuple(stages), now)


def _left_or_expected(stage: StageProgress, *, now: float) -> float | None:
    left = stage.left_s(now=now)
    if left is None and stage.expected_s is not None:
        return max(0.0, stage.expected_s - stage.elapsed_s(now=now))
    return left


def _stage_after(stage: StageProgress, event: Event, *, now: float) -> StageProgress:
    match event:
        case StageSkipped():
            return replace(stage, standing=Standing.SKIPPED, rows_out=event.rows_out)
        case StageBegan():
            return replace(stage, standing=Standing.RUNNING, began=now, kept_parts=event.kept_parts)
        case StageEnded():
            rejects = sum(event.rejects.values())
            seconds, rows = event.seconds, event.rows_out
            return replace(stage, standing=Standing.DONE, seconds=seconds, rows_out=rows, rejects=rejects, what="")
        case WorkBegan():
            what, unit = one_line(event.what), one_line(event.unit)
            fresh = replace(stage, what=what, unit=unit, worked_s=0.0, advanced=now, counts_from=None)
            return replace(fresh, total=event.total, done=event.done, kept=event.done)
        case WorkAdvanced():
            worked, rejects = event.worked_s, event.rejects
            return replace(stage, done=event.done, worked_s=worked, advanced=now, rejects=rejects)
        case MoneySpent():
            currency = one_line(event.currency)
            before = stage.money.get(currency)
            told = before.expected if event.expected is None and before is not None else event.expected
            return replace(stage, money={**stage.money, currency: replace(event, expected=told)})
        case TrainingStepped():
            return _stepped(stage, event, now=now)
    return stage


def _stepped(stage: StageProgress, event: TrainingStepped, *, now: float) -> StageProgress:
    """A step counts from the first that was seen: how long that one took is not known here."""
    total = event.of if event.of is not None else stage.total
    first, since = stage.counts_from or (event.step, now)
    return replace(
        stage,
        what="",
        unit="steps",
        total=total,
        done=event.step,
        kept=first,
        worked_s=now - since,
        advanced=now,
        figures=event.figures or stage.figures,
        counts_from=(first, since),
    )


def _halted(stage: StageProgress, *, now: float) -> StageProgress:
    """A stage that was under way when the command ended has stopped."""
    if stage.standing is not Standing.RUNNING:
        return stage
    return replace(stage, standing=Standing.STOPPED, seconds=stage.elapsed_s(now=now))
