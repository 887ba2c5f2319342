"""Two methods on the same questions: the mean difference, its interval, and a test of it.

Rows of schema SCORES of two methods enter; one comparison a benchmark and measure leaves. Draws are averaged within a
question first, since the draws of one question are not independent: the question is what is resampled and what is
permuted, so the two sides may have different numbers of draws. For single draws of right-or-wrong outcomes the exact
test is McNemar's.

Axes: Q questions, D those of them with a difference, S sign patterns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.evaluation.benchmarks import measures, registry
from mralign.evaluation.intervals import bootstrap_interval

EXACT = 16  # differences other than zero up to which every sign pattern is tried: 2**16
_CHUNK = 512  # sign patterns held in memory at once


@dataclass(frozen=True)
class Difference:
    """Means of two methods over the same questions, and their difference (`a` minus `b`), in the unit of the column."""

    a: float
    b: float
    difference: float
    ci: tuple[float, float]  # percentile bootstrap over questions
    p: float  # two-sided sign-flip permutation test
    n: int  # questions on both sides
    only_a: int  # questions that were left out because the other side lacks them
    only_b: int


def paired_difference(
    a: pa.Table,
    b: pa.Table,
    *,
    column: str = "acc",
    common: bool = False,
    level: float = 0.95,
    samples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The difference in the mean of a boolean or numeric `column` over the questions of two tables.

    The tables need the columns question_id and `column`; rows without a value do not count. Raises ValueError if the
    questions differ; `common` leaves out those that stand on one side only, and raises where none is left.
    """
    mean_a, mean_b = question_means(a, column=column), question_means(b, column=column)
    only_a, only_b = len(mean_a.keys() - mean_b.keys()), len(mean_b.keys() - mean_a.keys())
    if (only_a or only_b) and not common:
        raise ValueError(
            f"paired {column} must be of the same questions: {only_a} stand only in the first, {only_b} only in the "
            f"second; score both on one set, or restrict to the common questions (--common)"
        )
    shared = sorted(mean_a.keys() & mean_b.keys())
    if not shared:
        raise ValueError(
            f"no question has {column} on both sides: {only_a} stand only in the first, {only_b} only in the second"
        )
    a_Q = np.array([mean_a[question] for question in shared])
    b_Q = np.array([mean_b[question] for question in shared])
    return Difference(
        a=float(a_Q.mean()),
        b=float(b_Q.mean()),
        difference=float((a_Q - b_Q).mean()),
        ci=bootstrap_interval(a_Q - b_Q, level=level, samples=samples, seed=seed),
        p=sign_flip_p(a_Q - b_Q, permutations=permutations, seed=seed),
        n=len(shared),
        only_a=only_a,
        only_b=only_b,
    )


def question_means(rows: pa.Table, *, column: str) -> dict[str, float]:
    """question_id -> mean of `column` over its rows that have a value, float64."""
    kept = rows.select(["question_id", column]).filter(pc.is_valid(rows.column(column)))
    values = kept.column(column).cast(pa.int8()) if kept.schema.field(column).type == pa.bool_() else kept[column]
    table = pa.table({"question_id": kept.column("question_id"), "value": values.cast(pa.float64())})
    means = table.group_by("question_id", use_threads=False).aggregate([("value", "mean")])
    return dict(zip(means.column("question_id").to_pylist(), means.column("value_mean").to_pylist(), strict=True))


