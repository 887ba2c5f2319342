"""Every trajectory of a run, read from its stage directories: trained on, evaluated, put aside.

The stages of a run enter; records leave one by one, part by part, so that no more than a part of each table is held.
What is not finished is left out: a run that only evaluates has no training trajectories, one that is only annotated has
no weights.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig
from mralign.evaluation.benchmarks import find, of_config
from mralign.evaluation.responses import read_responses
from mralign.evaluation.scoring import read_scores
from mralign.evaluation.strata import STRATA, stratum
from mralign.report.findings import Act, finished
from mralign.report.trajectory_records import (
    Found,
    Row,
    ShownSide,
    TrajectoryRecord,
    evaluated_side,
    outcome_of,
    rejected_record,
    training_record,
)
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, EXAMPLES, QUESTIONS, WEIGHTS
from mralign.rows.subjects import Subject, Way, way_of
from mralign.rows.vocabulary import question_of
from mralign.run.part_names import part_key, part_name
from mralign.run.pieces import rejects_by_part
from mralign.run.store import StageDir

log = logging.getLogger("mralign")

_SHOWN_CANDIDATE = [name for name in CANDIDATES.names if not name.endswith("token_ids")]
_SETTLED = ("questions", "rollouts", "candidates", "annotation", "examples")  # their rejects are trajectories, or rows
_STRATUM_NAMES = {name: name.replace("_", " ") for name in STRATA}


@dataclass(frozen=True)
class _Reading:
    """What every record needs: who the annotators are, and the tag that ends a thought."""

    names: Sequence[str]
    closing: str


def read_records(config: RunConfig, *, acts: Mapping[str, Act]) -> Iterator[TrajectoryRecord]:
    """The records of a run: evaluated questions first, then training trajectories, then what was put aside."""
    settings = config.annotation
    names = tuple(annotator.name for annotator in (*settings.annotators, settings.adjudicator))
    reading = _Reading(names, config.model.thought_tags[1])
    yield from _evaluated(config, acts, reading=reading)
    yield from _trained_on(acts, reading=reading)
    yield from _put_aside(acts)


def _trained_on(acts: Mapping[str, Act], *, reading: _Reading) -> Iterator[TrajectoryRecord]:
    """The candidates, part by part; the later stages keep the names of their parts."""
    candidates = finished(acts, "candidates")
    if candidates is None:
        return
    parts = candidates.parts()
    steps = _Column.of(finished(acts, "annotation"), parts, schema=ANNOTATIONS, name="steps")
    weights = _Column.of(finished(acts, "weights"), parts, schema=WEIGHTS, name="step_weights")
    tokens = _Column.of(finished(acts, "examples"), parts, schema=EXAMPLES, name="token_step")
    for part in parts:
        rows = candidates.read_parts([part], schema=CANDIDATES, columns=_SHOWN_CANDIDATE).to_pylist()
        steps_of, weights_of, tokens_of = (column.read(part) for column in (steps, weights, tokens))
        for row in rows:
            row_id = row["row_id"]
            said = Found(steps_of.get(row_id), weights_of.get(row_id), tokens_of.get(row_id))
            yield training_record(row, found=said, names=reading.names, closing=reading.closing)


@dataclass(frozen=True)
class _Column:
    """A column of a later stage; `parts`: those of its parts that came from each part of the candidates."""

    out: StageDir | None
    parts: Mapping[str, Sequence[str]]
    schema: pa.Schema
    name: str

    @classmethod
    def of(cls, out: StageDir | None, candidates: Sequence[str], *, schema: pa.Schema, name: str) -> _Column:
        """The column `name`; none of it where the stage is not finished."""
        found: dict[str, list[str]] = {}
        parents = frozenset(candidates)
        for part in out.parts() if out is not None else ():
            found.setdefault(_parent(part, parents), []).append(part)
        return cls(out, found, schema, name)

    def read(self, part: str) -> dict[str, Any]:
        """By row id, what stands in the column for the trajectories of a part of the candidates."""
        if self.out is None:
            return {}
        table = self.out.read_parts(self.parts.get(part, ()), schema=self.schema, columns=["row_id", self.name])
        return dict(zip(table.column("row_id").to_pylist(), table.column(self.name).to_pylist(), strict=True))


def _parent(part: str, parents: Collection[str]) -> str:
    """The part of an earlier stage that a part came from: its key is the beginning of the part's own, up to a "-";
    empty where there is none."""
    key = part_key(part)
    while key and part_name(key) not in parents:
        key = key.rpartition("-")[0]
    return part_name(key) if key else ""


@dataclass(frozen=True)
class _Answered:
    """The responses of one model to one data set's questions by (way, row id), with their scores."""

    rows: Mapping[tuple[Way, str], Row]
    scores: Mapping[tuple[str, str], Row]
    steps: Mapping[str, Sequence[Row]]  # labels of thoughts that were annotated anew, by row id


