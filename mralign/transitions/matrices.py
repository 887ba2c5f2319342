"""Matrices as tables: estimates become rows of schema.MATRICES, and committed rows become matrices again.

Axes: K states of the chain (row: from, column: to), B replicates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mralign.rows import SIGNED, Polarity
from mralign.rows.schema import MATRICES
from mralign.run.part_names import part_name
from mralign.run.store import StageDir, ahead
from mralign.transitions.bootstrap import select_replicates, standard_error
from mralign.transitions.em import Estimate, Settings, estimate_replicated
from mralign.transitions.weights import NAME

MATRIX_POLARITIES: dict[str, tuple[Polarity, ...]] = {"all": (*SIGNED, Polarity.NEUTRAL)} | {
    NAME[polarity]: (polarity,) for polarity in SIGNED
}  # of which trajectories each matrix is estimated


def estimate_named(table: pa.Table, *, name: str, K: int, settings: Settings) -> list[Estimate]:
    """The estimate of a matrix from a table of schema.REPLICATED_COUNTS, then those of its replicates."""
    counts, n_TB = select_replicates(table, polarities=MATRIX_POLARITIES[name])
    return estimate_replicated(counts, n_TB=n_TB, K=K, settings=settings)


def long_form(name: str, *, estimates: Sequence[Estimate], states: Sequence[str]) -> pa.Table:
    """The first estimate, with standard errors from the others."""
    source, target = np.meshgrid(states, states, indexing="ij")
    result, P_BKK = estimates[0], np.array([replicate.P for replicate in estimates[1:]])
    error = standard_error(P_BKK).ravel() if len(P_BKK) else [None] * len(states) ** 2
    return pa.table(
        {
            "matrix": [name] * len(states) ** 2,
            "source": source.ravel(),
            "target": target.ravel(),
            "probability": result.P.ravel(),
            "responsibility": result.C.ravel(),
            "standard_error": pa.array(error, pa.float64()),
            "replicates": P_BKK.reshape(len(P_BKK), len(states) ** 2).T.tolist(),
        },
        schema=MATRICES,
    )


@dataclass(frozen=True)
class Fitted:
    """Committed matrices by name, float64: P and the expected counts C, (K, K), and the replicates of P, (B, K, K)."""

    P: Mapping[str, np.ndarray]
    C: Mapping[str, np.ndarray]
    replicates: Mapping[str, np.ndarray]


def fit(table: pa.Table, *, K: int, settings: Settings) -> Fitted:
    """Every matrix from a table of schema.REPLICATED_COUNTS, in memory."""
    found = {name: estimate_named(table, name=name, K=K, settings=settings) for name in MATRIX_POLARITIES}
    P = {name: estimates[0].P for name, estimates in found.items()}
    C = {name: estimates[0].C for name, estimates in found.items()}
    replicates = {}
    for name, estimates in found.items():
        replicates[name] = np.array([one.P for one in estimates[1:]]).reshape(-1, K, K)
    return Fitted(P, C, replicates)


def read_matrices(out: StageDir, *, states: Sequence[str]) -> Fitted:
    """The committed matrices, in the order of `states`."""
    K = len(states)
    read = ahead(lambda name: out.read_parts([part_name(name)], schema=MATRICES), MATRIX_POLARITIES)
    tables = dict(zip(MATRIX_POLARITIES, read, strict=True))
    P: dict[str, np.ndarray] = {}
    C: dict[str, np.ndarray] = {}
    replicates: dict[str, np.ndarray] = {}
    for name, table in tables.items():
        P[name] = table.column("probability").to_numpy().reshape(K, K)
        C[name] = table.column("responsibility").to_numpy().reshape(K, K)
        replicates[name] = np.array(table.column("replicates").to_pylist()).T.reshape(-1, K, K)
    return Fitted(P, C, replicates)
