"""A run as plain lines, for a log and where standard output is no terminal.

Events enter; lines without control characters leave, at a bounded pace: one where a stage begins and one where it
ends, and between them at most one every half minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from mralign.cli import amounts
from mralign.cli.progress import RunProgress, StageProgress
from mralign.run.events import Event, RunBegan, StageBegan, StageEnded, StageSkipped, TrainingStepped, WorkAdvanced
from mralign.run.printable import one_line

EVERY_S = 30.0


class ProgressLines:
    """A listener that hands on lines. `clock` is monotonic, in seconds."""

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.write, self.clock = write, clock
        self.progress = RunProgress()
        self.said = 0.0

    def __call__(self, event: Event) -> None:
        """Hear an event; say a line where it is time for one."""
        now = self.clock()
        self.progress = self.progress.after(event, now=now)
        if isinstance(event, WorkAdvanced | TrainingStepped):
            self._say_between(event.stage, now=now)
        elif line := line_of(event, progress=self.progress):
            self.write(line)
            self.said = now

    def _say_between(self, name: str, *, now: float) -> None:
        if now - self.said < EVERY_S:
            return
        self.said = now
        stage = self.progress.stage(name)
        if stage is not None:
            self.write(line_between(stage, self.progress, now=now))


def line_of(event: Event, *, progress: RunProgress) -> str:
    """The line that an event is worth; empty for one that is told otherwise. `progress`: after the event."""
    match event:
        case RunBegan(title=title) if title:
            return f"{one_line(title)}: {len(event.stages)} stages"
        case StageSkipped():
            return f"{_head(event, progress)}: done before ({event.rows_out} rows), skipped"
        case StageBegan():
            stage = progress.stage(event.stage)
            told = f" ({one_line(stage.words)})" if stage is not None and stage.words != event.stage else ""
            went = f"goes on from {event.kept_parts} committed parts" if event.kept_parts else "starts"
            return f"{_head(event, progress)}: {went}{told}"
        case StageEnded():
            rejects = f", rejects {dict(event.rejects)}" if event.rejects else ""
            rows = f"{event.rows_in} rows in, {event.rows_out} out"
            return one_line(f"{_head(event, progress)}: {rows}{rejects}, {event.seconds:.1f} s")
    return ""


def _head(event: StageSkipped | StageBegan | StageEnded, progress: RunProgress) -> str:
    names = [stage.name for stage in progress.stages]
    place = f"[{names.index(event.stage) + 1}/{len(names)}] " if event.stage in names else ""
    return place + event.stage


def line_between(stage: StageProgress, progress: RunProgress, *, now: float) -> str:
    """Where a stage is: count, rate, time left, rejects, money, figures of the training."""
    parts = [f"{amounts.count(stage.done, stage.total)} {stage.unit}"]
    if stage.rate is not None:
        parts.append(amounts.rate(stage.rate, unit=stage.unit))
    left = stage.left_s(now=now)
    if left is not None:
        parts.append(f"{amounts.duration(left)} left")
    whole = amounts.time_left(progress.left_s(now=now))
    if whole:
        parts.append(f"the run {whole}")
    if stage.rejects:
        parts.append(f"{stage.rejects:,} rejects")
    parts += [*amounts.spent(progress), *amounts.training_figures(stage)]
    what = f", {stage.what}" if stage.what else ""
    return one_line(f"{stage.name}{what}: {', '.join(parts)}")
