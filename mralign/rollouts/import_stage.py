"""Stage `rollouts` where they were made elsewhere: files of rollouts become the parts of generations of the questions.

Ray Data streams each file onto a shelf (import_shelf.py), one record after the other; then every part of questions is a
remote task, which reads its own records and writes its own generations. A killed run goes on from the parts that are
committed, and reads a file again only if it had not come to its end. The driver holds the names of files.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from itertools import chain
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import Model, RunConfig, resolve_path
from mralign.rollouts.import_files import Imported, check_file, read_records
from mralign.rollouts.import_shelf import SHELVED, QuestionPlaces, RecordShelf, files_by_place, mark, shelve
from mralign.rollouts.import_turns import RolloutWriter
from mralign.rollouts.imported import generations_of
from mralign.rows import Generation, Mode, Reject, from_table, to_table
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.events import counted
from mralign.run.part_names import part_key, part_name
from mralign.run.pieces import reject_count
from mralign.run.stage import Context, Outcome, Stage, map_groups
from mralign.run.store import StageDir
from mralign.serving.requests import check_model


def _run(context: Context) -> Outcome:
    out, questions = context.out, context.upstream["questions"]
    parts = questions.parts("train")
    names = [part_name(f"{part_key(part)}-imported") for part in parts]
    shelf = RecordShelf(f"{out.uri}/raw", stage=out.stage, fingerprint=out.fingerprint)
    if not set(names) <= set(out.parts()):
        _read_files(context, shelf=shelf, parts=parts)
        _write_parts(context, shelf=shelf, names=names)
    _remove(shelf)
    rows = sum(out.counts().values())
    return Outcome(rows_in=rows + reject_count(out), rows_out=rows)


def _read_files(context: Context, *, shelf: RecordShelf, parts: list[str]) -> None:
    """Put the records of the files that have not been read to their end on the shelf."""
    import ray

    todo = [mode for mode in Mode if not shelf.holds(mark(mode))]
    if not todo:
        return
    given = {"config": context.config, "questions": context.upstream["questions"], "parts": parts, "shelf": shelf}
    items = [{"mode": str(mode)} for mode in todo]
    read: Any = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        cast(Any, _read_file), fn_kwargs=given, batch_size=1, batch_format="pyarrow"
    )
    batches = read.iter_batches(batch_size=None, batch_format="pyarrow")
    names = chain.from_iterable(batch.column("file") for batch in batches)
    for _ in counted(names, total=None, what="reading", unit="pieces"):
        pass


def _read_file(
    batch: pa.Table, *, config: RunConfig, questions: StageDir, parts: list[str], shelf: RecordShelf
) -> Iterator[pa.Table]:
    """Put the records of each mode in `batch` on the shelf; the name of each file of the shelf as it is written."""
    places = QuestionPlaces(_ids(questions, part) for part in parts)
    for text in batch.column("mode").to_pylist():
        mode = Mode(text)
        records = read_records(
            _file(config, mode), mode=mode, name=config.rollouts.import_name, fields=config.rollouts.import_fields
        )
        for name, _ in shelve(records, mode=mode, places=places, shelf=shelf):
            yield pa.table({"file": [name]})


def _file(config: RunConfig, mode: Mode) -> str:
    path = config.rollouts.import_on if mode is Mode.ON else config.rollouts.import_off
    assert path is not None
    return path


def _ids(questions: StageDir, part: str) -> list[str]:
    table = questions.read_parts([part], schema=QUESTIONS, columns=["question_id"])
    return list(table.column("question_id").to_pylist())


def _write_parts(context: Context, *, shelf: RecordShelf, names: list[str]) -> None:
    """Commit the generations of each part of questions, those of the place with the same number."""
    files = files_by_place(shelf)
    groups = {name: [str(place), *files.get(place, [])] for place, name in enumerate(names)}
    function = partial(part_of_generations, config=context.config)
    map_groups(context, function, groups=groups, source=shelf, schema=GENERATIONS, upstream_schema=SHELVED)


def part_of_generations(table: pa.Table, *, config: RunConfig) -> tuple[pa.Table, list[Reject]]:
    """Generations (schema GENERATIONS) of the records of one place (schema SHELVED), thinking on first, and rejects.

    Further reason: question_not_in_train.
    """
    settings = config.rollouts
    known = set(table.filter(pc.field("known")).column("question_id").to_pylist())
    kept: list[Generation] = []
    rejects: list[Reject] = []
    unknown: list[Reject] = []
    for mode in Mode:
        records = from_table(table.filter(pc.field("mode") == mode), Imported)
        writer = _writer(mode, config.model, settings.prompt, settings.import_fields.tags)
        rows, refused = generations_of(records, name=settings.import_name, draws=settings.n, writer=writer)
        kept += [row for row in rows if row.question_id in known]
        unknown += [_not_in_train(row) for row in rows if row.question_id not in known]
        rejects += refused
    return to_table(kept, Generation), rejects + unknown


def _not_in_train(row: Generation) -> Reject:
    return Reject(row.row_id, "question_not_in_train", "see the rejects of the stage questions", dataset=row.dataset)


@cache
def _writer(mode: Mode, model: Model, prompt: str, tags: tuple[str, str] | None) -> RolloutWriter:
    """One of each kind a process: a tokenizer takes longer to load than a part to write."""
    return RolloutWriter(mode=mode, model=model, prompt=prompt, tags=tags)


def _remove(shelf: RecordShelf) -> None:
    """Delete the shelf, the marks first: no kill may leave a mark without its files."""
    for mode in Mode:
        if shelf.holds(mark(mode)):
            shelf.filesystem.delete_file(shelf.path(mark(mode)))
    shelf.remove()


def _check(config: RunConfig) -> None:
    for mode in Mode:
        check_file(resolve_path(_file(config, mode)), fields=config.rollouts.import_fields)
    check_model(config.model)


IMPORT_STAGE = Stage(
    name="rollouts",
    words="importing answers",
    run=_run,
    reads=("rollouts", "model"),
    ignores=("rollouts.engine", "rollouts.decoding", "rollouts.order"),
    upstream=("questions",),
    portions=lambda config: {"questions": "train"},
    inputs=lambda config: {
        Mode.ON: config.rollouts.import_on or "",
        Mode.OFF: config.rollouts.import_off or "",
        **config.model.inputs(),
    },
    check=_check,
    version=2,
)
