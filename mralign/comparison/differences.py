"""The difference between two methods over worlds, when each world was trained under several seeds.

Differences by world and seed enter; their mean, an interval and a p-value leave. The world is the unit: seeds of a
world are averaged, the interval is Student's of the world means (exact for a balanced random-effects model with normal
effects), the p-value that of the exact sign-flip test over worlds. A hierarchical bootstrap stands beside them.

Axes: W worlds, S seeds of a world, B samples of the bootstrap, N values of all worlds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from mralign.comparison.run_rows import Point, RunRow
from mralign.evaluation.paired import sign_flip_p


@dataclass(frozen=True)
class Effect:
    """A mean over worlds and what is known of it. `low`, `high`: Student's interval, nan of one world."""

    mean: float
    low: float
    high: float
    p: float
    bootstrap: tuple[float, float]
    worlds: int


def effect(by_world: Sequence[np.ndarray], *, level: float = 0.95) -> Effect:
    """The effect of values (S,) by world. Raises ValueError without a world, or for a world without a seed."""
    if not by_world or not all(len(values) for values in by_world):
        raise ValueError("an effect needs at least one world, and a value of each")
    mean_W = np.array([values.mean() for values in by_world])
    half = math.nan
    if len(mean_W) > 1:
        error = float(mean_W.std(ddof=1)) / math.sqrt(len(mean_W))
        half = float(stats.t.ppf((1 + level) / 2, len(mean_W) - 1)) * error
    mean = float(mean_W.mean())
    return Effect(
        mean, mean - half, mean + half, sign_flip_p(mean_W), hierarchical_bootstrap(by_world, level=level), len(mean_W)
    )


def hierarchical_bootstrap(
    by_world: Sequence[np.ndarray], *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the mean over worlds: worlds are drawn again, then seeds within each drawn world.

    With few worlds it is narrower than its level says: it knows their spread only by the worlds that it has.
    """
    rng = np.random.default_rng(seed)
    size_W = np.array([len(values) for values in by_world])
    begin_W = np.cumsum(size_W) - size_W
    value_N = np.concatenate(by_world)
    drawn_BW = rng.integers(len(by_world), size=(samples, len(by_world)))
    size_BW1 = size_W[drawn_BW][..., None]
    seed_BWS = (rng.random((*drawn_BW.shape, size_W.max())) * size_BW1).astype(int)
    value_BWS = value_N[begin_W[drawn_BW][..., None] + seed_BWS]
    counts_BWS = np.arange(size_W.max()) < size_BW1
    means = ((value_BWS * counts_BWS).sum(axis=2) / size_BW1[..., 0]).mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def tested(rows: Sequence[RunRow], *, method: str) -> dict[str, dict[int, RunRow]]:
    """The test rows of a method: world -> seed -> row."""
    found: dict[str, dict[int, RunRow]] = {}
    for row in rows:
        if row.split == "test" and row.method == method:
            found.setdefault(row.world, {})[row.seed] = row
    return found


def values_of(rows: Sequence[RunRow], *, method: str, measure: str) -> list[np.ndarray]:
    """A measure of a method: its values (S,) by world, None left out."""
    found = []
    for seeds in tested(rows, method=method).values():
        known = [value for row in seeds.values() if (value := getattr(row, measure)) is not None]
        found.append(np.array(known))
    return [values for values in found if len(values)]


def paired_values(rows: Sequence[RunRow], *, method: str, reference: str, measure: str) -> list[np.ndarray]:
    """The measure of `method` minus that of `reference` under the same seed, (S,) by world that both have."""
    one, other = tested(rows, method=method), tested(rows, method=reference)
    found = []
    for world in one.keys() & other.keys():
        seeds = sorted(one[world].keys() & other[world].keys())
        pairs = [(getattr(one[world][seed], measure), getattr(other[world][seed], measure)) for seed in seeds]
        found.append((world, np.array([a - b for a, b in pairs if a is not None and b is not None])))
    return [values for _, values in sorted(found, key=lambda pair: pair[0]) if len(values)]


def latest(rows: Sequence[RunRow]) -> list[RunRow]:
    """One row a point and split: where the table holds several marks, the one that was measured last."""
    found: dict[tuple[Point, str], RunRow] = {}
    for row in rows:
        found[row.point, row.split] = row
    return list(found.values())
