"""Repeated ids and repeated questions, found by keys alone: the questions of all parts never meet in one process.

Parts of questions enter, one at a time; between them travel their keys, 16-byte hashes of each id and each normalised
question. Leaves: which row of which part repeats which other one, and each part without those. A bucket of keys can be
searched apart from the others, since equal questions have equal keys. METHOD.md section 1.

Axes: N keys of a bucket, in reading order.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.questions.matching import normalize
from mralign.rejects import Reject
from mralign.schema import QUESTIONS, cast

SPLITS = ("train", "dev", "test")
KEYS = pa.schema(
    {
        "question_id": pa.string(),
        "id_high": pa.uint64(),
        "id_low": pa.uint64(),
        "question_high": pa.uint64(),
        "question_low": pa.uint64(),
    }
)
REPEATS = pa.schema(
    {
        "part": pa.int32(),  # place in the list of parts
        "row": pa.int64(),  # place in the part
        "reason": pa.string(),  # duplicate_id | duplicate_question | in_evaluation_split
        "same_id": pa.string(),  # question_id of the row that stays
    }
)
_Array = np.ndarray[Any, Any]


def question_keys(table: pa.Table) -> pa.Table:
    """KEYS of the rows of one part (schema QUESTIONS), in its order."""
    ids, questions = (table.column(name).to_pylist() for name in ("question_id", "question"))
    # A question of nothing but punctuation and articles has an empty normal form: it is its own key.
    hashes = (*_hashes(ids), *_hashes([normalize(question) or question for question in questions]))
    return pa.table([table.column("question_id"), *map(pa.array, hashes)], schema=KEYS)


def find_repeats(
    keys: Sequence[pa.Table],
    *,
    splits: Sequence[str],
    by: str,
    without: pa.Table | None = None,
    bucket: int = 0,
    buckets: int = 1,
) -> pa.Table:
    """The rows to put aside (schema REPEATS) among the keys with low % `buckets` == `bucket`.

    `keys`: KEYS of every part, in reading order; `splits`: the split of each part (train | dev | test). `by` "id": rows
    whose id an earlier row of their split has. `by` "question": rows whose normalised question an earlier row of their
    split has, and train rows whose question also stands in dev or test (the first of those is named, dev before test).
    `without`: REPEATS that are gone already.
    """
    unknown = sorted(set(splits) - set(SPLITS))
    if unknown:
        raise ValueError(f"splits {unknown} are not known; allowed are {', '.join(SPLITS)}")
    columns = _columns(keys, splits=splits, by=by)
    keep_N = columns["low"] % np.uint64(buckets) == np.uint64(bucket)
    if without is not None and without.num_rows:
        starts = np.cumsum([0, *(table.num_rows for table in keys)])
        keep_N[starts[without.column("part").to_numpy()] + without.column("row").to_numpy()] = False
    columns = {name: values_N[keep_N] for name, values_N in columns.items()}
    first_N = _first(columns["high"], columns["low"], columns["split"])
    again_N = first_N != np.arange(len(first_N))
    reason = "duplicate_id" if by == "id" else "duplicate_question"
    found = [_repeats(columns, keys, rows=np.flatnonzero(again_N), same=first_N[again_N], reason=reason)]
    if by == "question":
        found.append(_held_out(columns, keys, rows=np.flatnonzero(~again_N)))
    return pa.concat_tables(found)


def drop_repeats(table: pa.Table, repeats: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """`table` (schema QUESTIONS) without the rows that `repeats` (REPEATS of this part only) names, and those."""
    keep = np.ones(table.num_rows, bool)
    keep[repeats.column("row").to_numpy()] = False
    dropped = table.take(repeats.column("row"))
    rejects = [
        Reject(question_id, reason, f"same {'id' if reason == 'duplicate_id' else 'question'} as {other}", question)
        for question_id, question, reason, other in zip(
            *(dropped.column(name).to_pylist() for name in ("question_id", "question")),
            *(repeats.column(name).to_pylist() for name in ("reason", "same_id")),
            strict=True,
        )
    ]
    return cast(table.filter(pa.array(keep)), QUESTIONS), rejects


def _hashes(texts: Sequence[str]) -> tuple[_Array, _Array]:
    data = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
    pairs = np.frombuffer(data, "<u8").reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def _columns(keys: Sequence[pa.Table], *, splits: Sequence[str], by: str) -> dict[str, _Array]:
    """high, low, split (0 is train), part and row of every key, in reading order."""
    sizes = [table.num_rows for table in keys]
    joined = pa.concat_tables([KEYS.empty_table(), *keys])
    return {
        "high": joined.column(f"{by}_high").to_numpy(),
        "low": joined.column(f"{by}_low").to_numpy(),
        "split": np.repeat(np.array([SPLITS.index(split) for split in splits], np.int8), sizes),
        "part": np.repeat(np.arange(len(keys), dtype=np.int32), sizes),
        "row": np.concatenate([np.arange(size, dtype=np.int64) for size in (0, *sizes)]),
    }


def _first(*keys_N: _Array) -> _Array:
    """For every place, the first place that has the same keys."""
    size = len(keys_N[0])
    order = np.lexsort((np.arange(size), *keys_N))
    new = np.ones(size, bool)
    if size:
        new[1:] = np.any([key_N[order[1:]] != key_N[order[:-1]] for key_N in keys_N], axis=0)
    first = np.empty(size, np.int64)
    first[order] = order[np.maximum.accumulate(np.where(new, np.arange(size), 0))]
    return first


def _held_out(columns: dict[str, _Array], keys: Sequence[pa.Table], *, rows: _Array) -> pa.Table:
    """The train rows among `rows` (places, one a question and split) whose question also stands in dev or test."""
    split_N = columns["split"]
    order = rows[np.argsort(np.where(split_N[rows] == 0, len(SPLITS), split_N[rows]), kind="stable")]  # train last
    first = order[_first(columns["high"][order], columns["low"][order])]
    hit = (split_N[order] == 0) & (split_N[first] != 0)
    return _repeats(columns, keys, rows=order[hit], same=first[hit], reason="in_evaluation_split")


def _repeats(columns: dict[str, _Array], keys: Sequence[pa.Table], *, rows: _Array, same: _Array, reason: str) -> Any:
    part_N, row_N = columns["part"], columns["row"]
    others = [keys[part_N[place]].column("question_id")[int(row_N[place])].as_py() for place in same]
    return pa.table([part_N[rows], row_N[rows], [reason] * len(rows), others], schema=REPEATS)
