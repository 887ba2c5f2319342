"""The configuration of an evaluation of responses that were made elsewhere.

A file of predictions enters; a configuration leaves that scores them, in a run directory of the file's own. Gold
answers come from a suite, whose questions the predictions name by id or text, or stand on the lines themselves. Then
questions are written into the run directory, a file a data set, and read from there as any others.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mralign.config import RunConfig, load
from mralign.evaluation.prediction_files import read_predictions
from mralign.evaluation.predictions import Prediction, dataset_name, modes_of
from mralign.plan.suites import configure
from mralign.questions.normalisation import key
from mralign.rows import Mode
from mralign.run.disk import own_temporary_directory
from mralign.run.store import Directory, absolute

_WAYS = {Mode.OFF: "think_off", Mode.ON: "think_on"}
_FIELDS = {"id": "id", "question": "question", "answers": "answers"}

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # data set -> its questions


def configure_predictions(
    settings: Sequence[str],
    *,
    path: str,
    suite: str | None = None,
    data: str | None = None,
    benchmarks: Sequence[str] | None = None,
    keep: bool = True,
) -> RunConfig:
    """The configuration that scores the predictions in the file `path`; `settings` win over it.

    With a `suite`, its questions are the ones that are answered; without, each line has question and gold answers.
    They are written into the run directory, and where not `keep` into a temporary one. Raises ValueError for
    what `read_predictions` refuses, for lines without gold answers, and for a wrong configuration.
    """
    predictions = read_predictions(path)
    said = _settings(predictions, path=path)
    overrides = [*(f"{name}={json.dumps(value)}" for name, value in said.items()), *settings]
    if suite is None and (data or benchmarks):
        raise ValueError("--data and --benchmarks are of a suite, and none is named; give --suite as well")
    if suite is not None:
        return configure(overrides, suite=suite, data=data, benchmarks=benchmarks)
    rows = inline_questions(predictions, name=said["evaluation.label"])
    unplaced = load(_values(dict.fromkeys(rows, "")), overrides=overrides)
    home = absolute(unplaced.run.dir) if keep else _until_the_end()
    return load(_values(_written(rows, home=home)), overrides=overrides)


def _until_the_end() -> str:
    """A temporary directory that is deleted when this process ends."""
    place = own_temporary_directory("plan")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place


def _settings(predictions: Sequence[Prediction], *, path: str) -> dict[str, Any]:
    """What the file itself says of its evaluation, by the names of settings."""
    place = absolute(path)
    name = dataset_name(place.rpartition("/")[2].partition(".")[0])
    modes = modes_of(predictions)
    asked = Counter((_group(one), mode) for one, mode in zip(predictions, modes, strict=True))
    mark = hashlib.sha256(place.encode()).hexdigest()[:6]
    return {
        "model.path": place,  # what answered; no model of that place is ever opened
        "evaluation.predictions": place,
        "evaluation.label": name,
        "evaluation.methods": [way for mode, way in _WAYS.items() if mode in modes],
        "evaluation.draws": max(asked.values()),
        "run.dir": f"runs/evaluate/{name}-{mark}",
    }


def _group(prediction: Prediction) -> tuple[str | None, str]:
    """What the predictions of one question have in common."""
    return prediction.dataset, prediction.id if prediction.id is not None else f"text {key(prediction.question or '')}"


def inline_questions(predictions: Sequence[Prediction], *, name: str) -> Rows:
    """The questions that stand on the lines themselves, each once, by data set; `name` is that of lines without one.

    Raises ValueError for a line without question or gold answers, and for one id of two questions.
    """
    found: dict[str, dict[tuple[str | None, str], dict[str, Any]]] = {}
    for number, one in enumerate(predictions):
        if not one.answers:
            raise ValueError(
                f"{one.place} has no gold answers; give `answers` on every line, or name the suite whose questions "
                f"these are (--suite)"
            )
        if one.question is None or not one.question.strip():
            raise ValueError(f"{one.place} has no `question`; give its text beside the gold answers")
        rows = found.setdefault(one.dataset or name, {})
        new = {"id": one.id or f"row{number}", "question": one.question, "answers": list(one.answers)}
        row = rows.setdefault(_group(one), new)
        if key(row["question"]) != key(one.question):
            raise ValueError(
                f"{one.place}: its id {one.id!r:.80} is that of another question further up; give each question its own"
            )
    return {dataset: list(rows.values()) for dataset, rows in found.items()}


def _written(rows: Rows, *, home: str) -> dict[str, str]:
    """Writes the questions of each data set into the run directory, under names of what they hold; their paths."""
    paths = {}
    for dataset, questions in rows.items():
        text = "".join(f"{json.dumps(row)}\n" for row in questions)
        mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        name = f"predictions/{dataset}-{mark}.jsonl"
        directory = Directory(home)
        if not directory.holds(name):
            directory.write_text(name, text)
        paths[dataset] = f"{home}/{name}"
    return paths


def _values(paths: Mapping[str, str]) -> dict[str, Any]:
    sources = [{"name": name, "path": path, "fields": _FIELDS, "lists": False} for name, path in paths.items()]
    return {"questions": {"test": sources}}
