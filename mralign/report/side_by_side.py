"""Several runs beside each other: their results, learning curves, costs, and the settings in which they differ.

The findings of two or more runs enter; one view of the page leaves. A method is named after its run, so that equal
names of methods stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from mralign.evaluation.benchmarks import find
from mralign.report import results, sections, wording
from mralign.report.blocks import Block, Curves, Grid, Intervals, MeasuredPoint, Passage, Text, View
from mralign.report.document import RunFindings
from mralign.report.findings import figures, finished, read_history
from mralign.report.results import Metrics

_TONES = 6  # colours for runs in the style sheet
_SHOWN = 100  # characters of a setting


def compared(runs: Sequence[RunFindings]) -> View:
    """The runs side by side."""
    names = run_names(runs)
    metrics = joint_metrics(runs, names=names)
    passages = [
        Passage("runs-result", "Results", list(_results(metrics, names=names)) or None, "no run has an evaluation"),
        Passage("runs-training", "Learning curves", _curves(runs, names=names) or None, "no run has been trained"),
        Passage("runs-stages", "Stages", [_stages(runs, names=names)]),
        Passage("runs-settings", "Settings that differ", [_settings(runs, names=names)]),
    ]
    return View("runs", "Runs compared", passages)


def run_names(runs: Sequence[RunFindings]) -> list[str]:
    """The names of the runs, with a number where two have one name."""
    names = [run.name for run in runs]
    return [f"{name} ({place})" if names.count(name) > 1 else name for place, name in enumerate(names, 1)]


def joint_metrics(runs: Sequence[RunFindings], *, names: Sequence[str]) -> Metrics:
    """{"run: method": {benchmark: figures}} of all runs."""
    found = {}
    for run, name in zip(runs, names, strict=True):
        for method, benchmarks in run.metrics.items():
            found[f"{name}: {method}"] = benchmarks
    return found


def _results(metrics: Metrics, *, names: Sequence[str]) -> Iterator[Block]:
    for benchmark, methods in results.by_benchmark(metrics).items():
        kinds = {found["kind"] for found in methods.values()}
        if len(kinds) > 1:
            yield Text(f"{benchmark}: the runs measure it differently ({', '.join(sorted(kinds))}).")
            continue
        alone = {method: {benchmark: found} for method, found in methods.items()}
        (block,) = results.blocks(alone)
        yield Grid(benchmark, ("Run: method", *(measure.title for measure in find(block.kind).measures)), block.rows)
        for measure, points in results.drawn(benchmark, methods):
            rows = [_estimate(point, names=names) for point in points]
            yield Intervals(f"{measure.title}, %, {benchmark}", "lower" if measure.better < 0 else "higher", rows)


def _estimate(point: tuple[str, float, float, float], *, names: Sequence[str]) -> MeasuredPoint:
    label, share, low, high = point
    run = next(place for place, name in enumerate(names) if label.startswith(f"{name}: "))
    return MeasuredPoint(label, 100 * share, 100 * low, 100 * high, tone_of_run(run))


def tone_of_run(place: int) -> str:
    """The tone of a run by its place; they come again after the sixth."""
    return f"run-{place % _TONES}"


def _curves(runs: Sequence[RunFindings], *, names: Sequence[str]) -> list[Block]:
    """Each learning curve with the lines of all runs."""
    joint: dict[str, list[Curves]] = {}
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        out = finished(run.acts, "training")
        if out is not None:
            for drawn in sections.curves(read_history(out), tone=tone_of_run(place), name=name):
                joint.setdefault(drawn.title, []).append(drawn)
    blocks: list[Block] = []
    for title, several in joint.items():
        series = list(chain.from_iterable(drawn.series for drawn in several))
        blocks.append(Curves(title, several[0].x_title, several[0].y_title, series))
    return blocks


def _stages(runs: Sequence[RunFindings], *, names: Sequence[str]) -> Grid:
    """Rows out and time of each stage, a pair of columns a run; what annotators cost stands below."""
    stages = dict.fromkeys(chain.from_iterable(run.acts for run in runs))
    rows = [(stage, *_stage_cells(runs, stage)) for stage in stages]
    money = [(f"{_money(run):.4g}", "") for run in runs]
    rows.append(("money, annotators", *chain.from_iterable(money)))
    head = ["Stage"]
    for name in names:
        head += [f"{name}: rows out", f"{name}: time"]
    return Grid("Rows and times", head, rows)


def _stage_cells(runs: Sequence[RunFindings], stage: str) -> list[str]:
    """Rows out and time of a stage, run by run."""
    cells: list[str] = []
    for run in runs:
        act = run.acts.get(stage)
        manifest = None if act is None else act.manifest
        if manifest is None:
            cells += [wording.DASH, wording.DASH]
        else:
            cells += [wording.number(manifest.rows_out), wording.duration(manifest.seconds)]
    return cells


def _money(run: RunFindings) -> float:
    annotators = figures(run.acts, "annotation").get("annotators", {})
    return float(sum(counts["money"] for counts in annotators.values()))


def _settings(runs: Sequence[RunFindings], *, names: Sequence[str]) -> Grid:
    told = [settings_of(run.config.model_dump(mode="json")) for run in runs]
    rows = []
    for key in dict.fromkeys(chain.from_iterable(told)):
        values = [settings.get(key, wording.DASH) for settings in told]
        if len(set(values)) > 1:
            rows.append((key, *values))
    return Grid("Settings that differ", ("Setting", *names), rows)


def settings_of(values: Mapping[str, Any], *, above: str = "") -> dict[str, str]:
    """{section.field: value as text}; a long value is cut."""
    found: dict[str, str] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found |= settings_of(value, above=f"{name}.")
        else:
            text = str(value)
            found[name] = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    return found
