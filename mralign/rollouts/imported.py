"""Rollouts made elsewhere, from files, in place of our own.

The records of files (import_files.py) enter; generations leave, written as the model's own engine would have written
them (import_turns.py). The draws of a question are numbered in the order of their file, so all records of a question
meet: `numbered` takes those of some questions, in that order, and holds no other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import pyarrow as pa

from mralign.config import ImportFields, Model
from mralign.rollouts.import_files import Imported, read_records
from mralign.rollouts.import_turns import RolloutWriter
from mralign.rows import Generation, Mode, Reject, Request, row_id_of, to_table


def read_rollouts(
    path: str,
    *,
    mode: Mode,
    name: str,
    fields: ImportFields,
    model: Model,
    draws: int,
    prompt: str = "{question}",
) -> tuple[pa.Table, list[Reject]]:
    """Generations (schema GENERATIONS) of one mode from the file or URI `path`, and the rejects, all in memory.

    Raises ValueError as `read_records` does; rejects are those of `read_records` and of `generations_of`.
    """
    writer = RolloutWriter(mode=mode, model=model, prompt=prompt, tags=fields.tags)
    records = read_records(path, mode=mode, name=name, fields=fields)
    rows, rejects = generations_of(records, name=name, draws=draws, writer=writer)
    return to_table(rows, Generation), rejects


def generations_of(
    records: Iterable[Imported], *, name: str, draws: int, writer: RolloutWriter
) -> tuple[list[Generation], list[Reject]]:
    """The generations of all records of some questions in one mode, in the order of their file, and the rejects.

    `name`: of the data set; `draws`: how many a question may have. The draw is what the record says, else the number of
    earlier records of the same question. Reasons: that of the record, extra_draw, repeated_draw, what
    `Renderer.prepare` says, prefill_differs (the text does not begin as the prompt ends), and, thinking on, no_seam
    (the tokenizer can write the text alone but not after the prompt).
    """
    rows: list[Generation] = []
    rejects: list[Reject] = []
    for record, request in numbered(records, name=name, draws=draws):
        row = request if isinstance(request, Reject) else writer.row(record, request=request)
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            rows.append(row)
    return rows, rejects


def numbered(records: Iterable[Imported], *, name: str, draws: int) -> Iterator[tuple[Imported, Request | Reject]]:
    """Each record with the request that it answers, or why it answers none."""
    seen: Counter[str] = Counter()
    taken: set[str] = set()
    for record in records:
        if record.reason:
            reject = Reject(record.question_id, record.reason, record.detail, record.raw, dataset=name)
            yield record, reject
            continue
        question_id = record.question_id
        draw = int(record.draw) if record.draw else seen[question_id]
        seen[question_id] += 1
        request = _request(record, name=name, draw=draw)
        if draw >= draws:
            yield record, Reject(request.row_id, "extra_draw", f"rollouts.n is {draws}", record.raw, dataset=name)
        elif request.row_id in taken:
            detail = "an earlier row has the same id and draw"
            yield record, Reject(request.row_id, "repeated_draw", detail, record.raw, dataset=name)
        else:
            taken.add(request.row_id)
            yield record, request


def _request(record: Imported, *, name: str, draw: int) -> Request:
    return Request(
        row_id=row_id_of(record.question_id, mode=record.mode, draw=draw),
        question_id=record.question_id,
        dataset=name,
        question=record.question,
        answers=record.answers,
        choices=None,
        mode=record.mode,
        draw=draw,
        seed=-1,
    )
