"""Transitions of plain Python lists, for a notebook: count, estimate, weigh; no run, no Ray.

    from mralign.transitions import count, estimate, weights

    helped = [["framing", ["retrieval", "analogy"], "summarization"], ...]  # a trajectory is a list of steps,
    hurt = [["framing", {"comparison", "evaluation"}], ...]  # a step one label, or a list or set of up to two
    tally = count(helped, negative=hurt, bootstrap=50)
    matrices = estimate(tally, preset="converged")
    weights(helped, matrices=matrices, polarity=1)  # one number a step
    matrices.edges().to_pandas()  # every transition: count, ratio, standard error, weight, band

The states are <start>, the labels, <stop>; the labels are those of the data in alphabetical order unless `labels` gives
them, such as `labels=mralign.annotation.taxonomy.PAPER.labels`, which makes matrices of several corpora comparable.
This is the arithmetic of the stages, on tables made from the lists (METHOD.md §3 and §4).

Axes: matrices are (K, K), rows sources; B bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mralign.config import Transitions
from mralign.rows.schema import COUNTS
from mralign.transitions.bootstrap import add_replicated, count_replicated, select_replicates, standard_error
from mralign.transitions.edges import Rule, edges
from mralign.transitions.em import Estimate, Estimator, estimate_replicated, settings_of
from mralign.transitions.weights import Anchor, step_weights

Step = str | Collection[str]
Trajectory = Sequence[Step]

START, STOP = "<start>", "<stop>"
_POLARITIES = {"all": (1, -1, 0), "positive": (1,), "negative": (-1,)}
_STEPS = pa.list_(pa.struct({"labels": pa.list_(pa.string())}))


@dataclass(frozen=True)
class Tally:
    """Counted transitions and the states they are between: `table` has schema.REPLICATED_COUNTS."""

    states: tuple[str, ...]
    table: pa.Table


@dataclass(frozen=True)
class Matrices:
    """Estimates by name, of what was counted: all, positive, negative; each with those of its replicates."""

    states: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    replicates: Mapping[str, np.ndarray]  # P of each replicate, (B, K, K)
    tally: Tally

    @property
    def P(self) -> dict[str, np.ndarray]:
        """The transition matrices, (K, K) each."""
        return {name: found.P for name, found in self.estimates.items()}

    @property
    def standard_error(self) -> dict[str, np.ndarray]:
        """Standard errors of the entries of P, (K, K) each; empty if nothing was drawn (`bootstrap` of `count`)."""
        return {name: standard_error(P_BKK) for name, P_BKK in self.replicates.items() if len(P_BKK)}

    def edges(self, *, anchor: Anchor = "global", clip_min: float = 1 / math.e, clip_max: float = math.e) -> pa.Table:
        """Every transition with its count, ratio, standard errors, weight and band: a table of schema.EDGES.

        Both polarities must have been counted for the anchor `opposite`.
        """
        return edges(
            self.tally.table.select(COUNTS.names),
            matrices=self.P,
            support={name: found.C for name, found in self.estimates.items()},
            replicates=self.replicates,
            states=self.states,
            rule=Rule(anchor, clip_min, clip_max),
        )


def count(
    positive: Sequence[Trajectory],
    *,
    negative: Sequence[Trajectory] = (),
    other: Sequence[Trajectory] = (),
    labels: Sequence[str] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> Tally:
    """Count the transitions of trajectories in which thinking helped, hurt, or neither (`other`: in P only).

    `bootstrap` replicates are drawn from (seed, polarity, place in the list). Raises ValueError for anything that is
    no trajectory, for more than two labels in a step, and for labels that are not among `labels`.
    """
    sides = {1: positive, -1: negative, 0: other}
    rows = {polarity: [_sets(t, place=i) for i, t in enumerate(given)] for polarity, given in sides.items()}
    states = _states(labels, found={label for side in rows.values() for row in side for step in row for label in step})
    tables = [_table(side, polarity=polarity) for polarity, side in rows.items()]
    counted = [count_replicated(t, states=states, replicates=bootstrap, seed=seed) for t in tables]
    return Tally(states, add_replicated([table for table in counted if table.num_rows]))


def estimate(
    tally: Tally,
    *,
    preset: Literal["paper", "converged"] = "paper",
    max_iter: int | None = None,
    tol: float | None = None,
    damping: float | None = None,
    prior: float | None = None,
    estimator: Estimator | None = None,
) -> Matrices:
    """P of all trajectories, and P+ and P- of those that were counted; values given beside the preset win.

    Raises ValueError if nothing was counted at all, or a value is out of its range.
    """
    given: dict[str, Any] = {
        "max_iter": max_iter,
        "tol": tol,
        "damping": damping,
        "prior": prior,
        "estimator": estimator,
    }
    settings = replace(settings_of(Transitions(preset=preset)), **{k: v for k, v in given.items() if v is not None})
    found: dict[str, Estimate] = {}
    drawn: dict[str, np.ndarray] = {}
    K = len(tally.states)
    for name, polarities in _POLARITIES.items():
        counts, n_TB = select_replicates(tally.table, polarities=polarities)
        if name == "all" or counts.n.size:
            found[name], *replicates = estimate_replicated(counts, n_TB=n_TB, K=K, settings=settings)
            drawn[name] = np.array([replicate.P for replicate in replicates]).reshape(-1, K, K)
    return Matrices(tally.states, found, drawn, tally)


def weights(
    trajectories: Sequence[Trajectory],
    *,
    matrices: Matrices,
    polarity: Literal[1, -1] = 1,
    anchor: Anchor = "global",
    clip_min: float = 1 / math.e,
    clip_max: float = math.e,
) -> list[list[float]]:
    """One weight a step of each trajectory, all taken to be of this polarity (METHOD.md §4).

    A step without a label weighs 1. Raises ValueError if no trajectory of a polarity that is needed was counted.
    """
    if polarity not in (1, -1):
        raise ValueError(f"polarity is {polarity!r}; allowed are 1 (thinking helped) and -1 (it hurt)")
    table = step_weights(
        _table([_sets(t, place=i) for i, t in enumerate(trajectories)], polarity=polarity),
        matrices=matrices.P,
        states=matrices.states,
        anchor=anchor,
        clip_min=clip_min,
        clip_max=clip_max,
    )
    result: list[list[float]] = table.column("step_weights").to_pylist()
    return result


def _sets(trajectory: Trajectory, *, place: int) -> list[list[str]]:
    """The steps as lists of labels, sets in alphabetical order."""
    if isinstance(trajectory, str) or not isinstance(trajectory, Sequence):
        raise ValueError(
            f"trajectory {place} is {trajectory!r}; allowed is a list of steps: put a single trajectory into a list"
        )
    steps = [[step] if isinstance(step, str) else step for step in trajectory]
    for step in steps:
        if not isinstance(step, Collection) or not all(isinstance(label, str) for label in step):
            raise ValueError(
                f"trajectory {place} has the step {step!r}; allowed is a label, or a list or set of up to two: give "
                f"labels as text, and [] for a step without one"
            )
    return [sorted(step) for step in steps]


def _states(labels: Sequence[str] | None, *, found: Collection[str]) -> tuple[str, ...]:
    chosen = tuple(sorted(found) if labels is None else labels)
    if len(set(chosen)) < len(chosen) or {START, STOP} & set(chosen):
        raise ValueError(
            f"labels {list(chosen)} given; allowed is each once, and none named {START} or {STOP}, which are states of "
            f"their own: rename or drop them"
        )
    return (START, *chosen, STOP)


def _table(rows: Sequence[Sequence[Sequence[str]]], *, polarity: int) -> pa.Table:
    """The columns of schema.ANNOTATIONS that counts and weights are made from."""
    return pa.table(
        {
            "row_id": pa.array([f"{polarity}/{place}" for place in range(len(rows))], pa.string()),
            "dataset": pa.array([""] * len(rows), pa.string()),
            "polarity": pa.array([polarity] * len(rows), pa.int8()),
            "steps": pa.array([[{"labels": step} for step in row] for row in rows], _STEPS),
        }
    )
