"""Stage `questions`: the configured sources become one deduplicated table of questions.

Question files enter; schema QUESTIONS leaves, one part a split. Train questions that repeat or that also stand in a
held-out split are put aside with that reason.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from mralign.config import RunConfig, Source, resolve_path
from mralign.questions.sources import deduplicate, drop_evaluation_overlap, read_questions
from mralign.rejects import Reject, to_table
from mralign.schema import QUESTIONS
from mralign.stage import Context, Outcome, Stage
from mralign.store import Directory, part_name


def sources(config: RunConfig) -> dict[str, tuple[Source, ...]]:
    """Sources by split; imported rollouts bring their own train questions."""
    train = config.questions.train
    if config.rollouts.import_on:
        fields = config.rollouts.import_fields
        train = (
            Source(
                name=config.rollouts.import_name,
                path=config.rollouts.import_on,
                fields={"id": fields.id, "question": fields.question, "answers": fields.answers},
            ),
        )
    return {"train": train, "dev": config.questions.dev, "test": config.questions.test}


def _inputs(config: RunConfig) -> Mapping[str, str]:
    return {f"{split}/{s.name}": s.path for split, group in sources(config).items() for s in group}


def _matters(config: RunConfig) -> object:
    return {
        split: [source.model_dump(mode="json", exclude={"path"}) for source in group]
        for split, group in sources(config).items()
    }


def _read(split: str, group: tuple[Source, ...]) -> tuple[pa.Table, list[Reject]]:
    tables, rejects = [QUESTIONS.empty_table()], []
    for source in group:
        path = resolve_path(source.path)
        fields = {"answers": "answer", **source.fields}
        table, bad = read_questions(path, name=source.name, split=split, fields=fields, limit=source.limit)
        tables.append(table)
        rejects += bad
    table, repeated = deduplicate(pa.concat_tables(tables))
    return table, rejects + repeated


def _run(context: Context) -> Outcome:
    read = {split: _read(split, group) for split, group in sources(context.config).items()}
    held_out = pa.concat_tables([read["dev"][0], read["test"][0]])
    train, overlap = drop_evaluation_overlap(read["train"][0], held_out)
    rejects = read["train"][1]
    if context.config.rollouts.import_on:  # a row a draw: the same question again is no fault
        rejects = [reject for reject in rejects if reject.reason != "duplicate_id"]
    read["train"] = (train, rejects + overlap)
    for split, (table, rejects) in read.items():
        context.out.commit(part_name(split), table, schema=QUESTIONS, rejects=to_table(rejects))
    kept = sum(table.num_rows for table, _ in read.values())
    return Outcome(
        rows_in=kept + sum(len(rejects) for _, rejects in read.values()),
        rows_out=kept,
        figures={split: table.num_rows for split, (table, _) in read.items()},
    )


def _check(config: RunConfig) -> None:
    for name, path in _inputs(config).items():
        Directory(resolve_path(path)).require(f"question file of {name}")


QUESTIONS_STAGE = Stage(name="questions", run=_run, matters=_matters, inputs=_inputs, check=_check)
