"""Repeated ids and questions, found by keys alone: the questions of all parts never meet in one process.

Enters: the question tables, part by part. Between them travel their keys: 16-byte hashes of each id and each normalised
question, with the row and the id. Leaves: which row of which part repeats which other one, and each part without those.
A bucket of keys can be searched apart from the others, since what is equal has equal keys. method.md §1.

Axes: N keys of one bucket, M those of them that occur more than once, G their groups, S splits.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.questions.normalisation import key
from mralign.questions.sources import SPLITS
from mralign.rows.columns import cast
from mralign.rows.schema import QUESTIONS, Reject

KINDS = ("id", "question")

KEYS = pa.schema(
    {
        "row": pa.int64(),  # position in the part
        "id_hi": pa.uint64(),  # hash of the question_id
        "id_lo": pa.uint64(),
        "question_hi": pa.uint64(),  # hash of the normalised question
        "question_lo": pa.uint64(),
        "question_id": pa.string(),
    }
)
REPEATS = pa.schema(
    {
        "part": pa.int32(),
        "row": pa.int64(),
        "reason": pa.string(),  # duplicate_id | duplicate_question | in_evaluation_split
        "same_part": pa.int32(),  # where that stands which this row repeats
        "same_row": pa.int64(),
        "same_id": pa.string(),  # and its question_id
    }
)
_DETAILS = {"duplicate_id": "an earlier row has the id {}"}


def question_keys(table: pa.Table) -> pa.Table:
    """Keys (schema KEYS) of the questions of one part (schema QUESTIONS), in its order."""
    ids = _hashes(table.column("question_id").to_pylist())
    questions = _hashes([key(text) for text in table.column("question").to_pylist()])
    rows = np.arange(table.num_rows, dtype=np.int64)
    columns = [rows, ids[:, 0], ids[:, 1], questions[:, 0], questions[:, 1]]
    return pa.table([*map(pa.array, columns), table.column("question_id")], schema=KEYS)


def find_repeats(
    keys: Sequence[pa.Table],
    *,
    splits: Sequence[str],
    by: str = "question",
    without: pa.Table | None = None,
    bucket: int = 0,
    buckets: int = 1,
) -> pa.Table:
    """The rows to put aside (schema REPEATS, by part and row) among the keys whose low half % buckets is `bucket`.

    `keys`: those of every part, in reading order; `splits`: the split of each part (train | dev | test); `by`: id or
    question; `without`: rows (schema REPEATS) that are put aside already and count no more. Within a split the first
    stays, and later ones are duplicate_id or duplicate_question. By question, that first one of train is
    in_evaluation_split if dev or test has it too; `same_*` is then the first in dev, or else the first in test.
    """
    for what, given, allowed in (("splits", set(splits), SPLITS), ("by", {by}, KINDS)):
        if unknown := sorted(given - set(allowed)):
            raise ValueError(f"{what} {unknown} is not known; allowed are {', '.join(allowed)}")
    hi_N, lo_N, part_N, row_N = _gather(keys, by=by, without=without, bucket=bucket, buckets=buckets)
    order_M, group_M = _shared(hi_N, lo_N)
    part_M, row_M = part_N[order_M], row_N[order_M]
    split_M = np.array([SPLITS.index(split) for split in splits], dtype=np.int8)[part_M]
    same_M, held_out_M = _same(group_M, split_M, across=by == "question")
    repeated = np.flatnonzero(same_M >= 0)
    repeated = repeated[np.lexsort((row_M[repeated], part_M[repeated]))]
    same = same_M[repeated]
    columns = {
        "part": part_M[repeated],
        "row": row_M[repeated],
        "reason": pc.if_else(pa.array(held_out_M[repeated]), "in_evaluation_split", f"duplicate_{by}"),
        "same_part": part_M[same],
        "same_row": row_M[same],
        "same_id": _ids(keys, part_M[same], row_M[same]),
    }
    return pa.table(columns, schema=REPEATS)


def drop_repeats(table: pa.Table, repeats: pa.Table) -> tuple[pa.Table, list[Reject]]:
    """Removes the rows listed in `repeats` (schema REPEATS, of this part alone) from a part (schema QUESTIONS).

    Returns the rest, and a reject for each row that was removed.
    """
    keep = np.ones(table.num_rows, dtype=bool)
    keep[repeats.column("row").to_numpy()] = False
    dropped = table.take(repeats.column("row").combine_chunks()).select(["question_id", "dataset", "question"])
    rejects: list[Reject] = []
    for row, repeat in zip(dropped.to_pylist(), repeats.to_pylist(), strict=True):
        detail = _DETAILS.get(repeat["reason"], "same question as {}").format(repeat["same_id"])
        rejects.append(Reject(row["question_id"], repeat["reason"], detail, row["question"], dataset=row["dataset"]))
    return cast(table.filter(pa.array(keep)), QUESTIONS), rejects


def _hashes(texts: Sequence[str]) -> np.ndarray:
    """(N, 2) uint64: high and low half of a 16-byte hash."""
    digests = b"".join(blake2b(text.encode(), digest_size=16).digest() for text in texts)
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 2)


def _gather(
    keys: Sequence[pa.Table], *, by: str, without: pa.Table | None, bucket: int, buckets: int
) -> tuple[np.ndarray, ...]:
    """Columns (N,) of one bucket over all parts: hi, lo uint64, part int32, row int64."""
    gone = _rows_by_part(without)
    columns: list[tuple[np.ndarray, ...]] = [
        (np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int64))
    ]
    for part, table in enumerate(keys):
        hi, lo, row = (table.column(name).to_numpy() for name in (f"{by}_hi", f"{by}_lo", "row"))
        mine = lo % np.uint64(buckets) == bucket
        if part in gone:
            mine &= ~np.isin(row, gone[part])
        columns.append((hi[mine], lo[mine], np.full(np.count_nonzero(mine), part, np.int32), row[mine]))
    return tuple(np.concatenate(column) for column in zip(*columns, strict=True))


def _rows_by_part(repeats: pa.Table | None) -> dict[int, np.ndarray]:
    if repeats is None:
        return {}
    part, row = repeats.column("part").to_numpy(), repeats.column("row").to_numpy()
    order = np.argsort(part, kind="stable")
    parts, starts = np.unique(part[order], return_index=True)
    return dict(zip(parts.tolist(), np.split(row[order], starts[1:]), strict=True)) if len(parts) else {}


def _shared(hi_N: np.ndarray, lo_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions (M,) of the keys that occur more than once, equal ones together and in reading order; their group."""
    order_N = np.lexsort((lo_N, hi_N))  # stable
    hi_N, lo_N = hi_N[order_N], lo_N[order_N]
    equal = (lo_N[1:] == lo_N[:-1]) & (hi_N[1:] == hi_N[:-1])
    end = np.zeros(min(1, len(order_N)), bool)
    as_before, as_after = np.concatenate([end, equal]), np.concatenate([equal, end])
    shared = as_before | as_after
    return order_N[shared], np.cumsum(~as_before[shared]) - 1