def _evaluated(config: RunConfig, acts: Mapping[str, Act], *, reading: _Reading) -> Iterator[TrajectoryRecord]:
    """Every way in which the models were asked, question by question, the untrained model's answer and the other's."""
    before, after = (_answered(acts, subject) for subject in Subject)
    kinds = of_config(config)
    strata = _strata(before, label=config.evaluation.label)
    for way, row_id in dict.fromkeys([*after.rows, *before.rows]):  # first those with both sides
        sides: list[ShownSide] = []
        values: list[float | None] = []
        for role, said in (("base", before), ("trained", after)):
            row = said.rows.get((way, row_id))
            if row is None:
                values.append(None)
                continue
            score = said.scores.get((row["method"], row_id), {})
            sides.append(_side_of(row, score=score, role=role, said=said, reading=reading))
            values.append(_scored(score, kind=kinds.get(row["dataset"], "short_answer")))
        row = before.rows.get((way, row_id)) or after.rows[way, row_id]
        yield TrajectoryRecord(
            row_id=row_id,
            shelf="evaluation",
            dataset=row["dataset"],
            outcome=outcome_of(*values),
            question=row["question"],
            answers=row["answers"],
            stratum=strata.get(row["question_id"], ""),
            detail=way.replace("_", " "),
            sides=sides,
        )


def _side_of(row: Row, *, score: Row, role: str, said: _Answered, reading: _Reading) -> ShownSide:
    found = Found(said.steps.get(row["row_id"]) if way_of(row["method"]) is Way.THINK_ON else None)
    return evaluated_side(row, score=score, role=role, found=found, names=reading.names, closing=reading.closing)


def _scored(score: Row, *, kind: str) -> float | None:
    """What a response scored in its benchmark's first measure that is compared question by question."""
    for measure in find(kind).measures:
        if measure.paired and score.get(measure.key) is not None:
            return float(score[measure.key])
    return None


def _answered(acts: Mapping[str, Act], subject: Subject) -> _Answered:
    responses = finished(acts, subject.stage("responses"))
    if responses is None:
        return _Answered({}, {}, {})
    rows = _response_rows(responses)
    evaluation = finished(acts, subject.stage("evaluation"))
    scores = read_scores(evaluation).to_pylist() if evaluation is not None else []
    annotated = finished(acts, subject.stage("thoughts_annotation"))
    steps = {}
    if annotated is not None:
        table = annotated.read(schema=ANNOTATIONS, columns=["row_id", "steps"])
        steps = dict(zip(table.column("row_id").to_pylist(), table.column("steps").to_pylist(), strict=True))
    return _Answered(rows, {(row["method"], row["row_id"]): row for row in scores}, steps)


def _response_rows(responses: StageDir) -> dict[tuple[Way, str], Row]:
    """The responses by way and row id. Where their texts are gone (they lie on a shelf of the run directory that may
    have been cleared since), there are none, and the log says so."""
    rows: dict[tuple[Way, str], Row] = {}
    try:
        for table in read_responses(responses):
            for row in table.drop_columns(["prompt_token_ids", "token_ids"]).to_pylist():
                rows[way_of(row["method"]), row["row_id"]] = row
    except FileNotFoundError as error:
        log.warning("the page shows no answers of stage %s: %s", responses.stage, error)
        return {}
    return rows


def _strata(before: _Answered, *, label: str) -> dict[str, str]:
    """The stratum of each question by the untrained model's draws when it thinks."""
    method = Subject.BASE.method(Way.THINK_ON, name=label)
    draws: dict[str, list[Row]] = {}
    for (named, _), score in before.scores.items():
        if named == method and score["em_answer"] is not None:
            draws.setdefault(score["question_id"], []).append(score)
    return {question: _STRATUM_NAMES[stratum(scores)] for question, scores in draws.items()}


def _put_aside(acts: Mapping[str, Act]) -> Iterator[TrajectoryRecord]:
    """The rejects of the stages on the way to training, with the question where it is known."""
    questions = finished(acts, "questions")
    asked_in = frozenset(questions.parts()) if questions is not None else frozenset()
    for name in _SETTLED:
        out = finished(acts, name)
        for part, rejects in rejects_by_part(out) if out is not None else ():
            asked = _questions(questions, _parent(part, asked_in))
            for row in rejects.to_pylist():
                known = asked.get(row["row_id"]) or asked.get(question_of(row["row_id"])) or {}
                record = rejected_record(row, stage=name)
                dataset = record.dataset or known.get("dataset", "")
                yield TrajectoryRecord(**{**vars(record), **known, "dataset": dataset})


def _questions(out: StageDir | None, part: str) -> dict[str, dict[str, Any]]:
    """The questions of one part by their ids."""
    if out is None or not part:
        return {}
    table = out.read_parts([part], schema=QUESTIONS, columns=["question_id", "dataset", "question", "answers"])
    return {row.pop("question_id"): row for row in table.to_pylist()}
