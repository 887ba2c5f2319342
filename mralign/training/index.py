"""The index: every example of a training without its tokens.

The scalar columns of committed examples enter; arrays leave, about 50 bytes an example, from which batches, pairs and
micro-batches are planned. Tokens are read when their step comes (`reader.py`), so a set of examples never sits in
memory.

Axes: N examples, ordered by the hash of their ids: the order does not depend on how they are cut into parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.rows.schema import EXAMPLE_INDEX, EXAMPLES
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.examples import content_hash

_SCALARS = ["polarity", "prompt_tokens", "completion_tokens", "prompt_hash", "completion_hash"]
_SMALL = 2**20  # bytes of an index that is read at once


@dataclass(frozen=True, eq=False)
class Index:
    """One entry an example."""

    parts: tuple[str, ...]  # names of the parts of the examples
    part_N: np.ndarray  # int32, place in `parts`
    row_N: np.ndarray  # int32, row of that part
    question_N: np.ndarray  # int64, equal for examples of one question
    polarity_N: np.ndarray  # int8, +1 | -1
    prompt_tokens_N: np.ndarray  # int32
    completion_tokens_N: np.ndarray  # int32
    prompt_hash_N: np.ndarray  # int64, of the token ids
    completion_hash_N: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.part_N)

    @property
    def kind_N(self) -> np.ndarray:
        """int64: orders examples by polarity and then by length, of which the log-ratio of a completion depends."""
        return self.polarity_N.astype(np.int64) * 2**32 + self.completion_tokens_N


def index_rows(source: StageDir, parts: Sequence[tuple[int, str]]) -> pa.Table:
    """The entries (schema.EXAMPLE_INDEX) of some parts of the examples, given as (place among all parts, name)."""
    tables = [EXAMPLE_INDEX.empty_table()]
    for place, name in parts:
        rows = source.read_parts([name], schema=EXAMPLES, columns=["row_id", "question_id", *_SCALARS])
        columns = {
            "row_hash": _hashes(rows.column("row_id")),
            "part": pa.array(np.full(rows.num_rows, place), pa.int32()),
            "row": pa.array(np.arange(rows.num_rows), pa.int32()),
            "question": _hashes(rows.column("question_id")),
            **{scalar: rows.column(scalar) for scalar in _SCALARS},
        }
        tables.append(pa.table(columns).select(EXAMPLE_INDEX.names))
    return pa.concat_tables(tables)


def _columns(examples: StageDir, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Columns of the index: of a large one each is read on its own, so that the whole table is never in memory."""
    index, whole = index_dir(examples), part_name("all")
    together = len(names) if index.sizes().get(whole, 0) <= _SMALL else 1
    for start in range(0, len(names), together):
        group = names[start : start + together]
        table = index.read_parts([whole], schema=EXAMPLE_INDEX, columns=group)
        for name in group:
            yield name, table.column(name).to_numpy().copy()


def _hashes(column: pa.ChunkedArray) -> pa.Array:
    return pa.array([content_hash(text.encode()) for text in column.to_pylist()], pa.int64())


def index_dir(examples: StageDir) -> StageDir:
    """Where the stage `examples` keeps its index."""
    return StageDir(f"{examples.uri}/index", stage=examples.stage, fingerprint=examples.fingerprint)


def write_index(examples: StageDir, tables: Sequence[pa.Table]) -> None:
    """Commit the index, in its order, from the entries of all parts."""
    whole = pa.concat_tables([EXAMPLE_INDEX.empty_table(), *tables])
    index_dir(examples).commit(part_name("all"), whole.sort_by("row_hash"), schema=EXAMPLE_INDEX)


def index_totals(examples: StageDir, *tables: pa.Table) -> dict[str, int]:
    """Commit the index, as `write_index`: its examples of either polarity, and the tokens of their completions."""
    write_index(examples, tables)
    totals = Counter({"positive": 0, "negative": 0, "completion_tokens": 0})
    for table in tables:
        polarity_N = table.column("polarity").to_numpy()
        totals["positive"] += int((polarity_N > 0).sum())
        totals["negative"] += int((polarity_N < 0).sum())
        totals["completion_tokens"] += int(table.column("completion_tokens").to_numpy().sum())
    return dict(totals)


def read_index(examples: StageDir, *, negatives: bool = True) -> Index:
    """The committed index; without `negatives`, of the positive examples only."""
    names = sorted(set(EXAMPLE_INDEX.names) - {"row_hash"}, key="polarity".__ne__)  # it says which rows are kept
    column: dict[str, np.ndarray] = {}
    kept: Any = slice(None)
    for name, values in _columns(examples, names):
        if name == "polarity" and not negatives:
            kept = values > 0
        column[name] = values[kept]
    pa.default_memory_pool().release_unused()
    return Index(
        parts=tuple(examples.parts()),
        part_N=column["part"],
        row_N=column["row"],
        question_N=column["question"],
        polarity_N=column["polarity"],
        prompt_tokens_N=column["prompt_tokens"],
        completion_tokens_N=column["completion_tokens"],
        prompt_hash_N=column["prompt_hash"],
        completion_hash_N=column["completion_hash"],
    )
