"""The result of a run as tables for a paper: JSON, Markdown, LaTeX, and text for a terminal.

Metrics {method: {benchmark: figures}} and paired comparisons enter; `table.json`, `table.md` and `table.tex` leave. The
figures stay shares in the JSON; elsewhere they are percent with one decimal. A column is a benchmark's measure, and its
best value is bold: the best as it is printed, so that what reads equal is marked equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from mralign.evaluation.benchmarks import find, measures, published
from mralign.evaluation.benchmarks.benchmark import Measure
from mralign.report.results import Figures, Metrics, by_benchmark, kind_of, title_with_unit
from mralign.report.sheets import Cell, Sheet, to_latex, to_markdown
from mralign.report.wording import DASH, percent, signed
from mralign.run.store import Directory


@dataclass(frozen=True)
class Column:
    """A measure of a benchmark."""

    benchmark: str
    measure: Measure


@dataclass(frozen=True)
class Value:
    """A figure as it is (a share, or a number of claims; None where there is none) and as it is printed."""

    value: float | None
    interval: tuple[float, float] | None
    text: str
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A method, one value a column."""

    method: str
    values: tuple[Value, ...]
    published: bool = False


@dataclass(frozen=True)
class ResultTable:
    """Methods by columns."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def result_table(metrics: Metrics, *, with_published: bool = False) -> ResultTable:
    """The table of `metrics`, methods and benchmarks in their order; the published figures as rows below.

    Published figures (method.md §6, of Qwen3-8B) are to look at: they are never the best of a column.
    """
    columns = tuple(_columns(metrics))
    rows = _marked([_row(method, metrics[method], columns=columns) for method in metrics], columns=columns)
    return ResultTable(columns, (*rows, *(_published_rows(columns) if with_published else ())))


def _columns(metrics: Metrics) -> Iterator[Column]:
    for name, methods in by_benchmark(metrics).items():
        for measure in find(kind_of(name, methods)).measures:
            if measure.table:
                yield Column(name, _with_parameter(measure, list(methods.values())))


def _with_parameter(measure: Measure, several: Sequence[Figures]) -> Measure:
    """The measure with its parameter (K of F1@K) in its title, where all methods have the same."""
    values = {figures.get(measure.parameter) for figures in several}
    if len(values) > 1 or None in values:
        return measure
    return replace(measure, title=measure.title.replace("K", f"{values.pop():g}"))


def _row(method: str, benchmarks: Mapping[str, Mapping[str, Any]], *, columns: Sequence[Column]) -> Row:
    return Row(method, tuple(_value(benchmarks.get(c.benchmark, {}), measure=c.measure) for c in columns))


def _value(figures: Mapping[str, Any], *, measure: Measure) -> Value:
    value, interval = figures.get(measure.key), figures.get(f"{measure.key}_ci")
    return Value(value, None if interval is None else (interval[0], interval[1]), _printed(value, measure=measure))


def _printed(value: float | None, *, measure: Measure) -> str:
    if value is None:
        return DASH
    return percent(value, digits=measure.digits) if measure.unit == "share" else f"{value:.{measure.digits}f}"


def _marked(rows: Sequence[Row], *, columns: Sequence[Column]) -> list[Row]:
    """The rows with the best printed value of each column marked, where there is something to be better than."""
    best: dict[int, str] = {}
    for place, column in enumerate(columns):
        values = [row.values[place] for row in rows if row.values[place].value is not None]
        if column.measure.better and len(values) > 1:
            best[place] = max(values, key=lambda v: column.measure.better * (v.value or 0.0)).text
    marked = []
    for row in rows:
        own = [replace(value, best=best.get(place) == value.text) for place, value in enumerate(row.values)]
        marked.append(replace(row, values=tuple(own)))
    return marked


def _published_rows(columns: Sequence[Column]) -> Iterator[Row]:
    """The figures that papers have in these columns, to the decimals in which they were published."""
    for paper in published():
        figures = [paper.figures.get(c.benchmark, {}).get(c.measure.key) for c in columns]
        if any(figures):
            for place, method in enumerate(paper.methods):
                texts = [DASH if texts is None else texts[place] for texts in figures]
                values = tuple(_published_value(text) for text in texts)
                yield Row(f"{method} (published, {paper.model})", values, published=True)


def _published_value(text: str) -> Value:
    return Value(None if text == DASH else round(float(text) / 100, 6), None, text)


def result_sheet(table: ResultTable, *, intervals: bool = True) -> Sheet:
    """The table as text; published rows are a block of their own."""
    own = [_cells(row, table=table, intervals=intervals) for row in table.rows if not row.published]
    others = [_cells(row, table=table, intervals=intervals) for row in table.rows if row.published]
    blocks = [tuple(block) for block in (own, others) if block]
    units = [title_with_unit(column.measure) for column in table.columns]
    groups = tuple((name, len(list(same))) for name, same in groupby(table.columns, key=lambda c: c.benchmark))
    return Sheet(("method", *units), tuple(blocks), groups)


def _cells(row: Row, *, table: ResultTable, intervals: bool) -> tuple[Cell, ...]:
    cells = [Cell(row.method)]
    for value, column in zip(row.values, table.columns, strict=True):
        shown = value.interval if intervals else None
        small = "" if shown is None else f"[{', '.join(_printed(end, measure=column.measure) for end in shown)}]"
        cells.append(Cell(value.text, small, value.best))
    return tuple(cells)


def comparison_sheet(comparisons: Sequence[Mapping[str, Any]]) -> Sheet:
    """Paired comparisons as text: rows with method, reference, dataset, measure, a, b, difference, ci, p, p_holm, n.

    `a` is the method's figure, `b` the reference's, the difference is a minus b in points. Each method is a block.
    """
    head = ("method", "minus", "data set", "measure", "a %", "b %", "points", "p", "p (Holm)", "n")
    blocks = groupby(comparisons, key=lambda row: row["method"])
    return Sheet(head, tuple(tuple(map(_comparison, rows)) for _, rows in blocks))


def _comparison(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    measure = measures()[row["measure"]].title
    left_out = row.get("only_a", 0) + row.get("only_b", 0)
    n = f"{row['n']} ({left_out} left out)" if left_out else f"{row['n']}"
    low, high = (signed(100 * end) for end in row["ci"])
    names = [Cell(text) for text in (row["method"], row["reference"], row["dataset"], measure)]
    difference = Cell(signed(100 * row["difference"]), f"[{low}, {high}]")
    figures = [Cell(percent(row["a"])), Cell(percent(row["b"])), difference]
    return (*names, *figures, Cell(_p(row["p"])), Cell(_p(row.get("p_holm"))), Cell(n))


def _p(value: float | None) -> str:
    if value is None:
        return DASH
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def to_json(
    table: ResultTable, *, comparisons: Sequence[Mapping[str, Any]] = (), more: Mapping[str, Any] | None = None
) -> str:
    """Everything as it is: shares in [0, 1], intervals, the best of each column, the comparisons; `more` beside it."""
    columns = [
        {"benchmark": c.benchmark, "measure": c.measure.key, "title": c.measure.title, "better": c.measure.better}
        for c in table.columns
    ]
    rows = [{"method": r.method, "published": r.published, "values": list(map(asdict, r.values))} for r in table.rows]
    return json.dumps({**(more or {}), "columns": columns, "rows": rows, "comparisons": list(comparisons)}, indent=1)


def write_tables(
    directory: Directory,
    *,
    table: ResultTable,
    comparisons: Sequence[Mapping[str, Any]] = (),
    intervals: bool = True,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write `table.json`, `table.md` and `table.tex`: the result, and below it the comparisons, where there are any."""
    sheets = [result_sheet(table, intervals=intervals)]
    sheets += [comparison_sheet(comparisons)] if comparisons else []
    directory.write_texts(
        {
            "table.json": to_json(table, comparisons=comparisons, more=more) + "\n",
            "table.md": "\n".join(to_markdown(sheet) for sheet in sheets),
            "table.tex": "\n".join(to_latex(sheet) for sheet in sheets),
        }
    )
