"""Bootstrap intervals of a mean over questions.

Values and the question of each enter; the ends of a percentile interval leave. Whole questions are resampled, since the
draws of one question are not independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_CHUNK = 256  # bootstrap samples held in memory at once


def bootstrap_interval(
    values: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (float, (N,)); docs/method.md §6.

    `clusters` ((N,), default: each value its own) are resampled with replacement and bring all their values along.
    The same seed gives the same interval. Raises ValueError for no values, or a level outside (0, 1). The numbers are
    those of scipy.stats.bootstrap, which takes as long but refuses a single cluster.

    >>> import mralign, numpy
    >>> mralign.bootstrap_interval(numpy.ones(10))
    (1.0, 1.0)
    >>> low, high = mralign.bootstrap_interval(numpy.array([0.0, 1.0] * 20))
    >>> 0.3 < low < 0.5 < high < 0.7
    True
    """
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"an interval needs values and a level in (0, 1), given {len(values)} values, level {level}")
    labels = np.arange(len(values)) if clusters is None else clusters
    _, member = np.unique(labels, return_inverse=True)
    sums = np.bincount(member, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(member).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for first in range(0, samples, _CHUNK):
        picks = rng.integers(len(sums), size=(min(_CHUNK, samples - first), len(sums)))
        means[first : first + len(picks)] = sums[picks].sum(axis=1) / sizes[picks].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rate(
    key: str, values: list[Any], *, questions: list[str], level: float = 0.95, samples: int = 2000
) -> dict[str, Any]:
    """{key: mean, key_ci: [low, high]} of `values`, one a row, of which `questions` names the question.

    Rows whose value is None do not count; both figures are None where no row does.
    """
    known = [(value, question) for value, question in zip(values, questions, strict=True) if value is not None]
    if not known:
        return {key: None, f"{key}_ci": None}
    numbers = np.array([value for value, _ in known], dtype=np.float64)
    clusters = np.array([question for _, question in known])
    interval = bootstrap_interval(numbers, clusters=clusters, level=level, samples=samples)
    return {key: float(numbers.mean()), f"{key}_ci": list(interval)}


def mean_or_none(values: list[float]) -> float | None:
    """The mean, None of nothing."""
    return float(np.mean(values)) if values else None
