"""Annotated steps become a count of every distinct transition between state sets (method.md §3, sufficient statistic).

Tables of schema.ANNOTATIONS enter, tables of schema.COUNTS leave: a shard gives one small table, `add` merges any
number of them exactly (int64 sums, rows in one order), so shards, their order and their number cannot change a result.
The states are a tuple: <start>, the labels in taxonomy order, <stop>; K is its length. A set of one or two states
a <= b is the number a*K + b (a = b: a single state).

Axes: N trajectories, S steps of all trajectories in order, L labelled ones, T transitions, E = 4 base edges of each.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows.schema import COUNTS

UNLABELLED = -1  # code of an empty set
START = 0  # code of {<start>}: state 0 alone

Labels = Literal["all", "single"]
_KEYS = ["dataset", "polarity", "source", "target"]


@dataclass(frozen=True)
class Counts:
    """Distinct transitions of the chosen polarities: set codes (T,) int64 and how often each occurs, (T,) int64."""

    source_sets: np.ndarray
    target_sets: np.ndarray
    n: np.ndarray
    polarities: tuple[int, ...]


@dataclass(frozen=True)
class Chains:
    """The steps of N trajectories in order, flat: which trajectory, which set, and the set before it."""

    row_S: np.ndarray  # int64
    set_S: np.ndarray  # int64, UNLABELLED for an empty set
    # int64: the nearest labelled set before the step in its trajectory, else START; UNLABELLED where set_S is.
    previous_S: np.ndarray


def stop_code(K: int) -> int:
    """Code of {<stop>}, the last of K states alone."""
    return K * K - 1


def encode_sets(label_sets: pa.Array, *, states: Sequence[str], labels: Labels = "all") -> np.ndarray:
    """Codes (S,) int64 of label sets, a list<string> array of length S with 0 to 2 labels each; UNLABELLED if empty.

    `labels="single"` keeps only the first label, the most confident one. Raises ValueError on an unknown label and on
    more than two labels.
    """
    if labels not in ("all", "single"):
        raise ValueError(f"labels is {labels!r}; allowed are 'all' and 'single' (transitions.labels)")
    K = len(states)
    lengths = pc.list_value_length(label_sets).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if lengths.size and lengths.max() > 2:
        raise ValueError(
            f"a step has {lengths.max()} labels; allowed are 0, 1 or 2: run the consensus of method.md §2a"
        )
    values = label_sets.flatten()
    index = pc.index_in(values, value_set=pa.array(states[1:-1], pa.string()))
    if index.null_count:
        unknown = pc.unique(values.filter(pc.is_null(index))).to_pylist()
        raise ValueError(
            f"labels {unknown} are not states; allowed are {list(states[1:-1])}: give the states of the taxonomy that "
            f"the steps were annotated with"
        )
    place = index.to_numpy(zero_copy_only=False).astype(np.int64) + 1  # state 0 is <start>
    begin = np.cumsum(lengths) - lengths
    some = lengths > 0
    first = place[begin[some]]
    second = place[begin[some] + (lengths[some] - 1 if labels == "all" else 0)]
    codes = np.full(lengths.size, UNLABELLED, dtype=np.int64)
    codes[some] = np.minimum(first, second) * K + np.maximum(first, second)
    return codes


def chains(steps: pa.Table, *, states: Sequence[str], labels: Labels = "all", field: str = "labels") -> Chains:
    """Every step of `steps` (schema.ANNOTATIONS) with its set and its predecessor (method.md §2a and §3).

    An unlabelled step is skipped: its neighbours become adjacent.
    """
    column = steps.column("steps")
    nested = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()  # which copies even one chunk
    lengths = pc.list_value_length(nested).fill_null(0).to_numpy(zero_copy_only=False)
    row_S = np.repeat(np.arange(steps.num_rows, dtype=np.int64), lengths)
    set_S = encode_sets(pc.struct_field(nested.flatten(), field), states=states, labels=labels)
    labelled = np.flatnonzero(set_S != UNLABELLED)
    previous_S = np.full(set_S.size, UNLABELLED, dtype=np.int64)
    previous_S[labelled] = previous(set_S[labelled], row_L=row_S[labelled])
    return Chains(row_S=row_S, set_S=set_S, previous_S=previous_S)


def previous(set_L: np.ndarray, *, row_L: np.ndarray) -> np.ndarray:
    """The set before each of L labelled steps in its trajectory, (L,), START before the first; `row_L` ascends."""
    follows = np.zeros(row_L.size, dtype=bool)
    follows[1:] = row_L[1:] == row_L[:-1]
    return np.where(follows, np.roll(set_L, 1), START)


def before(previous_L: np.ndarray, *, row_L: np.ndarray) -> np.ndarray:
    """The set before the `previous` one of each of L labelled steps, (L,); UNLABELLED where that one is START."""
    follows = np.zeros(row_L.size, dtype=bool)
    follows[1:] = row_L[1:] == row_L[:-1]
    return np.where(follows, np.roll(previous_L, 1), UNLABELLED)


def stopped(set_L: np.ndarray, *, row_L: np.ndarray, previous_L: np.ndarray, K: int) -> tuple[np.ndarray, ...]:
    """Row, source and target, (T,) each, of every transition between L labelled steps: into each of them, then out of
    the last one of each trajectory into <stop>."""
    last = np.ones(row_L.size, dtype=bool)
    last[:-1] = row_L[1:] != row_L[:-1]
    row_T = np.concatenate([row_L, row_L[last]])
    source_T = np.concatenate([previous_L, set_L[last]])
    target_T = np.concatenate([set_L, np.full(int(last.sum()), stop_code(K), dtype=np.int64)])
    return row_T, source_T, target_T


def count(steps: pa.Table, *, states: Sequence[str], labels: Labels = "all", field: str = "labels") -> pa.Table:
    """Transitions of the trajectories in `steps` (schema.ANNOTATIONS), counted: a table of schema.COUNTS.

    A trajectory's observations are {<start>}, its labelled steps, {<stop>} (method.md §3). Our choice: a trajectory
    without a labelled step contributes nothing; <start> -> <stop> would claim a thought without strategy where only its
    labels are missing. `field` picks the final labels or one annotator's (labels_a, labels_b: method.md §2c).
    """
    names, key_T, _ = _transitions(steps, states=states, labels=labels, field=field)
    ordered = np.sort(key_T)  # an order of the rows, which `count_rows` needs, takes three times as long
    begin_G = np.flatnonzero(np.diff(ordered, prepend=-1))
    return _unpacked(ordered[begin_G], names=names, n_G=np.diff(begin_G, append=ordered.size))


def count_rows(
    steps: pa.Table, *, states: Sequence[str], labels: Labels = "all", field: str = "labels"
) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """As `count`, and where each transition comes from: its row in `steps`, (T,), and its row in the table, (T,)."""
    names, key_T, row_T = _transitions(steps, states=states, labels=labels, field=field)
    order_T, begin_G = sorted_groups(key_T)
    group_T = np.empty(key_T.size, dtype=np.int64)
    group_T[order_T] = np.repeat(np.arange(begin_G.size), np.diff(begin_G, append=key_T.size))
    n_G = np.diff(begin_G, append=key_T.size)
    return _unpacked(key_T[order_T[begin_G]], names=names, n_G=n_G), row_T, group_T


def _transitions(
    steps: pa.Table, *, states: Sequence[str], labels: Labels, field: str
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """The names of the data sets, and of every transition its key (`_packed`), (T,), and its row in `steps`, (T,)."""
    chain = chains(steps, states=states, labels=labels, field=field)
    labelled = np.flatnonzero(chain.set_S != UNLABELLED)
    row_T, source_T, target_T = stopped(
        chain.set_S[labelled],
        row_L=chain.row_S[labelled],
        previous_L=chain.previous_S[labelled],
        K=len(states),
    )
    names, dataset_N = _datasets(steps.column("dataset"))
    polarity_N = steps.column("polarity").to_numpy().astype(np.int64)
    side_N = _packed(dataset_N, polarity_N, np.int64(0), np.int64(0))
    return names, side_N[row_T] | _packed(np.int64(0), np.int64(-128), source_T, target_T), row_T


def count_pairs(source_T: np.ndarray, target_T: np.ndarray, *, K: int, polarities: Collection[int] = ()) -> Counts:
    """Transitions given as set codes (T,), a*K + b with a <= b, counted: what `select` gives of a table.

    Raises ValueError on codes outside 0 .. K*K - 1.
    """
    for name, codes in (("source", source_T), ("target", target_T)):
        if codes.size and not (codes.min() >= 0 and codes.max() < K * K):
            raise ValueError(f"{name} codes reach from {codes.min()} to {codes.max()}; allowed are 0 to {K * K - 1}")
    key_T = source_T.astype(np.int64) * (K * K) + target_T
    if max(4 * key_T.size, 2**20) >= K**4:  # one bin for each possible transition
        n_K4 = np.bincount(key_T, minlength=1)
        distinct = np.flatnonzero(n_K4)
        n_G = n_K4[distinct]
    else:
        distinct, n_G = np.unique(key_T, return_counts=True)
    return Counts(distinct // (K * K), distinct % (K * K), n_G.astype(np.int64), tuple(sorted(polarities)))


def add(tables: Sequence[pa.Table]) -> pa.Table:
    """The sum of count tables (schema.COUNTS): exact, associative, commutative, rows sorted by their keys."""
    whole = pa.concat_tables([COUNTS.empty_table(), *tables])
    order_R, begin_G, keys = merge(whole)
    n_R = whole.column("count").to_numpy()
    return keys.append_column(COUNTS.field("count"), pa.array(np.add.reduceat(n_R[order_R], begin_G), pa.int64()))


def merge(whole: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Which rows of `whole` (schema.COUNTS) belong together: an order (R,) that puts them beside each other, where each
    group begins in it, (G,), and the columns other than the count, (G rows), sorted."""
    names, dataset_R = _datasets(whole.column("dataset"))
    polarity, source, target = (whole.column(name).to_numpy().astype(np.int64) for name in _KEYS[1:])
    key_R = _packed(dataset_R, polarity, source, target)
    order_R, begin_G = sorted_groups(key_R, runs=True)
    table = _unpacked(key_R[order_R[begin_G]], names=names, n_G=np.zeros(begin_G.size, dtype=np.int64))
    return order_R, begin_G, table.drop_columns(["count"])


