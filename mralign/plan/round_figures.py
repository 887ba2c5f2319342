"""What a finished round has to say of itself: the gain of its policy on dev, its candidates, its draws, its matrices.

The stages of a round and the record of the one before enter, a `RoundRecord` leaves. Only committed tables are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig
from mralign.evaluation.paired import Difference, paired_difference
from mralign.evaluation.scoring import read_scores
from mralign.plan.placing import Planned, find
from mralign.report.findings import Matrices, read_matrices
from mralign.report.rounds import CHANGED, RoundRecord, first_directory, round_directory
from mralign.rollouts.diversity import COLUMNS, DrawDiversity, DrawnText, draw_diversity
from mralign.rows import Polarity, from_table
from mralign.rows.schema import GENERATIONS
from mralign.rows.subjects import Subject, Way
from mralign.run.part_names import parts_by_upstream
from mralign.run.store import StageDir

MOST = 2000  # questions whose draws are compared
_MARKED = ("training", "evaluation")  # the stages that a record is of


def marks_of(planned: Sequence[Planned]) -> dict[str, str]:
    """The fingerprints that a record of these stages has."""
    return {name: _out(planned, name).fingerprint for name in _MARKED}


def record_of(config: RunConfig, planned: Sequence[Planned], *, number: int, before: RoundRecord | None) -> RoundRecord:
    """The record of a finished round; `before`: of the round before it, None in the first."""
    after, base = (_thinking(config, planned, subject) for subject in (Subject.TRAINED, Subject.BASE))
    gained = gain_of(config, after=after, before=base)
    spread = _diversity(planned)
    counts = candidate_counts(planned)
    return RoundRecord(
        number=number,
        model=f"{_out(planned, 'training').uri}/model",
        questions=gained.n,
        gain=gained.difference,
        gain_low=gained.ci[0],
        gain_high=gained.ci[1],
        p=gained.p,
        positives=counts[Polarity.POSITIVE],
        negatives=counts[Polarity.NEGATIVE],
        answers_differ=spread.answers,
        thoughts_differ=spread.thoughts,
        changes=_changes(planned, before=before),
        marks=marks_of(planned) | _matrices_place(planned),
        **_means(after),
    )


def start_of(config: RunConfig, planned: Sequence[Planned]) -> RoundRecord:
    """The record of the model before the first round, by the stages of the first."""
    base = _thinking(config, planned, Subject.BASE)
    questions = len(pc.unique(base.column("question_id")))
    return RoundRecord(number=0, model=config.model.path, questions=questions, **_means(base))


def gain_of(config: RunConfig, *, after: pa.Table, before: pa.Table) -> Difference:
    """Acc of `after` minus that of `before` (schema SCORES), paired by question, over all benchmarks that have Acc."""
    settings = config.evaluation
    return paired_difference(
        after, before, column="acc", level=settings.level, samples=settings.bootstrap_samples, seed=config.run.seed
    )


def gain_over(config: RunConfig, record: RoundRecord, *, other: RoundRecord) -> Difference:
    """The gain on dev of one round's policy over that of another round."""
    after, before = (_scores_of(config, one) for one in (record, other))
    return gain_of(config, after=after, before=before)


def _scores_of(config: RunConfig, record: RoundRecord) -> pa.Table:
    home = round_directory(first_directory(config.run.dir), record.number)
    out = StageDir(f"{home}/evaluation/{record.marks['evaluation']}", stage="evaluation")
    return _of_method(read_scores(out), Subject.TRAINED.method(Way.THINK_ON, name=config.training.method))


def candidate_counts(planned: Sequence[Planned]) -> Mapping[Polarity, int]:
    """Candidates that were kept, by polarity; of neutral ones none is told."""
    manifest = _out(planned, "candidates").manifest()
    assert manifest is not None
    counts = dict.fromkeys((Polarity.POSITIVE, Polarity.NEGATIVE), 0)
    for row in manifest.figures["funnel"]:
        if row["filter"] == "kept" and row["polarity"] in counts:
            counts[Polarity(row["polarity"])] += row["rows_out"]
    return counts


def _thinking(config: RunConfig, planned: Sequence[Planned], subject: Subject) -> pa.Table:
    """The scores of a model's thinking answers that have Acc, schema SCORES."""
    scores = read_scores(_out(planned, subject.stage("evaluation")))
    name = config.evaluation.label if subject is Subject.BASE else config.training.method
    return _of_method(scores, subject.method(Way.THINK_ON, name=name))


def _of_method(scores: pa.Table, method: str) -> pa.Table:
    own = pc.equal(scores.column("method"), method)
    return scores.filter(pc.and_(own, pc.is_valid(scores.column("acc"))))


def _means(scores: pa.Table) -> dict[str, Any]:
    """Means over all answers."""
    found = {}
    for name in ("acc", "mis", "thought_tokens"):
        values = scores.column(name).cast(pa.float64()).drop_null()
        found[name] = pc.mean(values).as_py()
    return found


def _diversity(planned: Sequence[Planned]) -> DrawDiversity:
    """Of the draws of the first questions, MOST or a few more."""
    rollouts, questions = _out(planned, "rollouts"), _out(planned, "questions")
    rows: list[DrawnText] = []
    seen = 0
    for part, drawn in parts_by_upstream(rollouts.parts(), questions.parts("train")).items():
        rows += from_table(rollouts.read_parts(drawn, schema=GENERATIONS, columns=list(COLUMNS)), DrawnText)
        seen += questions.rows(part)
        if seen >= MOST:
            break
    return draw_diversity(rows)


def _changes(planned: Sequence[Planned], *, before: RoundRecord | None) -> dict[str, list[float]]:
    """Largest and mean |Δ| of each matrix from the round before; empty where one of them has none."""
    now = find(planned, "matrices")
    if before is None or now is None or "matrices" not in before.marks:
        return {}
    then = StageDir(f"{_first_directory(now)}/{before.marks['matrices']}")
    return matrix_changes(read_matrices(now.out), before=read_matrices(then))


def matrix_changes(now: Matrices, *, before: Matrices) -> dict[str, list[float]]:
    """By matrix [max |Δ|, mean |Δ|] over all K² entries. Raises ValueError for matrices of other states."""
    if now.states != before.states:
        raise ValueError(f"matrices of {now.states} cannot be compared with those of {before.states}")
    found = {}
    for name in CHANGED:
        difference_KK = np.abs(now.probability[name] - before.probability[name])
        found[name] = [float(difference_KK.max()), float(difference_KK.mean())]
    return found


def _matrices_place(planned: Sequence[Planned]) -> dict[str, str]:
    """Where the matrices lie, below the directory of the first round."""
    item = find(planned, "matrices")
    return {} if item is None else {"matrices": item.out.uri.removeprefix(f"{_first_directory(item)}/")}


def _first_directory(item: Planned) -> str:
    return first_directory(item.out.uri.rsplit("/", 2)[0])


def _out(planned: Sequence[Planned], name: str) -> StageDir:
    item = find(planned, name)
    assert item is not None, name
    return item.out
