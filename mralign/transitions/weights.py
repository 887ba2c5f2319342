"""Transition matrices become a weight for every step of every training trajectory (method.md §4).

Tables of schema.ANNOTATIONS and the matrices {"all", "positive", "negative"} enter, a table of schema.WEIGHTS leaves.
A step weighs more where its polarity takes the transition into it more often than the anchor does. `summary` says from
the count table alone, without the trajectories, how many weights were clipped and which transitions weigh most and
least.

Axes: S steps of all trajectories in order, T transitions, E = 4 base edges of a transition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows import SIGNED, Polarity
from mralign.rows.schema import WEIGHTS
from mralign.transitions.counts import UNLABELLED, Labels, base_edges, before, chains, select, stop_code
from mralign.transitions.draws import GOLDEN, mixed, row_keys

Anchor = Literal["global", "opposite"]
Control = Literal["none", "shuffle", "mean", "uniform"]
NAME = {polarity: polarity.name.lower() for polarity in SIGNED}  # of its matrix


@dataclass(frozen=True)
class Edge:
    """One distinct transition of a polarity: set names joined by +, how often it occurs, its ratio before clipping."""

    polarity: Polarity
    source: str
    target: str
    count: int
    ratio: float


@dataclass(frozen=True)
class LabelledSteps:
    """T labelled steps of some trajectories in order: what a rule makes weights of (mralign/transitions/rules)."""

    row_T: np.ndarray  # which trajectory, ascending
    polarity_T: np.ndarray
    before_T: np.ndarray  # the set before the source; UNLABELLED where the source is <start>
    source_T: np.ndarray
    target_T: np.ndarray
    ratio_T: np.ndarray  # before clipping


Rule = Callable[[LabelledSteps], np.ndarray]  # weights (T,), clipped


@dataclass(frozen=True)
class Summary:
    """What the weights of a run look like; the dictionaries are by polarity, the edges over both."""

    steps: dict[Polarity, int]  # labelled steps
    clipped: dict[Polarity, float]  # share of them whose ratio lies outside [clip_min, clip_max]
    mean: dict[Polarity, float]  # mean weight, after clipping
    highest: tuple[Edge, ...]
    lowest: tuple[Edge, ...]


def pair_probability(P: np.ndarray, *, source_sets: np.ndarray, target_sets: np.ndarray) -> np.ndarray:
    """sum over a in I, b in J of P_ab for transitions I -> J given as codes (T,): (T,) float64.

    Not divided by |I||J|: it is only used in ratios over the same pair, where that cancels (method.md §4).
    """
    a_TE, b_TE, exists_TE = base_edges(source_sets, target_sets, K=len(P))
    pr_T: np.ndarray = np.where(exists_TE, P[a_TE, b_TE], 0.0).sum(axis=1)
    return pr_T


def step_weights(
    steps: pa.Table,
    *,
    matrices: Mapping[str, np.ndarray],
    states: Sequence[str],
    anchor: Anchor = "global",
    control: Control = "none",
    clip_min: float = 1 / math.e,
    clip_max: float = math.e,
    labels: Labels = "all",
    seed: int = 0,
    means: Mapping[Polarity, float] | None = None,
    rule: Rule | None = None,
) -> pa.Table:
    """One weight a step of every trajectory of polarity +1 or -1: a table of schema.WEIGHTS (method.md §4).

    `rule` makes weights of ratios; None clips them, as the paper does. The controls come after it.

    Unlabelled steps weigh 1 under every control, and are skipped as predecessors. Neutral rows are left out.
    `control="mean"` gives every labelled step its polarity's mean over labelled steps: `means` (Summary.mean, of all
    shards), or the mean of this table where that is None. `control="shuffle"` permutes the weights of the labelled
    steps inside each trajectory, by (seed, row_id) alone, so that shards do not matter.
    Raises ValueError on a missing matrix, an unknown setting, or a transition impossible under both matrices.
    """
    _check(anchor=anchor, control=control, clip_min=clip_min, clip_max=clip_max)
    kept = steps.filter(pc.not_equal(steps.column("polarity"), Polarity.NEUTRAL))
    chain = chains(kept, states=states, labels=labels)
    labelled = np.flatnonzero(chain.set_S != UNLABELLED)
    row_T = chain.row_S[labelled]
    polarity_T = kept.column("polarity").to_numpy().astype(np.int64)[row_T]
    weight_T = np.ones(labelled.size)
    if control != "uniform":
        source_T, target_T = chain.previous_S[labelled], chain.set_S[labelled]
        ratio_T = ratios(source_T, target_T, polarity=polarity_T, matrices=matrices, states=states, anchor=anchor)
        weight_T = np.clip(ratio_T, clip_min, clip_max)  # w_t = clip(Pr(. | P+-) / Pr(. | P), m, M)
        if rule is not None:
            before_T = before(source_T, row_L=row_T)
            weight_T = rule(LabelledSteps(row_T, polarity_T, before_T, source_T, target_T, ratio_T))
    if control == "mean":
        weight_T = _meaned(weight_T, polarity=polarity_T, means=means)
    if control == "shuffle":
        weight_T = _shuffled(weight_T, row=row_T, row_ids=kept.column("row_id"), seed=seed)
    weight_S = np.ones(chain.set_S.size)
    weight_S[labelled] = weight_T
    lengths = np.bincount(chain.row_S, minlength=kept.num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    nested = pa.ListArray.from_arrays(pa.array(offsets), pa.array(weight_S))
    return pa.table(
        {"row_id": kept.column("row_id"), "polarity": kept.column("polarity"), "step_weights": nested}, schema=WEIGHTS
    )


def summary(
    counts: pa.Table,
    *,
    matrices: Mapping[str, np.ndarray],
    states: Sequence[str],
    anchor: Anchor = "global",
    clip_min: float = 1 / math.e,
    clip_max: float = math.e,
    top: int = 5,
    min_count: int = 1,
) -> Summary:
    """The weights of all labelled steps counted in `counts` (schema.COUNTS): a step is a transition not into <stop>.

    `highest` and `lowest` are the `top` edges by ratio among those that occur at least `min_count` times.
    """
    _check(anchor=anchor, control="none", clip_min=clip_min, clip_max=clip_max)
    n_steps, clipped, mean = {}, {}, {}
    edges: list[Edge] = []
    for polarity in SIGNED:
        table = select(counts, polarities=(polarity,))
        step = table.target_sets != stop_code(len(states))
        source_T, target_T, n_T = table.source_sets[step], table.target_sets[step], table.n[step]
        if not n_T.sum():
            continue
        sign_T = np.full(n_T.size, polarity)
        ratio_T = ratios(source_T, target_T, polarity=sign_T, matrices=matrices, states=states, anchor=anchor)
        n_steps[polarity] = int(n_T.sum())
        outside_T = (ratio_T < clip_min) | (ratio_T > clip_max)
        clipped[polarity] = float(n_T @ outside_T / n_T.sum())
        mean[polarity] = float(n_T @ np.clip(ratio_T, clip_min, clip_max) / n_T.sum())
        rows = zip(source_T.tolist(), target_T.tolist(), n_T.tolist(), ratio_T.tolist(), strict=True)
        for source, target, n, ratio in rows:
            if n >= min_count:
                names = set_name(source, states=states), set_name(target, states=states)
                edges.append(Edge(polarity, *names, n, ratio))
    edges.sort(key=lambda edge: edge.ratio)
    return Summary(n_steps, clipped, mean, highest=tuple(edges[::-1][:top]), lowest=tuple(edges[:top]))


def _check(*, anchor: str, control: str, clip_min: float, clip_max: float) -> None:
    """Raise ValueError for a setting out of its range."""
    if anchor not in ("global", "opposite"):
        raise ValueError(f"anchor is {anchor!r}; allowed are 'global' and 'opposite' (transitions.anchor)")
    if control not in ("none", "shuffle", "mean", "uniform"):
        raise ValueError(f"control is {control!r}; allowed are 'none', 'shuffle', 'mean' and 'uniform'")
    if not 0 <= clip_min <= clip_max:
        raise ValueError(f"clip_min {clip_min} and clip_max {clip_max} given; allowed is 0 <= clip_min <= clip_max")


def ratios(
    source_T: np.ndarray,
    target_T: np.ndarray,
    *,
    polarity: np.ndarray,
    matrices: Mapping[str, np.ndarray],
    states: Sequence[str],
    anchor: Anchor,
) -> np.ndarray:
    """Pr(y_t | y_{t-1}, P of the polarity) / Pr(y_t | y_{t-1}, anchor), before clipping: (T,) (method.md §4).

    0 where only the numerator is 0, inf where only the denominator is; ValueError where both are.
    """
    ratio_T = np.ones(source_T.size)
    for sign, name in NAME.items():
        mask = polarity == sign
        if not mask.any():
            continue
        other = "all" if anchor == "global" else NAME[Polarity(-sign)]
        source, target = source_T[mask], target_T[mask]
        own = pair_probability(_matrix(matrices, name=name, K=len(states)), source_sets=source, target_sets=target)
        base = pair_probability(_matrix(matrices, name=other, K=len(states)), source_sets=source, target_sets=target)
        never = np.flatnonzero((own == 0) & (base == 0))
        if never.size:
            first = int(never[0])
            source_name = set_name(int(source[first]), states=states)
            target_name = set_name(int(target[first]), states=states)
            raise ValueError(
                f"transition {source_name} -> {target_name} has probability 0 under {name!r} and {other!r}, so it has "
                f"no weight; allowed is a positive one in either: estimate the matrices with prior > 0 "
                f"(transitions.prior)"
            )
        ratio_T[mask] = np.divide(own, base, out=np.full(own.size, np.inf), where=base > 0)
    return ratio_T


def _matrix(matrices: Mapping[str, np.ndarray], *, name: str, K: int) -> np.ndarray:
    """The named matrix (K, K); ValueError if it is missing or of another size."""
    if name not in matrices:
        raise ValueError(f"matrix {name!r} is needed, given are {sorted(matrices)}; estimate it and pass it")
    if matrices[name].shape != (K, K):
        raise ValueError(
            f"matrix {name!r} has shape {matrices[name].shape}, the taxonomy needs {(K, K)}; estimate it anew"
        )
    return matrices[name]


def _meaned(weight_T: np.ndarray, *, polarity: np.ndarray, means: Mapping[Polarity, float] | None) -> np.ndarray:
    """Every step at its polarity's mean weight."""
    result = weight_T.copy()
    for sign in NAME:
        mask = polarity == sign
        if not mask.any():
            continue
        if means is not None and sign not in means:
            raise ValueError(
                f"means has no value for polarity {sign:+d}, given are {dict(means)}; take summary(...).mean"
            )
        result[mask] = weight_T[mask].mean() if means is None else means[sign]
    return result


def _shuffled(weight_T: np.ndarray, *, row: np.ndarray, row_ids: pa.ChunkedArray, seed: int) -> np.ndarray:
    """Weights permuted inside each trajectory: each step draws a key from (seed, row_id, place), keys are sorted."""
    place_T = np.arange(row.size) - np.searchsorted(row, row)  # place among the labelled steps of its trajectory
    row_key = row_keys(row_ids, seed=seed, purpose="shuffle")
    key_T = mixed(row_key[row] + (place_T.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    order_T: np.ndarray = np.lexsort((key_T, row))  # `row` ascends, so each trajectory keeps its own weights
    return np.take(weight_T, order_T)


def set_name(code: int, *, states: Sequence[str]) -> str:
    """A set code as text: framing, or framing+evaluation."""
    a, b = divmod(code, len(states))
    return states[a] if a == b else f"{states[a]}+{states[b]}"
