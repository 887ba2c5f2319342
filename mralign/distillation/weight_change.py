"""Matrices and weights of two sets of labels of the same trajectories, and of bootstrap replicates over questions.

Tables of schema.ANNOTATIONS enter; matrices by name leave, the corpus first and its replicates behind it. The same
questions count the same in every table, so that differences between tables are paired.

Axes: R = 1 + B matrices, B replicates, K states, T distinct transitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mralign.config import RunConfig
from mralign.rows import SIGNED, Polarity
from mralign.transitions.bootstrap import count_replicated, select_replicates
from mralign.transitions.counts import Counts, Labels, count, select, stop_code
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import Settings, estimate_replicated, settings_of
from mralign.transitions.matrices import MATRIX_POLARITIES
from mralign.transitions.signal import null_settings
from mralign.transitions.weights import NAME, ratios

Matrices = Mapping[str, np.ndarray]  # (R, K, K) by name: all, positive, negative


@dataclass(frozen=True)
class WeightSettings:
    """How matrices and weights are made of labels."""

    states: tuple[str, ...]
    settings: Settings
    rule: WeightRule
    labels: Labels = "all"

    @classmethod
    def of(cls, config: RunConfig, *, states: tuple[str, ...]) -> WeightSettings:
        """Those of a run; EM is replaced by frequencies where it would take long for every replicate."""
        rule = WeightRule(config.weights.anchor, config.weights.clip_min, config.weights.clip_max)
        return cls(states, null_settings(settings_of(config.transitions)), rule, config.transitions.labels)


def matrices_of(
    table: pa.Table, *, by: WeightSettings, replicates: int = 0, seed: int = 0, field: str = "labels"
) -> Matrices:
    """The matrices of a table of schema.ANNOTATIONS; a matrix of which nothing was counted is left out."""
    questions = table.set_column(table.schema.get_field_index("row_id"), "row_id", table.column("question_id"))
    counted = count_replicated(
        questions, states=by.states, replicates=replicates, seed=seed, labels=by.labels, field=field
    )
    found = {}
    for name, polarities in MATRIX_POLARITIES.items():
        counts, n_TB = select_replicates(counted, polarities=polarities)
        if counts.n.size:
            estimates = estimate_replicated(counts, n_TB=n_TB, K=len(by.states), settings=by.settings)
            found[name] = np.array([one.P for one in estimates])
    return found


def weigh(table: pa.Table, *, by: WeightSettings) -> dict[int, Counts]:
    """The transitions of a table whose steps will be weighed, by polarity: those not into <stop>."""
    counted = count(table, states=by.states, labels=by.labels)
    found = {}
    for polarity in map(int, SIGNED):
        counts = select(counted, polarities=(polarity,))
        step = counts.target_sets != stop_code(len(by.states))
        if step.any():
            found[polarity] = Counts(counts.source_sets[step], counts.target_sets[step], counts.n[step], (polarity,))
    return found


def log_weights(counts: Counts, *, matrices: Matrices, by: WeightSettings, replicate: int = 0) -> np.ndarray:
    """The logarithm of the clipped weight of every transition of one polarity, (T,)."""
    polarity_T = np.full(counts.n.size, counts.polarities[0])
    chosen = {name: P_RKK[replicate] for name, P_RKK in matrices.items()}
    ratio_T = ratios(
        counts.source_sets,
        counts.target_sets,
        polarity=polarity_T,
        matrices=chosen,
        states=by.states,
        anchor=by.rule.anchor,
    )
    found: np.ndarray = np.log(np.clip(ratio_T, by.rule.clip_min, by.rule.clip_max))
    return found


@dataclass(frozen=True)
class WeightChange:
    """How far the logarithms of the weights of two sets of labels lie apart, over the transitions of the first."""

    mean: float  # over all steps that are weighed
    largest: float | None  # of a transition that occurs at least `least` times; None where none does


def weight_change(
    counts: Mapping[int, Counts], *, of: Matrices, other: Matrices, by: WeightSettings, replicate: int, least: int
) -> WeightChange:
    """The change between the weights by two sets of matrices. Where the other labels have no trajectory of a polarity,
    that polarity is left out."""
    change, times = [np.zeros(0)], [np.zeros(0)]
    for polarity, found in counts.items():
        if not {NAME[Polarity(polarity)], "all"} <= of.keys() & other.keys():
            continue
        first_T, second_T = (log_weights(found, matrices=one, by=by, replicate=replicate) for one in (of, other))
        change.append(np.abs(first_T - second_T))
        times.append(found.n)
    change_T, n_T = np.concatenate(change), np.concatenate(times)
    often_T = change_T[n_T >= least]
    mean = float(change_T @ n_T / n_T.sum()) if n_T.sum() else float("nan")
    return WeightChange(mean, float(often_T.max()) if often_T.size else None)


def mean_l1s(of: Matrices, *, other: Matrices) -> Sequence[float]:
    """Mean l1 between the matrices of all polarities, of the corpus and of each replicate."""
    found: list[float] = np.abs(of["all"] - other["all"]).mean(axis=(1, 2)).tolist()
    return found
