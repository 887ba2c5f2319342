"""Logs of other tools as rollouts that a run can take in place of sampling.

A file that `evaluate --predictions` reads (our own lines, a log of inspect_ai, samples of lm-eval) enters; on.jsonl and
off.jsonl leave, in the form that rollouts.import_on and rollouts.import_off read (docs/method.md §1).
"""

from __future__ import annotations

import json
from typing import Any

from mralign.evaluation.joining import in_order
from mralign.evaluation.prediction_files import read_predictions
from mralign.evaluation.predictions import Prediction, modes_of
from mralign.questions.normalisation import key
from mralign.rows import Mode
from mralign.run.store import Directory, absolute

FIELDS = "{id: id, question: question, answers: answers, response: response, draw: draw}"  # for rollouts.import_fields


def write_rollouts(paths: list[str], *, to: str) -> dict[str, int]:
    """Write the responses in some files as rollouts, `on.jsonl` and `off.jsonl` in the directory `to`; rows of each.

    The thought stands in the response, between <think> and </think>; draws are numbered from 0 by question and mode
    (docs/method.md §1). A run needs both modes, so give the log of each: `mode` on the lines says which, else a file is
    of thinking if a thought stands in it. Raises ValueError for what `evaluate --predictions` refuses, and for a line
    without question or gold answers.

    >>> import json, pathlib, tempfile, mralign
    >>> home = pathlib.Path(tempfile.mkdtemp())
    >>> line = {"id": "q1", "question": "Capital of Peru?", "answers": ["Lima"], "response": "<think>?</think>Lima"}
    >>> _ = (home / "log.jsonl").write_text(json.dumps(line))
    >>> mralign.write_rollouts([str(home / "log.jsonl")], to=str(home / "rollouts"))
    {'on': 1, 'off': 0}
    """
    groups: dict[tuple[Mode, str], list[Prediction]] = {}
    for path in paths:
        predictions = read_predictions(path)
        for one, mode in zip(predictions, modes_of(predictions), strict=True):
            if not one.answers or not (one.question or "").strip():
                raise ValueError(f"{path}: {one.place} has no question or no gold answers; a rollout needs both")
            groups.setdefault((mode, _question_id(one)), []).append(one)
    rows: dict[Mode, list[dict[str, Any]]] = {mode: [] for mode in Mode}
    for (mode, question_id), group in groups.items():
        for draw, one in enumerate(in_order(group)):
            rows[mode].append(_row(one, question_id=question_id, draw=draw))
    home = Directory(absolute(to))
    for mode, written in rows.items():
        home.write_text(f"{mode}.jsonl", "".join(f"{json.dumps(row)}\n" for row in written))
    return {str(mode): len(written) for mode, written in rows.items()}


def _question_id(one: Prediction) -> str:
    own = one.id if one.id is not None else key(one.question or "")
    return f"{one.dataset}/{own}" if one.dataset else own


def _row(one: Prediction, *, question_id: str, draw: int) -> dict[str, Any]:
    return {
        "id": question_id,
        "question": one.question,
        "answers": list(one.answers),
        "response": one.text,
        "draw": draw,
        "finish_reason": one.finish_reason,
    }