def _datasets(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The names in ascending order, and the place of each row's name among them, (N,) int64."""
    distinct = pc.unique(column)
    names = distinct.take(pc.sort_indices(distinct))
    return names, pc.index_in(column, value_set=names).to_numpy().astype(np.int64)


def _packed(dataset: np.ndarray | np.int64, polarity: np.ndarray | np.int64, source: Any, target: Any) -> np.ndarray:
    """One int64 a row that ascends as (dataset, polarity, source, target) do; set codes below 2**20: K up to 1024."""
    return (dataset << 48) | ((polarity + 128) << 40) | (source << 20) | target


def _unpacked(key_G: np.ndarray, *, names: pa.Array, n_G: np.ndarray) -> pa.Table:
    """The rows of schema.COUNTS that the keys stand for."""
    return pa.table(
        {
            "dataset": names.take(pa.array(key_G >> 48)),
            "polarity": pa.array((key_G >> 40 & 255) - 128, pa.int8()),
            "source": pa.array(key_G >> 20 & 0xFFFFF, pa.int32()),
            "target": pa.array(key_G & 0xFFFFF, pa.int32()),
            "count": pa.array(n_G, pa.int64()),
        },
        schema=COUNTS,
    )


def sorted_groups(key_R: np.ndarray, *, runs: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """An order (R,) that sorts the keys, and the places in it where another key begins, (G,).

    `runs`: the keys are a few ascending runs, as sorted tables one after another are; they are merged.
    """
    kind: Literal["stable", "quicksort"] = "stable" if runs else "quicksort"
    order_R = np.argsort(key_R, kind=kind)
    ordered = key_R[order_R]
    return order_R, np.flatnonzero(np.diff(ordered, prepend=-1))


def select(counts: pa.Table, *, polarities: Collection[int]) -> Counts:
    """The transitions of the given polarities (schema.COUNTS), summed over data sets, in ascending order of codes.

    `matrices.MATRIX_POLARITIES` says which polarities a matrix is estimated from (method.md §3).
    """
    kept = counts.filter(pc.is_in(counts.column("polarity"), value_set=pa.array(sorted(polarities), pa.int8())))
    summed = kept.group_by(["source", "target"], use_threads=False).aggregate([("count", "sum")])
    summed = summed.sort_by([("source", "ascending"), ("target", "ascending")])
    return Counts(
        source_sets=summed.column("source").to_numpy().astype(np.int64),
        target_sets=summed.column("target").to_numpy().astype(np.int64),
        n=summed.column("count_sum").to_numpy().astype(np.int64),
        polarities=tuple(sorted(polarities)),
    )


def of_datasets(table: pa.Table, *, datasets: Sequence[str]) -> pa.Table:
    """The rows of the data sets that are trained on; all where none is named."""
    wanted = pa.array(datasets, pa.string())
    return table.filter(pc.is_in(table.column("dataset"), value_set=wanted)) if datasets else table


def base_edges(
    source_sets: np.ndarray, target_sets: np.ndarray, *, K: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The base edges a -> b, a in I, b in J, of transitions I -> J given as codes (T,).

    Returns states a_TE, b_TE (int64) and exists_TE (bool), E = 4; a single state fills its second place, which does not
    exist.
    """
    sources, targets = np.divmod(source_sets, K), np.divmod(target_sets, K)
    a_TE = np.stack([sources[0], sources[0], sources[1], sources[1]], axis=-1)
    b_TE = np.stack([targets[0], targets[1], targets[0], targets[1]], axis=-1)
    pair_I, pair_J = sources[0] != sources[1], targets[0] != targets[1]
    exists_TE = np.stack([np.ones_like(pair_I), pair_J, pair_I, pair_I & pair_J], axis=-1)
    return a_TE, b_TE, exists_TE
