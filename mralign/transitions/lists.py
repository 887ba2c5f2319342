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
This is the arithmetic of the stages, on tables made from the lists (method.md §3 and §4).

Axes: matrices are (K, K), rows sources; B bootstrap replicates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mralign.config import Transitions
from mralign.rows import SIGNED, Polarity
from mralign.rows.schema import COUNTS
from mralign.transitions.bootstrap import add_replicated, count_replicated, select_replicates, standard_error
from mralign.transitions.edges import WeightRule, edges
from mralign.transitions.em import Estimate, Estimator, estimate_replicated, settings_of
from mralign.transitions.matrices import MATRIX_POLARITIES
from mralign.transitions.weights import Anchor, step_weights

Step = str | Collection[str]
Trajectory = Sequence[Step]

START, STOP = "<start>", "<stop>"


@dataclass(frozen=True)
class CountedTransitions:
    """Counted transitions and the states they are between: `table` has schema.REPLICATED_COUNTS."""

    states: tuple[str, ...]
    table: pa.Table


@dataclass(frozen=True)
class TransitionMatrices:
    """Estimates by name, of what was counted: all, positive, negative; each with those of its replicates."""

    states: tuple[str, ...]
    estimates: Mapping[str, Estimate]
    replicates: Mapping[str, np.ndarray]  # P of each replicate, (B, K, K)
    tally: CountedTransitions

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
            rule=WeightRule(anchor, clip_min, clip_max),
        )


def count(
    positive: Sequence[Trajectory],
    *,
    negative: Sequence[Trajectory] = (),
    other: Sequence[Trajectory] = (),
    labels: Sequence[str] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
) -> CountedTransitions:
    """Count the transitions of trajectories in which thinking helped, hurt, or neither (`other`: in P only).

    docs/method.md §3. A trajectory is a list of steps; a step is a label, or a list or set of up to two. `bootstrap`
    replicates are drawn from (seed, polarity, place in the list). Raises ValueError for anything that is no trajectory,
    for more than two labels in a step, and for labels that are not among `labels`.

    >>> import mralign
    >>> tally = mralign.count([["framing", "retrieval"]], negative=[["framing", {"retrieval", "comparison"}]])
    >>> tally.states
    ('<start>', 'comparison', 'framing', 'retrieval', '<stop>')
    >>> tally.table.num_rows  # distinct transitions, by polarity
    6
    """
    given = {Polarity.POSITIVE: positive, Polarity.NEGATIVE: negative, Polarity.NEUTRAL: other}
    rows = {polarity: _all_sets(trajectories) for polarity, trajectories in given.items()}
    steps = chain.from_iterable(chain.from_iterable(rows.values()))
    states = _states(labels, found=set(chain.from_iterable(steps)))
    tables = [_table(side, polarity=polarity) for polarity, side in rows.items()]
    counted = [count_replicated(table, states=states, replicates=bootstrap, seed=seed) for table in tables]
    return CountedTransitions(states, add_replicated([table for table in counted if table.num_rows]))


def estimate(
    tally: CountedTransitions,
    *,
    preset: Literal["paper", "converged"] = "paper",
    max_iter: int | None = None,
    tol: float | None = None,
    damping: float | None = None,
    prior: float | None = None,
    estimator: Estimator | None = None,
) -> TransitionMatrices:
    """P of all trajectories, and P+ and P- of those that were counted, by EM; values given beside the preset win.

    docs/method.md §3, equations 3.1 to 3.3. The matrices are float64 (K, K), rows sources, K = labels + 2. Raises
    ValueError if nothing was counted at all, or a value is out of its range.

    >>> import mralign
    >>> helped = [["framing", "retrieval"]] * 3 + [["framing", "comparison"]]
    >>> found = mralign.estimate(mralign.count(helped), preset="converged", prior=0)
    >>> framing, retrieval = found.states.index("framing"), found.states.index("retrieval")
    >>> round(float(found.P["positive"][framing, retrieval]), 6)
    0.75
    """
    values: dict[str, Any] = {
        "max_iter": max_iter,
        "tol": tol,
        "damping": damping,
        "prior": prior,
        "estimator": estimator,
    }
    given = {name: value for name, value in values.items() if value is not None}
    settings = replace(settings_of(Transitions(preset=preset)), **given)
    found: dict[str, Estimate] = {}
    drawn: dict[str, np.ndarray] = {}
    K = len(tally.states)
    for name, polarities in MATRIX_POLARITIES.items():
        counts, n_TB = select_replicates(tally.table, polarities=polarities)
        if name == "all" or counts.n.size:
            found[name], *replicates = estimate_replicated(counts, n_TB=n_TB, K=K, settings=settings)
            drawn[name] = np.array([replicate.P for replicate in replicates]).reshape(-1, K, K)
    return TransitionMatrices(tally.states, found, drawn, tally)


def weights(
    trajectories: Sequence[Trajectory],
    *,
    matrices: TransitionMatrices,
    polarity: Literal[1, -1] = 1,
    anchor: Anchor = "global",
    clip_min: float = 1 / math.e,
    clip_max: float = math.e,
) -> list[list[float]]:
    """One weight a step of each trajectory, all taken to be of this polarity (docs/method.md §4, equation 4.1).

    A list of floats a trajectory, as long as it has steps. A step without a label weighs 1. Raises ValueError if no
    trajectory of a polarity that is needed was counted.

    >>> import mralign
    >>> tally = mralign.count([["framing", "retrieval"]] * 3, negative=[["framing", "comparison"]])
    >>> matrices = mralign.estimate(tally, preset="converged", prior=0)
    >>> [round(weight, 3) for weight in mralign.weights([["framing", "retrieval"]], matrices=matrices)[0]]
    [1.0, 1.333]
    """
    if polarity not in SIGNED:
        raise ValueError(f"polarity is {polarity!r}; allowed are 1 (thinking helped) and -1 (it hurt)")
    table = step_weights(
        _table(_all_sets(trajectories), polarity=polarity),
        matrices=matrices.P,
        states=matrices.states,
        anchor=anchor,
        clip_min=clip_min,
        clip_max=clip_max,
    )
    result: list[list[float]] = table.column("step_weights").to_pylist()
    return result


def _all_sets(trajectories: Sequence[Trajectory]) -> list[list[list[str]]]:
    return [_sets(trajectory, place=place) for place, trajectory in enumerate(trajectories)]


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
    labels = pa.array(list(chain.from_iterable(rows)), pa.list_(pa.string()))
    steps = pa.StructArray.from_arrays([labels], ["labels"])
    offsets = pa.array([0, *accumulate(map(len, rows))], pa.int32())
    return pa.table(
        {
            "row_id": pa.array([f"{polarity}/{place}" for place in range(len(rows))], pa.string()),
            "dataset": pa.array([""] * len(rows), pa.string()),
            "polarity": pa.array([polarity] * len(rows), pa.int8()),
            "steps": pa.ListArray.from_arrays(offsets, steps),
        }
    )
