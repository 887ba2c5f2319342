"""What stands behind the weights: every transition of a polarity with its count, its ratio, and how sure the ratio is.

Count tables and matrices enter, a table of schema.EDGES leaves: once for transitions between label sets, as steps are
weighed, and once for single edges a -> b, as the maps of the report show them. Edges into <stop> weigh no step and are
left out. The bands mark the 15 % of the edges of a level and polarity with the highest and the lowest ratio (METHOD.md
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

from mralign.rows.schema import EDGES
from mralign.transitions.bootstrap import standard_error
from mralign.transitions.counts import select, stop_code
from mralign.transitions.weights import NAME, Anchor, pair_probability, ratios, set_name

BAND = 0.15
MIN_SUPPORT = 5.0  # a smaller count says more of the prior than of the data, and of its own error too little


@dataclass(frozen=True)
class Found:
    """The edges of one level and polarity: codes of their sets (T,) int64 and how often they occur, (T,) float64."""

    source_T: np.ndarray
    target_T: np.ndarray
    count_T: np.ndarray


@dataclass(frozen=True)
class Rule:
    """How a ratio becomes a weight (METHOD.md §4)."""

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
    rule: Rule,
) -> pa.Table:
    """The edges of both polarities on both levels, as far as they occur: a table of schema.EDGES.

    `counts` is a table of schema.COUNTS; `support` holds the expected counts C (K, K) and `replicates` the bootstrap's
    P (B, K, K), both by the names of `matrices`; B = 0 gives no standard errors. The edges of a level and polarity are
    sorted by falling ratio.
    """
    tables, K = [EDGES.empty_table()], len(states)
    for polarity, name in NAME.items():
        levels = {"sets": _of_sets(counts, polarity=polarity, K=K)}
        if name in support:
            levels["states"] = _of_states(support[name], K=K)
        for level, found in levels.items():
            if found.count_T.size:
                ratio_T = ratios(
                    found.source_T,
                    found.target_T,
                    polarity=np.full(found.count_T.size, polarity),
                    matrices=matrices,
                    states=states,
                    anchor=rule.anchor,
                )
                ratio_BT = _replicated(found, polarity=polarity, replicates=replicates, rule=rule)
                columns = _measured(ratio_T, ratio_BT=ratio_BT, rule=rule) | {
                    "band": bands(ratio_T, count_T=found.count_T),
                    "count": found.count_T,
                }
                tables.append(_table(found, columns=columns, level=level, polarity=polarity, states=states))
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


def _of_sets(counts: pa.Table, *, polarity: int, K: int) -> Found:
    """The transitions into a step that were counted."""
    table = select(counts, polarities=(polarity,))
    step = table.target_sets != stop_code(K)
    return Found(table.source_sets[step], table.target_sets[step], table.n[step].astype(np.float64))


def _of_states(C: np.ndarray, *, K: int) -> Found:
    """The edges {a} -> {b} with an expected count, b != <stop>."""
    a_T, b_T = np.nonzero(C[:, : K - 1])
    return Found(a_T * (K + 1), b_T * (K + 1), C[a_T, b_T])


def _replicated(found: Found, *, polarity: int, replicates: Mapping[str, np.ndarray], rule: Rule) -> np.ndarray:
    """The ratios of every bootstrap replicate, (B, T); own and anchor come from the same drawn trajectories."""
    own, base = NAME[polarity], "all" if rule.anchor == "global" else NAME[-polarity]
    ratio_BT = np.empty((len(replicates.get(own, ())), found.count_T.size))
    for ratio_T, P_own, P_base in zip(ratio_BT, replicates.get(own, ()), replicates.get(base, ()), strict=True):
        top_T, base_T = (
            pair_probability(P, source_sets=found.source_T, target_sets=found.target_T) for P in (P_own, P_base)
        )
        ratio_T[:] = np.divide(top_T, base_T, out=np.full(top_T.size, np.nan), where=base_T > 0)
    return ratio_BT


def _measured(ratio_T: np.ndarray, *, ratio_BT: np.ndarray, rule: Rule) -> dict[str, np.ndarray | pa.Array]:
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
    found: Found, *, columns: Mapping[str, np.ndarray | pa.Array], level: str, polarity: int, states: Sequence[str]
) -> pa.Table:
    names = {
        side: [set_name(code, states=states) for code in codes.tolist()]
        for side, codes in (("source", found.source_T), ("target", found.target_T))
    }
    same = {"level": [level] * found.count_T.size, "polarity": [polarity] * found.count_T.size}
    table = pa.table({name: {**same, **names, **columns}[name] for name in EDGES.names}, schema=EDGES)
    return table.sort_by([("ratio", "descending"), ("source", "ascending"), ("target", "ascending")])
