"""Counts of a bootstrap over trajectories: how far P and the weights would move if the corpus were drawn again.

Tables of schema.ANNOTATIONS enter, tables of schema.REPLICATED_COUNTS leave: beside each count stand B replicates, in
which a trajectory counts Poisson(1) times (the limit of drawing N trajectories with replacement). The weights are drawn
from (seed, row_id) alone in the same pass over the data, so replicates add up like counts do: exactly, in any sharding
and order. A trajectory is the unit, since the steps of one thought are not independent.

Axes: N trajectories, T transitions, G distinct transitions, B replicates; R rows of several tables.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows.schema import COUNTS, REPLICATED_COUNTS
from mralign.transitions.counts import Counts, Labels, add, count, count_rows, merge, select, sorted_groups
from mralign.transitions.draws import poisson, row_keys


def count_replicated(
    steps: pa.Table,
    *,
    states: Sequence[str],
    replicates: int,
    seed: int,
    labels: Labels = "all",
    field: str = "labels",
) -> pa.Table:
    """As `counts.count`, with `replicates` bootstrap counts a row: a table of schema.REPLICATED_COUNTS."""
    if replicates < 0 or replicates == 1:
        raise ValueError(
            f"{replicates} bootstrap replicates; allowed are 0 (none) or 2 and more: one has no spread "
            f"(transitions.bootstrap)"
        )
    if not replicates:
        plain = count(steps, states=states, labels=labels, field=field)
        return _with_replicates(plain, np.empty((plain.num_rows, 0), dtype=np.int64))
    table, row_T, group_T = count_rows(steps, states=states, labels=labels, field=field)
    weight_NB = poisson(row_keys(steps.column("row_id"), seed=seed, purpose="bootstrap"), replicates=replicates)
    weight_BN = np.ascontiguousarray(weight_NB.T).astype(np.float64)
    n_BG = np.empty((replicates, table.num_rows), dtype=np.int64)
    for n_G, weight_N in zip(n_BG, weight_BN, strict=True):  # sums of small integers: exact in float64
        n_G[:] = np.bincount(group_T, weights=weight_N[row_T], minlength=table.num_rows)
    return _with_replicates(table, n_BG.T)


def add_replicated(tables: Sequence[pa.Table]) -> pa.Table:
    """The sum of tables of schema.REPLICATED_COUNTS: exact, associative, commutative, rows sorted by their keys."""
    whole = pa.concat_tables([REPLICATED_COUNTS.empty_table(), *tables])
    n_RB = replicate_counts(whole)
    order_R, begin_G, _ = merge(whole)
    return _with_replicates(add([whole.select(COUNTS.names)]), np.add.reduceat(n_RB[order_R], begin_G, axis=0))


def replicate_counts(table: pa.Table) -> np.ndarray:
    """The replicates of a table of schema.REPLICATED_COUNTS, (R, B) int64.

    Raises ValueError if rows have different numbers of them: they were counted with other settings.
    """
    lists = table.column("replicates").combine_chunks()
    distinct = pc.unique(pc.list_value_length(lists)).to_pylist()
    if len(distinct) > 1:
        raise ValueError(
            f"count tables with {sorted(map(str, distinct))} replicates were put together; allowed is one number: "
            f"count all of them with the same bootstrap"
        )
    flat: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(table.num_rows, (distinct[0] or 0) if distinct else 0)


def select_replicates(table: pa.Table, *, polarities: Collection[int]) -> tuple[Counts, np.ndarray]:
    """As `counts.select` (schema.REPLICATED_COUNTS), and the replicates of each transition, (T, B) int64."""
    kept = table.filter(pc.is_in(table.column("polarity"), value_set=pa.array(sorted(polarities), pa.int8())))
    source_R, target_R = (kept.column(name).to_numpy().astype(np.int64) for name in ("source", "target"))
    order_R, begin_T = sorted_groups(source_R << 20 | target_R)  # the order of `select`
    return select(kept, polarities=polarities), np.add.reduceat(replicate_counts(kept)[order_R], begin_T, axis=0)


def standard_error(values_B: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis, the replicates; nan where a replicate has no finite value."""
    finite = np.isfinite(values_B).all(axis=0)
    spread = np.where(finite, values_B, 0.0).std(axis=0, ddof=1)
    spread[values_B.min(axis=0) == values_B.max(axis=0)] = 0.0  # as of a weight that is always clipped; no rounding
    return np.where(finite, spread, np.nan)


def _with_replicates(table: pa.Table, n_GB: np.ndarray) -> pa.Table:
    offsets = pa.array(np.arange(table.num_rows + 1) * n_GB.shape[1]).cast(pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(n_GB.reshape(-1), pa.int64()))
    return table.append_column(REPLICATED_COUNTS.field("replicates"), lists)