def sign_flip_p(differences_Q: np.ndarray, *, permutations: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the mean of `differences_Q` under the hypothesis that each is as likely as its negative.

    `differences_Q`: float (Q,), one a question; docs/method.md §6, paired comparison.
    The share of sign patterns whose sum is at least as far from 0: of all patterns where at most EXACT differences are
    other than 0, else of `permutations` random ones N, as (hits + 1) / (N + 1). Raises ValueError for no differences.
    scipy.stats.permutation_test gives the same exact values; it takes three to thirty times as long, as it sorts random
    numbers where a random sign is enough.

    >>> import mralign, numpy
    >>> mralign.sign_flip_p(numpy.array([1.0, 1.0, 1.0, 0.0]))  # 2 of 2**3 patterns
    0.25
    """
    if not len(differences_Q) or permutations < 1:
        raise ValueError(
            f"a test needs differences and permutations, given {len(differences_Q)} differences and {permutations} "
            f"permutations"
        )
    size_D = np.abs(differences_Q[differences_Q != 0])
    if not size_D.size:
        return 1.0
    # Sums of the same terms in another order differ by rounding: equal must count as equal.
    bound = abs(float(differences_Q.sum())) - 1e-9 * float(size_D.sum())
    if size_D.size <= EXACT:
        return _hits(_every_pattern(size_D.size), size_D=size_D, bound=bound) / 2**size_D.size
    rng = np.random.default_rng(seed)
    hits = 0
    for first in range(0, permutations, _CHUNK):
        shape = (min(_CHUNK, permutations - first), size_D.size)
        hits += _hits(rng.integers(2, size=shape, dtype=np.int8), size_D=size_D, bound=bound)
    return (hits + 1) / (permutations + 1)


def _every_pattern(size: int) -> np.ndarray:
    return (np.arange(2**size)[:, None] >> np.arange(size)) & 1


def _hits(flipped_SD: np.ndarray, *, size_D: np.ndarray, bound: float) -> int:
    """Sign patterns (1: flipped) whose sum lies at least `bound` from 0."""
    sum_S = size_D.sum() - 2 * (flipped_SD @ size_D)
    return int((np.abs(sum_S) >= bound).sum())


def compare(
    a_rows: pa.Table,
    b_rows: pa.Table,
    *,
    common: bool = False,
    level: float = 0.95,
    samples: int = 2000,
    permutations: int = 10_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Every paired measure that two methods both have, compared; rows of schema SCORES, one method each.

    Keys: dataset, measure, the fields of Difference, and p_holm, the p-values of this call adjusted by Holm's method.
    `a` is scored as `b` was where a benchmark knows how (F1@K at the K of `b`). For `common` and what is raised see
    `paired_difference`, but a measure that no common question has is left out; the message names data set and measure.
    """
    settings: dict[str, Any] = {"level": level, "samples": samples, "permutations": permutations, "seed": seed}
    found: list[dict[str, Any]] = []
    for dataset in _shared_datasets(a_rows, b_rows):
        a, b = (rows.filter(pc.equal(rows.column("dataset"), dataset)) for rows in (a_rows, b_rows))
        a = _scored_alike(a, reference=b)
        for column in _compared(a, b):
            if common and not question_means(a, column=column).keys() & question_means(b, column=column).keys():
                continue
            try:
                difference = paired_difference(a, b, column=column, common=common, **settings)
            except ValueError as error:
                raise ValueError(f"{dataset}: {error}") from None
            found.append({"dataset": dataset, "measure": column, **asdict(difference)})
    adjusted = holm([row["p"] for row in found])
    return [{**row, "p_holm": p} for row, p in zip(found, adjusted, strict=True)]


def _scored_alike(rows: pa.Table, *, reference: pa.Table) -> pa.Table:
    for benchmark in registry().values():
        if benchmark.alike is not None:
            rows = benchmark.alike(rows, reference)
    return rows


def _compared(a: pa.Table, b: pa.Table) -> list[str]:
    """The columns of paired measures that hold values on both sides."""
    paired = [measure.key for measure in measures().values() if measure.paired]
    return [column for column in paired if _has(a, column) and _has(b, column)]


def _shared_datasets(a: pa.Table, b: pa.Table) -> list[str]:
    """Data sets of both, in the order of the first."""
    there = set(pc.unique(b.column("dataset")).to_pylist())
    return [name for name in pc.unique(a.column("dataset")).to_pylist() if name in there]


def _has(rows: pa.Table, column: str) -> bool:
    return bool(rows.column(column).null_count < rows.num_rows)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method, in the order given."""
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(p) for p in adjusted]
