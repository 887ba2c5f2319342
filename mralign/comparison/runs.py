"""Two evaluated runs, compared question by question.

Two run directories, each with `evaluation/index.json` (where the scores of its methods lie), enter; a table of every
measure of every benchmark that both have, with the paired difference, its interval and its significance, leaves as
text, and as comparison.json, .md and .tex. Any run will do: of `jobs/align.py`, of `jobs/evaluate.py`, old or new.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from mralign.evaluation.paired import compare
from mralign.report.export import comparison_sheet
from mralign.report.sheets import to_latex, to_markdown, to_text
from mralign.report.tables import aligned
from mralign.schema import SCORES
from mralign.store import Directory, StageDir, absolute

INDEX = "evaluation/index.json"


@dataclass(frozen=True)
class Side:
    """A method of a run and its scores, schema SCORES."""

    run: str
    method: str
    scores: pa.Table


def read_side(said: str) -> Side:
    """The side that `RUN` or `RUN:METHOD` names; without a method it is the last one of the run (the trained one).

    Raises ValueError where there is no evaluation, or no such method in it.
    """
    run, method = _split(said)
    home = Directory(absolute(run))
    places: dict[str, str] = json.loads(home.read_text(INDEX))
    method = method or list(places)[-1]
    if method not in places:
        raise ValueError(f"{run} has no method {method!r}; allowed are {', '.join(places)}: write RUN:METHOD")
    scores = StageDir(f"{home.uri}/{places[method]}").read(schema=SCORES)
    return Side(home.uri, method, scores.filter(pc.equal(scores.column("method"), method)))


def _split(said: str) -> tuple[str, str]:
    """A run directory may hold a colon itself (s3://...): whatever has an index is one."""
    if Directory(absolute(said)).exists(INDEX):
        return said, ""
    run, colon, method = said.rpartition(":")
    if colon and Directory(absolute(run)).exists(INDEX):
        return run, method
    raise ValueError(
        f"{said}: no {INDEX} there; give the directory of a run whose evaluation is finished, or RUN:METHOD"
    )


def compare_runs(a: str, b: str, *, common: bool = False, out: str | None = None) -> str:
    """Write the comparison of `b` with `a` (differences are b minus a) and return it as text with its places.

    `out` is a directory, by default `comparisons/<method a>-<method b>` in run b. Raises ValueError if their questions
    differ and not `common`, and where they share no benchmark.
    """
    first, second = read_side(a), read_side(b)
    name = second.method if second.method != first.method else f"{second.method} (second run)"
    found = [
        {"method": name, "reference": first.method, **row}
        for row in compare(second.scores, first.scores, common=common)
    ]
    if not found:
        there = [sorted(pc.unique(side.scores.column("dataset")).to_pylist()) for side in (first, second)]
        raise ValueError(f"the runs share no measured benchmark: the first has {there[0]}, the second {there[1]}")
    home = Directory(absolute(out or f"{second.run}/comparisons/{first.method}-{second.method}"))
    sides = {key: {"run": side.run, "method": side.method} for key, side in (("a", second), ("b", first))}
    sheet = comparison_sheet(found)
    home.write_text("comparison.json", json.dumps({**sides, "rows": found}, indent=1) + "\n")
    home.write_text("comparison.md", to_markdown(sheet))
    home.write_text("comparison.tex", to_latex(sheet))
    places = [("first", first.run), ("second", second.run)]
    places += [
        ("table" if not n else "", f"{home.uri}/comparison.{end}") for n, end in enumerate(("md", "tex", "json"))
    ]
    return f"{to_text(sheet)}\n\n{aligned(places)}"
