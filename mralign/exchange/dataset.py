"""A run as a data set in the form of the Hugging Face hub: a directory that `datasets.load_dataset` reads.

A finished run enters, part by part; Parquet files leave, a directory a configuration, and the card that names them:

- `examples`: what the training sees, in TRL's unpaired form (prompt, completion, label) with a weight a token;
- `candidates` and `annotations`: the trajectories with their segments, and the labelled steps of each;
- `rollouts`, splits `on` and `off`: every draw as text, in the form that rollouts.import_on and import_off read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from mralign.chat.model_files import load_tokenizer, tokenizer_path
from mralign.config import RunConfig
from mralign.exchange.dataset_card import dataset_card, file_of
from mralign.exchange.finished_run import FinishedRun, read_run
from mralign.exchange.preference_rows import PreferenceRow, preference_row
from mralign.rows import Mode
from mralign.rows.columns import schema_of, to_table
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, EXAMPLES, GENERATIONS, WEIGHTS
from mralign.run.store import Directory, StageDir, absolute
from mralign.training.annotated import parent_of

ROLLOUTS = pa.schema(
    [
        ("id", pa.string()),
        ("dataset", pa.string()),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("response", pa.string()),
        ("draw", pa.int32()),
        ("finish_reason", pa.string()),
    ]
)
Tables = Iterator[pa.Table]


@dataclass(frozen=True)
class ExportedSet:
    """What was written: the directory, rows by configuration, and how many examples a tokenizer spells alike."""

    uri: str
    rows: dict[str, int]
    same_tokens: int
    weighted: bool


def export_dataset(run: str, *, to: str) -> ExportedSet:
    """Write the data set of a finished run into the new or empty directory `to`, a path or URI.

    Raises ValueError for a run that has not come to its examples, a directory that holds something, and a model whose
    tokenizer cannot be loaded.
    """
    finished = read_run(run)
    for name in ("rollouts", "candidates", "annotation", "examples"):
        finished.need(name)
    home = Directory(absolute(to))
    _check_empty(home)
    rows = {}
    for name, (schema, tables) in _contents(finished).items():
        rows[name] = _write(home, name, tables, schema=schema)
    same = _same_tokens(home)
    weighted = "weights" in finished.stages
    home.write_text("README.md", dataset_card(finished.config, rows=rows, same_tokens=same, weighted=weighted))
    return ExportedSet(home.uri, rows, same, weighted)


def _check_empty(home: Directory) -> None:
    found = home.filesystem.get_file_info(fs.FileSelector(home.path(), allow_not_found=True))
    if found:
        raise ValueError(f"{home.uri} holds {found[0].base_name} already; give a new or an empty directory")


def _contents(run: FinishedRun) -> dict[str, tuple[pa.Schema, Tables]]:
    """The files of the data set by name, each with its schema and its tables, which are read when it is written."""
    candidates, annotations = run.need("candidates"), run.need("annotation")
    return {
        "examples": (schema_of(PreferenceRow), _examples(run)),
        "candidates": (CANDIDATES, _as_they_are(candidates, schema=CANDIDATES)),
        "annotations": (ANNOTATIONS, _as_they_are(annotations, schema=ANNOTATIONS)),
        "rollouts/on": (ROLLOUTS, _rollouts(run, mode=Mode.ON)),
        "rollouts/off": (ROLLOUTS, _rollouts(run, mode=Mode.OFF)),
    }


def _as_they_are(source: StageDir, *, schema: pa.Schema) -> Tables:
    for part in source.parts():
        yield source.read_parts([part], schema=schema)


def _examples(run: FinishedRun) -> Tables:
    source, candidates = run.need("examples"), run.need("candidates")
    tokenizer = tokenizer_of(run.config)
    for part in source.parts():
        texts = _values(candidates, parent_of(part, candidates), schema=CANDIDATES, column="text")
        weights = None
        if "weights" in run.stages:
            weights = _values(run.stages["weights"], part, schema=WEIGHTS, column="step_weights")
        rows = []
        for example in source.read_parts([part], schema=EXAMPLES).to_pylist():
            row_id = example["row_id"]
            step_weights = None if weights is None else weights[row_id]
            rows.append(preference_row(example, text=texts[row_id], step_weights=step_weights, tokenizer=tokenizer))
        yield to_table(rows, PreferenceRow)


def tokenizer_of(config: RunConfig) -> Any:
    """The tokenizer of the run's model. Raises ValueError where it cannot be loaded."""
    return load_tokenizer(tokenizer_path(config.model), model=config.model, dated=False)


def _values(out: StageDir, part: str, *, schema: pa.Schema, column: str) -> dict[str, Any]:
    """row_id -> what stands in a column of a part."""
    table = out.read_parts([part], schema=schema, columns=["row_id", column])
    return dict(zip(table.column("row_id").to_pylist(), table.column(column).to_pylist(), strict=True))


def _rollouts(run: FinishedRun, *, mode: Mode) -> Tables:
    source = run.need("rollouts")
    for part in source.parts():
        table = source.read_parts([part], schema=GENERATIONS)
        table = table.filter(pc.equal(table.column("mode"), str(mode)))
        renamed = {"id": "question_id", "response": "text"}
        yield pa.table({name: table.column(renamed.get(name, name)) for name in ROLLOUTS.names}, schema=ROLLOUTS)


def _write(home: Directory, name: str, tables: Tables, *, schema: pa.Schema) -> int:
    """Write one file, a row group a table; returns how many rows there are."""
    path, rows = home.path(file_of(name)), 0
    home.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
    with home.filesystem.open_output_stream(path) as stream, pq.ParquetWriter(stream, schema) as writer:
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
    return rows


def _same_tokens(home: Directory) -> int:
    """How many written examples the tokenizer spells as they were sampled."""
    with home.filesystem.open_input_file(home.path(file_of("examples"))) as stream:
        column = pq.read_table(stream, columns=["same_tokens"]).column("same_tokens")
    return int(pc.sum(column).as_py() or 0)
