"""What stands in the page about the result: headline figures, tables and intervals, beside what a paper published.

Merged metrics and the stages enter; blocks of the page leave. A method of the trained model has the tone `trained`, one
of the untrained model `base`, a published figure `published`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mralign.config import RunConfig
from mralign.evaluation.benchmarks import find, published
from mralign.evaluation.benchmarks.benchmark import Measure, Published
from mralign.report import results, wording
from mralign.report.blocks import Block, Cards, Grid, Intervals, MeasuredPoint, Text
from mralign.report.findings import Act, figures
from mralign.report.results import Figures, Metrics

_BETTER = {1: "higher", -1: "lower", 0: "neither"}


def result(config: RunConfig, *, metrics: Metrics, acts: Mapping[str, Act]) -> list[Block]:
    """The definitions, the headline figures, and for each benchmark its table and its drawings."""
    level = f"{100 * config.evaluation.level:g}"
    explained = " ".join(results.explanations(metrics, settings=config.evaluation))
    blocks: list[Block] = [
        Text(f"{explained} Percent, with {level} % bootstrap intervals over questions."),
        Cards(cards(config, acts=acts, metrics=metrics)),
    ]
    shown = results.by_benchmark(metrics)
    for block in results.blocks(metrics):
        papers = list(_papers(block.benchmark))
        blocks.append(_table(block, papers=papers))
        blocks += _intervals(config, block.benchmark, shown[block.benchmark], papers=papers)
    return blocks


def _papers(benchmark: str) -> Iterator[Published]:
    """The papers that report on a data set of this name."""
    for paper in published():
        if benchmark in paper.figures:
            yield paper


def _table(block: results.ResultBlock, *, papers: Sequence[Published]) -> Grid:
    """The methods of this run, and below them those of papers, with a dash where they tell nothing."""
    rows = list(block.rows)
    own = len(rows)
    for paper in papers:
        rows += _paper_rows(block, paper)
    notes = [f"Published, for scale: {paper.source}, percent; no result of this run." for paper in papers]
    return Grid(block.benchmark, block.head, rows, " ".join(notes), published=tuple(range(own, len(rows))))


def _paper_rows(block: results.ResultBlock, paper: Published) -> Iterator[tuple[str, ...]]:
    found = paper.figures[block.benchmark]
    for place, method in enumerate(paper.methods):
        cells = []
        for measure in find(block.kind).measures:
            figure = found.get(measure.key)
            cells.append(figure[place] if figure else wording.DASH)
        yield (f"{method} (published, {paper.model})", *cells)


def _intervals(
    config: RunConfig, benchmark: str, methods: Mapping[str, Figures], *, papers: Sequence[Published]
) -> list[Block]:
    """A drawing a main figure: the methods of this run with their intervals, then those of papers."""
    drawn: list[Block] = []
    for measure, points in results.drawn(benchmark, methods):
        rows = [_estimate(config, point) for point in points]
        for paper in papers:
            rows += _published_points(measure, paper, benchmark=benchmark)
        title = f"{measure.title}, %, {benchmark}"
        drawn.append(Intervals(title, _BETTER[measure.better], rows))
    return drawn


def _estimate(config: RunConfig, point: tuple[str, float, float, float]) -> MeasuredPoint:
    method, share, low, high = point
    return MeasuredPoint(method, 100 * share, 100 * low, 100 * high, tone_of(config, method))


def tone_of(config: RunConfig, method: str) -> str:
    """trained or base, by the name of a method."""
    return "base" if method.startswith(f"{config.evaluation.label}_") else "trained"


def _published_points(measure: Measure, paper: Published, *, benchmark: str) -> list[MeasuredPoint]:
    found = paper.figures[benchmark].get(measure.key, ())
    points = []
    for method, text in zip(paper.methods, found, strict=False):
        if text != wording.DASH:
            points.append(MeasuredPoint(f"{method} (published)", float(text), None, None, "published"))
    return points


def cards(config: RunConfig, *, acts: Mapping[str, Act], metrics: Metrics) -> list[tuple[str, str, str]]:
    """Headline figures: (name, figure, note)."""
    shown: list[tuple[str, str, str]] = []
    gains = results.gains(metrics, label=config.evaluation.label)
    for gain in (gain for gain in gains if gain.method == gains[0].method):
        place = "" if len(gains) == 1 else f", {gain.benchmark}"
        shown += _gain_cards(gain, metrics=metrics, place=place)
    act = acts.get("candidates")
    if act is not None and act.manifest is not None:
        shown.append(("Trajectories", wording.number(act.manifest.rows_out), "candidates kept"))
    steps: Any = figures(acts, "training").get("steps")
    if steps is not None:
        shown.append(("Training", wording.number(steps), f"optimizer steps, {config.training.method}"))
    return shown


def _gain_cards(gain: results.Gain, *, metrics: Metrics, place: str) -> Iterator[tuple[str, str, str]]:
    for change in gain.changes:
        if change.points is not None:
            measure = change.measure
            now = metrics[gain.method][gain.benchmark][measure.key]
            name = measure.gain if measure.gain == measure.title else f"{measure.gain} ({measure.title})"
            note = f"{wording.signed(change.points)} points against {gain.base}"
            yield f"{name}{place}", f"{wording.percent(now)} %", note
