"""The bootstrap over trajectories: exact in any sharding, and its standard errors are the spread of new corpora."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.rows.schema import ANNOTATIONS, COUNTS, REPLICATED_COUNTS
from mralign.transitions.bootstrap import (
    add_replicated,
    count_replicated,
    replicate_counts,
    select_replicates,
    standard_error,
)
from mralign.transitions.counts import count, select
from mralign.transitions.draws import poisson, row_keys
from mralign.transitions.edges import WeightRule, edges
from mralign.transitions.em import Settings, estimate, estimate_replicated

STATES = ("<start>", "x", "y", "z", "<stop>")  # K = 5
Row = tuple[str, str, int, list[list[str]]]  # id, data set, polarity, labels of the steps


def table(rows: Sequence[Row]) -> pa.Table:
    """ANNOTATIONS of the rows."""
    names = ("row_id", "dataset", "polarity")
    return pa.Table.from_pylist(
        [dict(zip(names, head, strict=True)) | {"steps": [{"labels": s} for s in steps]} for *head, steps in rows],
        schema=ANNOTATIONS,
    )


def counted(rows: Sequence[Row], *, replicates: int = 6, seed: int = 3) -> pa.Table:
    return count_replicated(table(rows), states=STATES, replicates=replicates, seed=seed)


STEPS = st.lists(st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True), max_size=5)
ROWS = st.lists(
    st.tuples(
        st.integers(0, 10**6).map(lambda n: f"q{n}/on/0"), st.sampled_from("de"), st.sampled_from([1, -1, 0]), STEPS
    ),
    max_size=10,
    unique_by=lambda row: row[0],
)


# --- counting ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(rows=ROWS)
def test_a_replicate_counts_each_trajectory_as_often_as_its_weight(rows: list[Row]) -> None:
    whole = counted(rows)
    assert whole.schema == REPLICATED_COUNTS
    assert whole.select(COUNTS.names) == count(table(rows), states=STATES)
    ids = pa.array([row[0] for row in rows], pa.string())
    weight_NB = poisson(row_keys(ids, seed=3, purpose="bootstrap"), replicates=6)
    expected: Counter[Any] = Counter()
    for (_, dataset, polarity, steps), weights in zip(rows, weight_NB, strict=True):
        sets = [sorted(STATES.index(label) for label in labels) for labels in steps if labels]
        codes = [0, *(s[0] * 5 + s[-1] for s in sets), 24] if sets else []
        for source, target in pairwise(codes):
            for replicate, weight in enumerate(weights.tolist()):
                expected[dataset, polarity, source, target, replicate] += weight
    got = {
        (r["dataset"], r["polarity"], r["source"], r["target"], b): n
        for r in whole.to_pylist()
        for b, n in enumerate(r["replicates"])
    }
    assert got == dict(expected)


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_replicates_do_not_depend_on_shards_and_order(rows: list[Row], data: st.DataObject) -> None:
    whole = counted(rows)
    shard_of = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    shards = [[row for row, shard in zip(rows, shard_of, strict=True) if shard == number] for number in range(4)]
    parts = [counted(data.draw(st.permutations(shard))) for shard in data.draw(st.permutations(shards))]
    assert add_replicated(parts) == whole
    assert add_replicated([add_replicated(parts[:2]), add_replicated([parts[3], parts[2]])]) == whole


@settings(deadline=None)
@given(rows=ROWS)
def test_select_sums_replicates_over_data_sets(rows: list[Row]) -> None:
    whole = counted(rows)
    for polarities in ((1,), (1, -1, 0)):
        chosen, n_TB = select_replicates(whole, polarities=polarities)
        plain = select(whole, polarities=polarities)
        assert (chosen.source_sets.tolist(), chosen.n.tolist()) == (plain.source_sets.tolist(), plain.n.tolist())
        expected = Counter()
        for row in whole.to_pylist():
            if row["polarity"] in polarities:
                expected.update({(row["source"], row["target"], b): n for b, n in enumerate(row["replicates"])})
        codes = zip(chosen.source_sets.tolist(), chosen.target_sets.tolist(), n_TB.tolist(), strict=True)
        assert {(i, j, b): n for i, j, row in codes for b, n in enumerate(row)} == dict(expected)


def test_no_replicates_are_empty_lists_and_bad_numbers_are_refused() -> None:
    rows: list[Row] = [("a", "d", 1, [["x"]])]
    assert counted(rows, replicates=0).column("replicates").to_pylist() == [[], []]
    assert replicate_counts(counted(rows, replicates=0)).shape == (2, 0)
    assert add_replicated([]).schema == REPLICATED_COUNTS
    for number in (-1, 1):
        with pytest.raises(ValueError, match=f"{number} bootstrap replicates; allowed are 0"):
            counted(rows, replicates=number)
    with pytest.raises(ValueError, match=r"count tables with \['2', '3'\] replicates"):
        add_replicated([counted(rows, replicates=2), counted(rows, replicates=3)])


def test_replicated_sums_stay_exact_beyond_float_precision() -> None:
    row = {"dataset": "d", "polarity": 1, "source": 0, "target": 6, "count": 2**53 + 1, "replicates": [2**53 + 1, 1]}
    big = pa.Table.from_pylist([row], schema=REPLICATED_COUNTS)
    assert add_replicated([big, big]).column("replicates").to_pylist() == [[2**54 + 2, 2]]


# --- estimates ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(rows=ROWS.filter(lambda rows: any(labels for row in rows for labels in row[3])))
def test_each_replicate_is_estimated_from_its_own_counts(rows: list[Row]) -> None:
    counts, n_TB = select_replicates(counted(rows), polarities=(1, -1, 0))
    found = estimate_replicated(counts, n_TB=n_TB, K=5, settings=Settings(max_iter=40, tol=1e-3))
    for result, n_T in zip(found, [counts.n, *n_TB.T], strict=True):
        if n_T.any():
            alone = type(counts)(counts.source_sets, counts.target_sets, n_T, counts.polarities)
            expected = estimate(alone, K=5, max_iter=40, tol=1e-3)
            assert (result.iterations, result.converged) == (expected.iterations, expected.converged)
            assert np.array_equal(result.P, expected.P)
            assert result.log_likelihood == expected.log_likelihood
        else:  # the prior alone
            np.testing.assert_allclose(result.P[1], [0, 0.25, 0.25, 0.25, 0.25], atol=1e-12)


def test_standard_error_by_hand() -> None:
    values = np.array([[1.0, 0.1, np.inf], [3.0, 0.1, 1.0], [2.0, 0.1, 1.0]])
    found = standard_error(values)
    np.testing.assert_allclose(found, [1.0, 0, np.nan])
    assert found[1] == 0  # though 0.1 three times does not add up to 0.3


def corpus(rng: np.random.Generator, *, size: int, name: str = "") -> pa.Table:
    """A Markov chain over x, y, z whose labels come in pairs now and then; positives stay, negatives move on.

    Trajectories differ in how much they stay, so that their steps are not independent.
    """
    rows: list[Row] = []
    for number in range(size):
        polarity, label, steps = (1, -1)[number % 2], int(rng.integers(3)), []
        stay = rng.beta(2, 1) if polarity == 1 else rng.beta(1, 2)
        for _ in range(int(rng.integers(2, 9))):
            label = label if rng.random() < stay else (label + 1) % 3
            extra = [STATES[1 + (label + 1) % 3]] if rng.random() < 0.2 else []
            steps.append([STATES[1 + label], *extra])
        rows.append((f"{name}{number}", "d", polarity, steps))
    return table(rows)


def fitted(steps: pa.Table, *, replicates: int = 0) -> tuple[dict[str, np.ndarray], pa.Table]:
    """Standard errors of P, P+ (or the matrices themselves without replicates), and the edges."""
    whole = count_replicated(steps, states=STATES, replicates=replicates, seed=5)
    found, drawn = {}, {}
    for name, polarities in {"all": (1, -1), "positive": (1,), "negative": (-1,)}.items():
        counts, n_TB = select_replicates(whole, polarities=polarities)
        found[name], *others = estimate_replicated(counts, n_TB=n_TB, K=5, settings=Settings())
        drawn[name] = np.array([other.P for other in others]).reshape(-1, 5, 5)
    P, C = ({name: getattr(e, part) for name, e in found.items()} for part in ("P", "C"))
    behind = edges(whole, matrices=P, support=C, replicates=drawn, states=STATES, rule=WeightRule())
    return ({name: standard_error(P_BKK) for name, P_BKK in drawn.items()} if replicates else P), behind


def ratios_of(behind: pa.Table, *, column: str) -> dict[tuple[int, str, str], float]:
    rows = behind.to_pylist()
    return {(r["polarity"], r["source"], r["target"]): r[column] for r in rows if r["level"] == "sets"}


def test_standard_errors_are_the_spread_over_new_corpora() -> None:
    """What 150 corpora of 200 trajectories differ by, against what one of them says of itself (the mean of eight)."""
    rng = np.random.default_rng(11)
    corpora = [corpus(rng, size=200) for _ in range(150)]
    plain = [fitted(steps) for steps in corpora]
    drawn = [fitted(corpus(rng, size=200, name=f"{number}/"), replicates=100) for number in range(8)]
    for name in ("all", "positive", "negative"):
        spread = np.array([P[name] for P, _ in plain]).std(axis=0, ddof=1)
        error = np.mean([errors[name] for errors, _ in drawn], axis=0)
        often = spread > 0.01
        assert often.sum() >= 12
        assert 0.8 < np.median(error[often] / spread[often]) < 1.2
        assert ((error[often] > 0.6 * spread[often]) & (error[often] < 1.6 * spread[often])).all()
    ratios = [ratios_of(behind, column="ratio") for _, behind in plain]
    errors = [ratios_of(behind, column="ratio_standard_error") for _, behind in drawn]
    common = set.intersection(*map(set, [*ratios, *errors]))
    assert len(common) >= 12
    relative = [
        np.mean([found[edge] for found in errors]) / np.std([found[edge] for found in ratios], ddof=1)
        for edge in common
    ]
    assert 0.8 < np.median(relative) < 1.2