def _same(group_M: np.ndarray, split_M: np.ndarray, *, across: bool) -> tuple[np.ndarray, np.ndarray]:
    """For each position the one it repeats (-1: none), and whether that stands in a held-out split."""
    first_GS = np.full((int(group_M[-1]) + 1 if len(group_M) else 0, len(SPLITS)), -1, dtype=np.int64)
    for split in range(len(SPLITS)):
        positions = np.flatnonzero(split_M == split)[::-1]  # reversed: the first in reading order is written last
        first_GS[group_M[positions], split] = positions
    own_M = first_GS[group_M, split_M]
    held_M = np.where(first_GS[:, 1] >= 0, first_GS[:, 1], first_GS[:, 2])[group_M]
    is_first = own_M == np.arange(len(group_M))
    held_out_M = is_first & (split_M == 0) & (held_M >= 0) & across
    return np.where(held_out_M, held_M, np.where(is_first, -1, own_M)), held_out_M


def _ids(keys: Sequence[pa.Table], part_K: np.ndarray, row_K: np.ndarray) -> list[str]:
    """The question_id of each (part, row), part by part: a `take` over all parts would copy the ids of all rows."""
    ids_K = np.empty(len(part_K), dtype=object)
    for part in np.unique(part_K):
        mine = np.flatnonzero(part_K == part)
        places = np.searchsorted(keys[part].column("row").to_numpy(), row_K[mine])
        ids_K[mine] = keys[part].column("question_id").take(pa.array(places)).to_pylist()
    return ids_K.tolist()
