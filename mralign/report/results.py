"""The result of a run: what each method reached on each benchmark, and what training changed.

Metrics {method: {benchmark: figures}} enter as the evaluation wrote them; rows of text and differences leave. The
`kind` of the figures names the benchmark that knows its measures, and so which columns its table has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mralign.config import Evaluation
from mralign.evaluation.benchmarks import find, registry
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure
from mralign.report.wording import aligned, number, percent, signed, with_interval
from mralign.rows.subjects import Subject, way_of

Figures = Mapping[str, Any]
Metrics = Mapping[str, Mapping[str, Figures]]


@dataclass(frozen=True)
class ResultBlock:
    """The table of one benchmark, a method a row."""

    benchmark: str
    kind: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class MeasuredChange:
    """What training changed in one measure, in points; None where one of the two methods does not have it."""

    measure: Measure
    points: float | None


@dataclass(frozen=True)
class Gain:
    """A method of the trained model minus the same of the untrained one on one benchmark."""

    benchmark: str
    method: str
    base: str
    changes: tuple[MeasuredChange, ...]

    @property
    def text(self) -> str:
        """mralign minus base_think_on: Acc +3.2, Mis −2.7 points."""
        known = [f"{c.measure.title} {signed(c.points)}" for c in self.changes if c.points is not None]
        return f"{self.method} minus {self.base}: {', '.join(known)} points"


def by_benchmark(metrics: Metrics) -> dict[str, dict[str, Figures]]:
    """{benchmark: {method: figures}}, in the order in which they come."""
    found: dict[str, dict[str, Figures]] = {}
    for method, benchmarks in metrics.items():
        for benchmark, figures in benchmarks.items():
            found.setdefault(benchmark, {})[method] = figures
    return found


def kind_of(name: str, methods: Mapping[str, Figures]) -> str:
    """The kind of a benchmark's figures. Raises ValueError for one of which nothing is known, and for several."""
    kinds = sorted({figures["kind"] for figures in methods.values()})
    if len(kinds) > 1 or kinds[0] not in registry():
        raise ValueError(f"benchmark {name!r} has figures of kind {kinds}; allowed is one of {sorted(registry())}")
    return str(kinds[0])


def blocks(metrics: Metrics) -> list[ResultBlock]:
    """One table a benchmark. Rates in percent, with their interval where there is one."""
    found = []
    for name, methods in by_benchmark(metrics).items():
        kind = kind_of(name, methods)
        shown = find(kind).measures
        head = ("Method", *(measure.title for measure in shown))
        rows = tuple((method, *_cells(shown, figures)) for method, figures in methods.items())
        found.append(ResultBlock(name, kind, head, rows))
    return found


def _cells(shown: Iterable[Measure], figures: Figures) -> list[str]:
    return [_cell(measure, figures) for measure in shown]


def _cell(measure: Measure, figures: Figures) -> str:
    value = figures[measure.key]
    if measure.interval:
        return with_interval(value, figures[f"{measure.key}_ci"])
    if measure.unit == "share":
        return percent(value, digits=measure.digits)
    return f"{number(value)} ({figures[measure.note]})" if measure.note else number(value)


def drawn(name: str, methods: Mapping[str, Figures]) -> list[tuple[Measure, list[tuple[str, float, float, float]]]]:
    """(measure, (method, share, low, high) each) of the main figures of a benchmark that have an interval."""
    found = []
    for measure in _on_terminal(find(kind_of(name, methods))):
        if measure.interval:
            points = []
            for method, figures in methods.items():
                if figures[measure.key] is not None:
                    low, high = figures[f"{measure.key}_ci"]
                    points.append((method, figures[measure.key], low, high))
            found.append((measure, points))
    return [(measure, points) for measure, points in found if points]


def _on_terminal(benchmark: Benchmark) -> list[Measure]:
    return [measure for measure in benchmark.measures if measure.terminal]


def gains(metrics: Metrics, *, label: str) -> list[Gain]:
    """What training changed on each benchmark that tells gains, `label` being the untrained model's name in tables.

    A method is compared with the one of the same way of asking; empty where either is missing.
    """
    found = []
    for name, methods in by_benchmark(metrics).items():
        told = [measure for measure in find(kind_of(name, methods)).measures if measure.gain]
        for method, now in methods.items():
            base = Subject.BASE.method(way_of(method), name=label)
            before = methods.get(base)
            if told and before is not None and not method.startswith(f"{label}_"):
                changes = tuple(MeasuredChange(m, _points(now[m.key], before[m.key])) for m in told)
                found.append(Gain(name, method, base, changes))
    return found


def _points(now: float | None, before: float | None) -> float | None:
    return None if now is None or before is None else 100 * (now - before)


def result_text(metrics: Metrics, *, level: float, label: str) -> str:
    """The result for a terminal: a table for each kind of benchmark, and what training changed, see `gains`.

    Where there is but one benchmark it is not named.
    """
    benchmarks = by_benchmark(metrics)
    named = len(benchmarks) > 1
    kinds: dict[str, dict[str, dict[str, Figures]]] = {}
    for name, methods in benchmarks.items():
        kinds.setdefault(kind_of(name, methods), {})[name] = methods
    texts = {kind: _table(found, kind=kind, level=level, named=named) for kind, found in kinds.items()}
    for gain in gains(metrics, label=label):
        kind = kind_of(gain.benchmark, benchmarks[gain.benchmark])
        texts[kind] += f"\n{gain.benchmark}: {gain.text}" if named else f"\n{gain.text}"
    return "\n\n".join(texts.values())


def _table(found: Mapping[str, Mapping[str, Figures]], *, kind: str, level: float, named: bool) -> str:
    shown = _on_terminal(find(kind))
    head = ["method", *(_terminal_title(measure, level=level) for measure in shown), "n"]
    rows = [["benchmark", *head]]
    for benchmark, methods in found.items():
        for method, figures in methods.items():
            rows.append([benchmark, method, *_cells(shown, figures), str(figures["n"])])
    return aligned(rows if named else [row[1:] for row in rows])


def _terminal_title(measure: Measure, *, level: float) -> str:
    interval = f" [{100 * level:g}% CI]" if measure.interval else ""
    return title_with_unit(measure) + interval


def title_with_unit(measure: Measure) -> str:
    """The title of a column, with % where its figures are shares."""
    return f"{measure.title} %" if measure.unit == "share" else measure.title


def explanations(metrics: Metrics, *, settings: Evaluation) -> list[str]:
    """What each kind of benchmark among the results measures, in a sentence or two."""
    kinds = dict.fromkeys(kind_of(name, methods) for name, methods in by_benchmark(metrics).items())
    return [find(kind).explain(settings) for kind in kinds]
