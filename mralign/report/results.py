"""The result of a run: what each method reached on each benchmark, and what training changed.

Metrics {method: {benchmark: figures}} enter as the evaluation wrote them; rows of text and differences leave. A
benchmark's `kind` says what is measured on it (METHOD.md section 6), and so which columns its table has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mralign.report.wording import aligned, number, percent, signed, with_interval

Figures = Mapping[str, Any]
Metrics = Mapping[str, Mapping[str, Figures]]


@dataclass(frozen=True)
class Measure:
    """One column: its title, and the cell that stands in it. `key`: of a figure that is drawn with its interval."""

    title: str
    cell: Callable[[Figures], str]
    key: str = ""


@dataclass(frozen=True)
class Block:
    """The table of one benchmark, a method a row."""

    benchmark: str
    kind: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Gain:
    """A method of the trained model minus the same of the untrained one, in points; `mis` None where none thinks."""

    benchmark: str
    method: str
    base: str
    acc: float
    mis: float | None

    @property
    def text(self) -> str:
        """Acc +3.2, Mis −2.7 points."""
        shown = f"Acc {signed(self.acc)}" + ("" if self.mis is None else f", Mis {signed(self.mis)}")
        return f"{self.method} minus {self.base}: {shown} points"


def _interval(title: str, key: str) -> Measure:
    return Measure(title, lambda found: with_interval(found[key], found[f"{key}_ci"]), key)


def _share(title: str, key: str) -> Measure:
    return Measure(title, lambda found: percent(found[key]))


def _count(title: str, key: str) -> Measure:
    return Measure(title, lambda found: number(found[key]))


_QUESTIONS = _count("Questions", "n")
_REJECTED = _count("Rejected", "rejected")
_BOUND = Measure("K", lambda found: f"{found['k']} ({found['k_source']})")
MEASURES = {
    "short_answer": (
        _interval("Acc", "acc"),
        _interval("Mis", "mis"),
        _interval("Acc, contains", "acc_contains"),
        _interval("Mis, contains", "mis_contains"),
        _share("Truncated %", "truncated_share"),
        _share("Format failures %", "format_failure_share"),
        _count("Thought tokens", "thought_tokens_mean"),
        _QUESTIONS,
    ),
    "truthfulqa": (
        _interval("Truth", "truthful"),
        _interval("Info", "informative"),
        _count("Judged", "judged"),
        _REJECTED,
        _QUESTIONS,
    ),
    "longfact": (
        _interval("F1@K", "f1"),
        _share("Prec", "precision"),
        _share("Rec", "recall"),
        _count("#Claims", "claims_mean"),
        _BOUND,
        _count("Abstentions", "abstentions"),
        _REJECTED,
        _QUESTIONS,
    ),
}
_ON_TERMINAL = ("Acc", "Mis", "Truth", "Info", "F1@K", "Prec", "Rec", "#Claims")
_OTHER_WAYS = ("_think_off_ret", "_think_off", "_self_refine")  # ... than thinking on, as methods' names end


def benchmarks(metrics: Metrics) -> dict[str, dict[str, Figures]]:
    """{benchmark: {method: figures}}: the same by benchmark, in the order in which they come."""
    found: dict[str, dict[str, Figures]] = {}
    for method, by_benchmark in metrics.items():
        for benchmark, figures in by_benchmark.items():
            found.setdefault(benchmark, {})[method] = figures
    return found


def blocks(metrics: Metrics) -> list[Block]:
    """One table a benchmark. Rates in percent, with their interval where there is one."""
    return [_block(benchmark, methods) for benchmark, methods in benchmarks(metrics).items()]


def _block(benchmark: str, methods: Mapping[str, Figures]) -> Block:
    kind = _kind(methods)
    rows = tuple((name, *(m.cell(figures) for m in MEASURES[kind])) for name, figures in methods.items())
    return Block(benchmark, kind, ("Method", *(m.title for m in MEASURES[kind])), rows)


def drawn(methods: Mapping[str, Figures]) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """(title, (method, share, low, high) each) of the figures of a benchmark that have an interval."""
    found = []
    for measure in MEASURES[_kind(methods)]:
        if measure.key and not measure.key.endswith("_contains"):
            known = [(name, f[measure.key], f[f"{measure.key}_ci"]) for name, f in methods.items()]
            points = [(name, value, low_high[0], low_high[1]) for name, value, low_high in known if value is not None]
            found.append((measure.title, points))
    return [(title, points) for title, points in found if points]


def gains(metrics: Metrics, *, label: str) -> list[Gain]:
    """What training changed on each short-answer benchmark, `label` being the name of the untrained model in tables.

    A method is compared with the one of the same way of asking; empty where either is missing.
    """
    found = []
    for benchmark, methods in benchmarks(metrics).items():
        for name, now in methods.items():
            base = _counterpart(name, label=label)
            before = methods.get(base)
            if name.startswith(f"{label}_") or before is None or "acc" not in now:
                continue
            mis = None if now["mis"] is None else 100 * (now["mis"] - before["mis"])
            found.append(Gain(benchmark, name, base, 100 * (now["acc"] - before["acc"]), mis))
    return found


def _counterpart(method: str, *, label: str) -> str:
    way = next((way for way in _OTHER_WAYS if method.endswith(way)), "")
    return f"{label}{way}" if way else f"{label}_think_on{'_ret' if method.endswith('_ret') else ''}"


def result_text(metrics: Metrics, *, level: float, label: str) -> str:
    """The result for a terminal: a table for each kind of benchmark, and what training changed, see `gains`.

    Where there is but one benchmark it is not named.
    """
    named = len(benchmarks(metrics)) > 1
    kinds: dict[str, dict[str, dict[str, Figures]]] = {}
    for benchmark, methods in benchmarks(metrics).items():
        kinds.setdefault(_kind(methods), {})[benchmark] = methods
    texts = {kind: _table(found, kind=kind, level=level, named=named) for kind, found in kinds.items()}
    for gain in gains(metrics, label=label):
        texts["short_answer"] += f"\n{gain.benchmark}: {gain.text}" if named else f"\n{gain.text}"
    return "\n\n".join(texts.values())


def _table(found: Mapping[str, Mapping[str, Figures]], *, kind: str, level: float, named: bool) -> str:
    shown = [measure for measure in MEASURES[kind] if measure.title in _ON_TERMINAL]
    first = ["benchmark"] if named else []
    head = [*first, "method", *(_terminal_title(measure, level=level) for measure in shown), "n"]
    rows = [
        # The thin space of `number` has no place in a terminal.
        [*([benchmark] if named else []), method, *(m.cell(figures) for m in shown), str(figures["n"])]
        for benchmark, methods in found.items()
        for method, figures in methods.items()
    ]
    return aligned([head, *rows])


def _terminal_title(measure: Measure, *, level: float) -> str:
    unit = "" if measure.title == "#Claims" else " %"
    return f"{measure.title}{unit}" + (f" [{100 * level:g}% CI]" if measure.key else "")


def _kind(methods: Mapping[str, Figures]) -> str:
    kinds = sorted({figures["kind"] for figures in methods.values()})
    assert len(kinds) == 1 and kinds[0] in MEASURES, kinds
    return str(kinds[0])
