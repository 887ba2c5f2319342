"""Two evaluated runs, compared question by question.

Two run directories, each with `evaluation/index.json` (where the scores of its methods lie), enter; a table of every
measure of every benchmark that both have, with the paired difference, its interval and its significance, leaves as
text, and as comparison.json, .md and .tex. Any run will do: of `mralign align`, of `mralign evaluate`, old or new.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.evaluation.paired import compare
from mralign.evaluation.scoring import read_scores
from mralign.report.result_tables import comparison_sheet
from mralign.report.sheets import to_latex, to_markdown, to_text
from mralign.report.wording import aligned
from mralign.rows.schema import QUESTIONS
from mralign.rows.subjects import Subject, Way, way_of
from mralign.run.store import Directory, StageDir, absolute

INDEX = "evaluation/index.json"


@dataclass(frozen=True)
class Side:
    """A method of a run and its scores, schema SCORES."""

    run: str
    method: str
    scores: pa.Table
    questions: StageDir | None = None


def read_side(said: str) -> Side:
    """The side that `RUN` or `RUN:METHOD` names; without a method it is the trained model thinking, else the base.

    Raises ValueError where there is no evaluation, or no such method in it.
    """
    run, method = _split(said)
    home = Directory(absolute(run))
    places: dict[str, str] = json.loads(home.read_text(INDEX))
    method = method or _main(list(places))
    if method not in places:
        raise ValueError(f"{run} has no method {method!r}; allowed are {', '.join(places)}: write RUN:METHOD")
    out = StageDir(f"{home.uri}/{places[method]}")
    scores = read_scores(out)
    return Side(home.uri, method, scores.filter(pc.equal(scores.column("method"), method)), _questions(home, out))


def _main(methods: Sequence[str]) -> str:
    """The method that a run is about: a trained model is called by its training's name alone."""
    thinking = [name for name in methods if way_of(name) is Way.THINK_ON]
    plain = [name for name in thinking if not name.endswith(f"_{Way.THINK_ON}")]
    return (plain or thinking or list(methods))[-1]


def _questions(home: Directory, scores: StageDir) -> StageDir | None:
    """The questions that the scores are of, by way of the manifests; None where those are not at hand."""
    out = scores
    responses = tuple(subject.stage("responses") for subject in Subject)
    for stages in (responses, ("questions",)):
        manifest = out.manifest()
        upstream = manifest.upstream if manifest is not None else {}
        stage = next((name for name in stages if name in upstream), None)
        if stage is None:
            return None
        out = StageDir(f"{home.uri}/{stage}/{upstream[stage]}")
    return out


def check_questions(first: Side, second: Side) -> None:
    """Raise ValueError if one id means different questions in the two runs: ids of published files are row numbers."""
    if first.questions is None or second.questions is None:
        return
    one, two = (_texts(out) for out in (first.questions, second.questions))
    other = sorted(name for name in one.keys() & two.keys() if one[name] != two[name])
    if other:
        raise ValueError(
            f"{len(other)} questions have the same id and another text in the two runs, the first of them {other[0]}; "
            f"evaluate both on the same files"
        )


def _texts(questions: StageDir) -> dict[str, str]:
    """The text of each question by its id."""
    table = questions.read(schema=QUESTIONS, columns=["question_id", "question"])
    return dict(zip(table.column("question_id").to_pylist(), table.column("question").to_pylist(), strict=True))


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


def paired_rows(a: str, b: str, *, common: bool = False) -> tuple[Side, Side, list[dict[str, Any]]]:
    """Both sides, and every measure that they share: of `b` minus `a`, with 95 % intervals.

    Raises ValueError if their questions differ and not `common`, and where they share no benchmark.
    """
    first, second = read_side(a), read_side(b)
    check_questions(first, second)
    name = second.method if second.method != first.method else f"{second.method} (second run)"
    found = [
        {"method": name, "reference": first.method, **row}
        for row in compare(second.scores, first.scores, common=common)
    ]
    if not found:
        there = [sorted(pc.unique(side.scores.column("dataset")).to_pylist()) for side in (first, second)]
        raise ValueError(f"the runs share no measured benchmark: the first has {there[0]}, the second {there[1]}")
    return first, second, found


def compare_runs(a: str, b: str, *, common: bool = False, out: str | None = None) -> str:
    """Write the comparison of `b` with `a` (`paired_rows`) and return it as text with its places.

    `out` is a directory, by default `comparisons/<method a>-<method b>` in run b.
    """
    first, second, found = paired_rows(a, b, common=common)
    home = Directory(absolute(out or f"{second.run}/comparisons/{first.method}-{second.method}"))
    sides = {key: {"run": side.run, "method": side.method} for key, side in (("a", second), ("b", first))}
    sheet = comparison_sheet(found)
    home.write_text("comparison.json", json.dumps({**sides, "rows": found}, indent=1) + "\n")
    home.write_text("comparison.md", to_markdown(sheet))
    home.write_text("comparison.tex", to_latex(sheet))
    places = [("first", first.run), ("second", second.run), ("table", f"{home.uri}/comparison.md")]
    places += [("", f"{home.uri}/comparison.tex"), ("", f"{home.uri}/comparison.json")]
    return f"{to_text(sheet)}\n\n{aligned(places)}"
