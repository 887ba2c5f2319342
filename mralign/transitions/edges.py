"""What stands behind the weights: every transition of a polarity with its count, its ratio, and how sure the ratio is.

Count tables and matrices enter, a table of schema.EDGES leaves: once for transitions between label sets, as steps are
weighed, and once for single edges a -> b, as the maps of the report show them. Edges into <stop> weigh no step and are
left out. The bands mark the 15 % of the edges of a level and polarity with the highest and the lowest ratio (method.md
§6, Fig. 5 of the paper), among those with a count of at least `MIN_SUPPORT`. A bootstrap draws only what was seen: the
standard error of an edge that one or two trajectories took is too small, so read it together with the count.

Axes: T edges, B bootstrap replicates; matrices are (K, K), rows sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mralign.rows import Polarity
from mralign.rows.schema import EDGES
from mralign.transitions.bootstrap import standard_error
from mralign.transitions.counts import select, stop_code
from mralign.transitions.weights import NAME, Anchor, pair_probability, ratios, set_name

BAND = 0.15
MIN_SUPPORT = 5.0  # a smaller count says more of the prior than of the data, and of its own error too little


@dataclass(frozen=True)
class CountedEdges:
    """The edges of one level and polarity: codes of their sets (T,) int64 and how often they occur, (T,) float64."""

    source_T: np.ndarray
    target_T: np.ndarray
    count_T: np.ndarray


@dataclass(frozen=True)
class WeightRule:
    """How a ratio becomes a weight (method.md §4)."""

    anchor: Anchor = "global"
    clip_min: float = 1 / math.e
    clip_max: float = math.e


def edges(
    counts: pa.Table,
    *,
    matrices: Mapping[str, np.ndarray],
    support: Mapping[str, np.ndarray],
    replicates: Mapping[str, np.ndarray],
    states: Sequence[str],
    rule: WeightRule,
) -> pa.Table:
    """The edges of both polarities on both levels, as far as they occur: a table of schema.EDGES.

    `counts` is a table of schema.COUNTS; `support` holds the expected counts C (K, K) and `replicates` the bootstrap's
    P (B, K, K), both by the names of `matrices`; B = 0 gives no standard errors. The edges of a level and polarity are
    sorted by falling ratio.
    """
    K = len(states)
    tables = [EDGES.empty_table()]
    for polarity, name in NAME.items():
        levels = {"sets": edges_of_sets(counts, polarity=polarity, K=K)}
        if name in support:
            levels["states"] = _of_states(support[name], K=K)
        for level, counted in levels.items():
            if not counted.count_T.size:
                continue
            ratio_T = ratios(
                counted.source_T,
                counted.target_T,
                polarity=np.full(counted.count_T.size, polarity),
                matrices=matrices,
                states=states,
                anchor=rule.anchor,
            )
            ratio_BT = replicated_ratios(counted, polarity=polarity, replicates=replicates, rule=rule)
            columns = _measured(ratio_T, ratio_BT=ratio_BT, rule=rule)
            columns |= {"band": bands(ratio_T, count_T=counted.count_T), "count": counted.count_T}
            tables.append(_table(counted, columns=columns, level=level, polarity=polarity, states=states))
    return pa.concat_tables(tables)


def bands(ratio_T: np.ndarray, *, count_T: np.ndarray) -> np.ndarray:
    """high, low or none for each edge, (T,): the highest and lowest `BAND` of those with enough support.

    An edge whose ratio is not above 1 is never high, one whose ratio is not below 1 never low.
    """
    band_T = np.full(ratio_T.size, "none", dtype="<U4")
    rising = np.flatnonzero(count_T >= MIN_SUPPORT)
    rising = rising[np.argsort(ratio_T[rising], kind="stable")]
    width = math.ceil(BAND * rising.size)
    low, high = rising[:width], rising[rising.size - width :]
    band_T[low[ratio_T[low] < 1]] = "low"
    band_T[high[ratio_T[high] > 1]] = "high"
    return band_T


def edges_of_sets(counts: pa.Table, *, polarity: Polarity, K: int) -> CountedEdges:
    """The transitions into a step that were counted."""
    table = select(counts, polarities=(polarity,))
    step = table.target_sets != stop_code(K)
    return CountedEdges(table.source_sets[step], table.target_sets[step], table.n[step].astype(np.float64))


def _of_states(C: np.ndarray, *, K: int) -> CountedEdges:
    """The edges {a} -> {b} with an expected count, b != <stop>."""
    a_T, b_T = np.nonzero(C[:, : K - 1])
    return CountedEdges(a_T * (K + 1), b_T * (K + 1), C[a_T, b_T])


def replicated_ratios(
    counted: CountedEdges, *, polarity: Polarity, replicates: Mapping[str, np.ndarray], rule: WeightRule
) -> np.ndarray:
    """The ratios of every bootstrap replicate, (B, T); own and anchor come from the same drawn trajectories."""
    anchor = "all" if rule.anchor == "global" else NAME[Polarity(-polarity)]
    own_BKK, anchor_BKK = replicates.get(NAME[polarity], ()), replicates.get(anchor, ())
    ratio_BT = np.empty((len(own_BKK), counted.count_T.size))
    for ratio_T, own, base in zip(ratio_BT, own_BKK, anchor_BKK, strict=True):
        own_T = pair_probability(own, source_sets=counted.source_T, target_sets=counted.target_T)
        base_T = pair_probability(base, source_sets=counted.source_T, target_sets=counted.target_T)
        ratio_T[:] = np.divide(own_T, base_T, out=np.full(own_T.size, np.nan), where=base_T > 0)
    return ratio_BT


def _measured(ratio_T: np.ndarray, *, ratio_BT: np.ndarray, rule: WeightRule) -> dict[str, np.ndarray | pa.Array]:
    """Ratio and weight with their standard errors (null where there is none), and whether the ratio was clipped."""

    def error(values_BT: np.ndarray) -> pa.Array:
        missing = np.full(ratio_T.size, np.nan)
        return pa.array(standard_error(values_BT) if len(values_BT) else missing, from_pandas=True)

    return {
        "ratio": ratio_T,
        "ratio_standard_error": error(ratio_BT),
        "weight": np.clip(ratio_T, rule.clip_min, rule.clip_max),
        "weight_standard_error": error(np.clip(ratio_BT, rule.clip_min, rule.clip_max)),
        "clipped": (ratio_T < rule.clip_min) | (ratio_T > rule.clip_max),
    }


def _table(
    counted: CountedEdges,
    *,
    columns: Mapping[str, np.ndarray | pa.Array],
    level: str,
    polarity: Polarity,
    states: Sequence[str],
) -> pa.Table:
    count = counted.count_T.size
    all_columns = {
        "level": [level] * count,
        "polarity": [polarity] * count,
        "source": [set_name(code, states=states) for code in counted.source_T.tolist()],
        "target": [set_name(code, states=states) for code in counted.target_T.tolist()],
        **columns,
    }
    table = pa.table({name: all_columns[name] for name in EDGES.names}, schema=EDGES)
    return table.sort_by([("ratio", "descending"), ("source", "ascending"), ("target", "ascending")])
