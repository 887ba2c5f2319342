"""The state of a run as a picture for a terminal of a given width and height.

A `RunProgress` and the time enter; something that rich can draw leaves. Columns that have no room are left out, names
are cut, and stages that are done or still ahead become one line each where the terminal is low.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mralign.cli import amounts
from mralign.cli.progress import RunProgress, StageProgress, Standing
from mralign.run.printable import one_line

_MARKS = {"ahead": "·", "running": "▸", "done": "✓", "skipped": "✓", "stopped": "✗"}
_STYLES = {"ahead": "dim", "running": "bold", "done": "", "skipped": "dim", "stopped": "bold red"}
_WIDE, _MIDDLE = 120, 60  # from these widths on all columns, or most of them, have room


@dataclass(frozen=True)
class _Row:
    """A line of the table: one stage, or several of one standing that have no room."""

    standing: str
    words: str
    stage: StageProgress | None = None


def picture(progress: RunProgress, *, now: float, width: int, height: int | None = None) -> RenderableType:
    """The table and the line below it. `height`: lines that there are; None: as many as it takes."""
    rows = [_Row(stage.standing, stage.words, stage) for stage in progress.stages]
    below = _below(progress, now=now, width=width)
    if height is not None:
        rows = _squeezed(rows, most=max(height - len(below) - 2, 3))
    table = Table.grid(padding=(0, 2 if width >= _WIDE else 1, 0, 0))
    _add_columns(table, width=width)
    for row in rows:
        table.add_row(*_cells(row, now=now, width=width))
    return Group(_title(progress, now=now), table, *below)


def _squeezed(rows: Sequence[_Row], *, most: int) -> list[_Row]:
    """At most `most` rows: those around the stage under way stay, the others become one line before and one after."""
    if len(rows) <= most:
        return list(rows)
    active = next((n for n, row in enumerate(rows) if row.standing in ("running", "ahead", "stopped")), len(rows) - 1)
    shown = most - 2
    first = min(max(active - shown // 2, 0), len(rows) - shown)
    before, within, after = rows[:first], rows[first : first + shown], rows[first + shown :]
    found = list(within)
    if before:
        found.insert(0, _Row("done", f"{_stages(len(before))} done"))
    if after:
        found.append(_Row("ahead", f"{_stages(len(after))} to come"))
    return found


def _stages(number: int) -> str:
    return f"{number} stage" if number == 1 else f"{number} stages"


def _add_columns(table: Table, *, width: int) -> None:
    """Mark and words; then what `_cells` gives for this width."""
    words, others = max(width - 18, 8), 2
    if width >= _MIDDLE:
        words, others = (30, 5) if width >= _WIDE else (26, 3)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=words)
    for _ in range(others):
        table.add_column(no_wrap=True, overflow="ellipsis")


def _cells(row: _Row, *, now: float, width: int) -> list[RenderableType]:
    style = _STYLES[row.standing]
    mark, words = Text(_MARKS[row.standing], style=style), Text(row.words, style=style)
    if row.stage is None:
        return [mark, words]
    if width < _MIDDLE:
        return [mark, words, *_narrow(row.stage, now=now)]
    return [mark, words, *_details(row.stage, now=now, bar=16 if width >= _WIDE else 10, all_of_it=width >= _WIDE)]


def _narrow(stage: StageProgress, *, now: float) -> list[RenderableType]:
    """A percentage (or a count), and the time left or taken."""
    if stage.standing is Standing.RUNNING:
        share = "" if stage.share is None else f"{stage.share:.0%}"
        return [Text(share), Text(_time(stage, now=now, short=True))]
    return [Text(""), Text(_time(stage, now=now, short=True))]


def _details(stage: StageProgress, *, now: float, bar: int, all_of_it: bool) -> list[RenderableType]:
    """Bar, count and time; where there is room, the rate before it, and rejects with money behind it."""
    running = stage.standing is Standing.RUNNING
    drawn: RenderableType = Text("")
    if running and stage.share is not None:
        drawn = ProgressBar(total=1.0, completed=stage.share, width=bar)
    elif running:
        drawn = Text(one_line(stage.what, longest=bar), style="dim")
    cells = [drawn, Text(_counted(stage)), Text(_time(stage, now=now))]
    if all_of_it:
        rate = amounts.rate(stage.rate, unit=stage.unit) if running and stage.rate is not None else ""
        cells[2:2] = [Text(rate)]
        cells.append(Text(_aside(stage)))
    return cells


def _counted(stage: StageProgress) -> str:
    if stage.standing is Standing.RUNNING:
        return amounts.count(stage.done, stage.total) if stage.done or stage.total else ""
    return f"{stage.rows_out:,} rows" if stage.rows_out is not None else ""


def _time(stage: StageProgress, *, now: float, short: bool = False) -> str:
    if stage.standing is Standing.RUNNING:
        left = stage.left_s(now=now)
        if left is None:
            return "" if short else amounts.duration(stage.elapsed_s(now=now))
        return amounts.duration(left) if short else f"{amounts.duration(left)} left"
    if stage.standing is Standing.SKIPPED:
        return "" if short else "done before"
    return "" if stage.seconds is None else amounts.duration(stage.seconds)


def _aside(stage: StageProgress) -> str:
    """Rejects and money of a stage."""
    parts = [f"{stage.rejects:,} rejects"] if stage.rejects else []
    parts += [amounts.money(money.spent, currency=currency) for currency, money in stage.money.items()]
    return ", ".join(parts)


def _title(progress: RunProgress, *, now: float) -> Text:
    name = progress.title or progress.run_dir
    return _line(f"{name}  {amounts.duration(now - progress.began)}", style="bold")


def _below(progress: RunProgress, *, now: float, width: int) -> list[Text]:
    """What stands below the table: details of the stage under way, how far the run is, and what it costs."""
    lines = []
    if progress.running is not None:
        lines += _fitted(_remarks(progress.running, width=width), width=width)
    far = []
    if progress.ended is None:
        left = amounts.time_left(progress.left_s(now=now))
        far += [f"{progress.finished} of {_stages(len(progress.stages))} done", *([f"{left} left"] if left else [])]
    lines += _fitted([*far, *amounts.spent(progress)], width=width)
    return [_line(text, style="dim") for text in lines]


def _remarks(stage: StageProgress, *, width: int) -> list[str]:
    """What is known of the stage under way and has no column."""
    found = []
    if width < _WIDE:
        rate = amounts.rate(stage.rate, unit=stage.unit) if stage.rate is not None else ""
        found += [stage.what, rate, _aside(stage)]
    return [text for text in (*found, *amounts.training_figures(stage)) if text]


def _fitted(parts: Sequence[str], *, width: int) -> list[str]:
    """The parts side by side in as few lines as they fit into."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(part)
    return lines


def _line(text: str, *, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")
