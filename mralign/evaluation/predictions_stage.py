"""Stage `responses_base` where the responses were made elsewhere: a file of predictions takes the place of a model.

Questions of the evaluation split and the file `evaluation.predictions` enter; responses leave on the shelf, in the form
in which a model's own are kept, so that judges, scores, tables and comparisons see no difference. A question without a
prediction is a reject, and counts as a wrong answer: nobody gains by leaving questions out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig, resolve_path
from mralign.evaluation.joining import Joined, join
from mralign.evaluation.prediction_files import read_predictions
from mralign.evaluation.predictions import Prediction, split_prediction
from mralign.evaluation.responses import (
    SHELF,
    Asked,
    asked_questions,
    content_parts,
    describe,
    methods_of,
    shelf_of,
    write_parts,
)
from mralign.evaluation.responses_stage import index_responses, requests_each
from mralign.rows import Mode, Reject, row_id_of
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.rows.subjects import Subject, Way
from mralign.run.digests import digest
from mralign.run.part_names import part_key, part_name
from mralign.run.rejects import to_table
from mralign.run.stage import Context, Outcome, Stage, log
from mralign.run.store import fingerprint

_WAYS = (Way.THINK_OFF, Way.THINK_ON)
_READS = ("evaluation.methods", "evaluation.label", "evaluation.draws", "evaluation.split")


def response_row(prediction: Prediction, *, question: Mapping[str, Any], mode: Mode, draw: int) -> dict[str, Any]:
    """The row of schema GENERATIONS of a prediction; token ids and counts are null or empty where nobody knows them."""
    found = split_prediction(prediction, mode=mode)
    names = ("question_id", "dataset", "question", "answers")
    return {
        **{name: question[name] for name in names},
        "row_id": row_id_of(question["question_id"], mode=mode, draw=draw),
        "mode": str(mode),
        "draw": draw,
        "seed": -1,
        "prompt_token_ids": [],
        "token_ids": [],
        "completion_tokens": prediction.completion_tokens,
        "text": prediction.text,
        "finish_reason": prediction.finish_reason,
        "thought_start": found.thought_start,
        "thought_end": found.thought_end,
        "answer": found.answer,
        "thought_tokens": prediction.thought_tokens,
        "invalid": found.invalid,
    }


def responses_of(
    joined: Joined, *, questions: Sequence[Mapping[str, Any]], modes: Sequence[Mode], draws: int
) -> tuple[pa.Table, list[Reject]]:
    """The responses to some questions (schema GENERATIONS), and a reject for each draw that has no prediction."""
    rows, rejects = [], []
    wanted = [(question, mode, draw) for question in questions for mode in modes for draw in range(draws)]
    for question, mode, draw in wanted:
        question_id = question["question_id"]
        prediction = joined.by_place.get((question_id, mode, draw))
        if prediction is None:
            row_id = row_id_of(question_id, mode=mode, draw=draw)
            detail = "the file of predictions has no response to it"
            rejects.append(Reject(row_id, "no_prediction", detail, dataset=question["dataset"]))
        else:
            rows.append(response_row(prediction, question=question, mode=mode, draw=draw))
    return pa.Table.from_pylist(rows, schema=GENERATIONS), rejects


def _run(context: Context) -> Outcome:
    config, source = context.config, context.upstream["questions"]
    path = resolve_path(str(config.evaluation.predictions))
    tables = [source.read_parts([part], schema=QUESTIONS) for part in source.parts(config.evaluation.split)]
    joined = join(read_predictions(path), questions=pa.concat_tables(tables).to_pylist())
    _tell(joined, path=path)
    methods = {way.mode: name for way, name in methods_of(config, Subject.BASE).items()}
    mark = fingerprint(stage="predictions", version=1, config={}, upstream={}, inputs={"predictions": digest(path)})
    asked = Asked("plain", f"{SHELF}/{mark}", (), methods, config.evaluation.draws, seed=-1)
    questions = asked_questions(context.out, asked)
    asked = replace(asked, questions=content_parts(tables, out=questions))
    shelf = shelf_of(context.out, asked)
    modes = [Mode(mode) for mode in methods]
    for name in asked.questions:
        rows = questions.read_parts([name], schema=QUESTIONS).to_pylist()
        table, rejects = responses_of(joined, questions=rows, modes=modes, draws=asked.draws)
        part = part_name(f"{part_key(name)}-predictions")
        shelf.commit(part, table, schema=GENERATIONS, rejects=to_table(rejects))
    counts = questions.counts(asked.questions)
    rows_out = index_responses(context, asked=asked, shelf=shelf, counts=counts)
    write_parts(context.out, [asked])
    rows_in = sum(counts.values()) * requests_each(asked)
    if rows_out < rows_in:
        log.warning("%d of %d responses are missing in %s and count as wrong", rows_in - rows_out, rows_in, path)
    figures = {"asked": describe([asked]), "unmatched": len(joined.unmatched)}
    return Outcome(rows_in, rows_out, figures)


def _tell(joined: Joined, *, path: str) -> None:
    """Raise ValueError where no prediction answers a question; say how many do not."""
    some = joined.unmatched[0] if joined.unmatched else None
    if some is None:
        return
    said = f"id {some.id!r:.60}" if some.id is not None else f"question {some.question!r:.60}"
    if not joined.by_place:
        raise ValueError(
            f"{path}: no prediction answers a question of this evaluation; the first, {some.place}, has the {said}: "
            f"give the ids (or the texts) of the questions as the suite has them"
        )
    total = len(joined.by_place) + len(joined.unmatched)
    log.warning(
        "%d of %d predictions answer no question of this evaluation; the first is %s, %s",
        len(joined.unmatched),
        total,
        some.place,
        said,
    )


def _check(config: RunConfig) -> None:
    ways = [str(way) for way in config.evaluation.methods if way not in _WAYS]
    if ways:
        raise ValueError(
            f"evaluation.methods names {', '.join(ways)}, but predictions are made already; allowed are "
            f"{', '.join(_WAYS)}"
        )
    read_predictions(resolve_path(str(config.evaluation.predictions)))


PREDICTIONS_STAGE = Stage(
    name=Subject.BASE.stage("responses"),
    words="reading predictions",
    run=_run,
    reads=_READS,
    upstream=("questions",),
    portions=lambda config: {"questions": config.evaluation.split},
    inputs=lambda config: {"predictions": str(config.evaluation.predictions)},
    check=_check,
)
