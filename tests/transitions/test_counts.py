"""Counts of set transitions (method.md §3): the sufficient statistic, its encoding, and its independence of shards."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.taxonomy import PAPER
from mralign.rows.schema import ANNOTATIONS, COUNTS
from mralign.transitions.counts import (
    UNLABELLED,
    add,
    base_edges,
    chains,
    count,
    count_pairs,
    encode_sets,
    select,
    stop_code,
)

STATES = ("<start>", "x", "y", "z", "<stop>")  # K = 5
START, STOP = 0, 24


def table(rows: Sequence[tuple[str, int, Sequence[Sequence[str]]]]) -> pa.Table:
    """ANNOTATIONS of (dataset, polarity, label lists of the steps)."""
    return pa.Table.from_pylist(
        [
            {
                "row_id": f"q{number}/on/0",
                "question_id": f"q{number}",
                "dataset": dataset,
                "polarity": polarity,
                "steps": [
                    {"first_segment": i, "last_segment": i, "labels": list(labels), "labels_a": ["x"], "labels_b": []}
                    for i, labels in enumerate(steps)
                ],
            }
            for number, (dataset, polarity, steps) in enumerate(rows)
        ],
        schema=ANNOTATIONS,
    )


def as_dict(counts: pa.Table) -> dict[tuple[str, int, int, int], int]:
    return {tuple(row[key] for key in COUNTS.names[:-1]): row["count"] for row in counts.to_pylist()}


def code(*labels: str) -> int:
    a, b = sorted(STATES.index(label) for label in (labels if len(labels) == 2 else labels * 2))
    return a * len(STATES) + b


# --- encoding ----------------------------------------------------------------------------------------------------


def test_sets_are_encoded_a_times_K_plus_b() -> None:
    sets = pa.array([["x"], ["y", "x"], ["x", "y"], [], ["z", "z"], None], pa.list_(pa.string()))
    assert encode_sets(sets, states=STATES).tolist() == [6, 7, 7, UNLABELLED, 18, UNLABELLED]


def test_single_keeps_the_first_label() -> None:
    sets = pa.array([["y", "x"], ["x", "y"], ["z"], []], pa.list_(pa.string()))
    assert encode_sets(sets, states=STATES, labels="single").tolist() == [12, 6, 18, UNLABELLED]


def test_the_paper_has_122_state_sets() -> None:
    pairs = [[a, b] for a in PAPER.labels for b in PAPER.labels]
    codes = encode_sets(pa.array(pairs, pa.list_(pa.string())), states=PAPER.states)
    assert len({0, stop_code(PAPER.K), *codes.tolist()}) == 122
    assert stop_code(PAPER.K) == 16 * 17 + 16


def test_unknown_labels_and_triples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"labels \['w'\] are not states; allowed are \['x', 'y', 'z'\]"):
        encode_sets(pa.array([["x", "w"]]), states=STATES)
    with pytest.raises(ValueError, match=r"labels \['<stop>'\] are not states"):
        encode_sets(pa.array([["<stop>"]]), states=STATES)
    with pytest.raises(ValueError, match="3 labels; allowed are 0, 1 or 2"):
        encode_sets(pa.array([["x", "y", "z"]]), states=STATES)
    with pytest.raises(ValueError, match="labels is 'best'; allowed are 'all' and 'single'"):
        encode_sets(pa.array([["x"]]), states=STATES, labels="best")  # type: ignore[arg-type]


def test_base_edges_of_every_shape_of_pair() -> None:
    source, target = np.array([6, 7, 6, 7]), np.array([18, 18, 13, 13])  # x|xy -> z|yz
    a_TE, b_TE, exists_TE = base_edges(source, target, K=5)
    found = [
        sorted(zip(a[e].tolist(), b[e].tolist(), strict=True)) for a, b, e in zip(a_TE, b_TE, exists_TE, strict=True)
    ]
    assert found == [[(1, 3)], [(1, 3), (2, 3)], [(1, 2), (1, 3)], [(1, 2), (1, 3), (2, 2), (2, 3)]]


# --- counting ----------------------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    rows = [("d", 1, [["x"], ["y", "x"], ["x"]]), ("d", 1, [["x"], ["x", "y"]]), ("e", 1, [["x"]]), ("d", -1, [["z"]])]
    counts = count(table(rows), states=STATES)
    assert counts.schema == COUNTS
    assert as_dict(counts) == {
        ("d", 1, START, code("x")): 2,
        ("d", 1, code("x"), code("x", "y")): 2,
        ("d", 1, code("x", "y"), code("x")): 1,
        ("d", 1, code("x", "y"), STOP): 1,
        ("d", 1, code("x"), STOP): 1,
        ("e", 1, START, code("x")): 1,
        ("e", 1, code("x"), STOP): 1,
        ("d", -1, START, code("z")): 1,
        ("d", -1, code("z"), STOP): 1,
    }


def test_neighbours_of_an_unlabelled_step_become_adjacent() -> None:
    counts = count(table([("d", 1, [[], ["x"], [], [], ["y"], []])]), states=STATES)
    assert as_dict(counts) == {
        ("d", 1, START, code("x")): 1,
        ("d", 1, code("x"), code("y")): 1,
        ("d", 1, code("y"), STOP): 1,
    }


def test_a_trajectory_without_a_labelled_step_contributes_nothing() -> None:
    assert count(table([("d", 1, [[], []]), ("d", 1, [])]), states=STATES).num_rows == 0


def test_no_rows_give_no_counts_and_the_schema() -> None:
    for empty in (table([]), ANNOTATIONS.empty_table()):
        assert count(empty, states=STATES).schema == COUNTS
    assert add([]).schema == COUNTS


def test_one_annotators_labels_can_be_counted() -> None:
    rows = [("d", 1, [["z"], ["y"]])]
    assert as_dict(count(table(rows), states=STATES, field="labels_a"))["d", 1, code("x"), code("x")] == 1
    assert count(table(rows), states=STATES, field="labels_b").num_rows == 0


def test_slices_and_chunks_of_a_table_count_what_they_hold() -> None:
    rows = [("d", 1, [["x"]]), ("d", 1, [["y"], ["z", "x"]]), ("d", 1, [["z"]])]
    whole = table(rows)
    assert count(whole.slice(1, 1), states=STATES) == count(table(rows[1:2]), states=STATES)
    chunked = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    assert count(chunked, states=STATES) == count(whole, states=STATES)


def test_predecessors_stay_inside_their_trajectory() -> None:
    chain = chains(table([("d", 1, [["x"], [], ["y"]]), ("d", 1, [["z"]])]), states=STATES)
    assert chain.row_S.tolist() == [0, 0, 0, 1]
    assert chain.set_S.tolist() == [code("x"), UNLABELLED, code("y"), code("z")]
    assert chain.previous_S.tolist() == [START, UNLABELLED, code("x"), START]


def test_select_sums_data_sets_of_the_chosen_polarities() -> None:
    rows = [("d", 1, [["x"]]), ("e", 1, [["x"]]), ("d", -1, [["x"]]), ("d", 0, [["y"]])]
    counts = count(table(rows), states=STATES)
    union = select(counts, polarities=(1, -1))
    assert union.source_sets.tolist() == [START, code("x")]
    assert union.target_sets.tolist() == [code("x"), STOP]
    assert union.n.tolist() == [3, 3]
    assert select(counts, polarities=(1,)).n.tolist() == [2, 2]
    assert select(counts, polarities=(1, -1, 0)).n.sum() == 8


# --- laws --------------------------------------------------------------------------------------------------------

STEPS = st.lists(st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True), max_size=6)
ROWS = st.lists(st.tuples(st.sampled_from(["d", "e"]), st.sampled_from([1, -1, 0]), STEPS), max_size=12)


@settings(deadline=None)
@given(rows=ROWS)
def test_counts_equal_a_plain_loop(rows: list[tuple[str, int, list[list[str]]]]) -> None:
    expected: Counter[tuple[str, int, int, int]] = Counter()
    for dataset, polarity, steps in rows:
        sets = [code(*labels) for labels in steps if labels]
        if sets:
            path = [START, *sets, STOP]
            expected.update((dataset, polarity, a, b) for a, b in pairwise(path))
    assert as_dict(count(table(rows), states=STATES)) == dict(expected)


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_any_sharding_order_and_tree_gives_the_same_table(
    rows: list[tuple[str, int, list[list[str]]]], data: st.DataObject
) -> None:
    whole = count(table(rows), states=STATES)
    shard_of = data.draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    shards = [[row for row, shard in zip(rows, shard_of, strict=True) if shard == number] for number in range(4)]
    parts = [count(table(shard), states=STATES) for shard in data.draw(st.permutations(shards))]
    assert add(parts) == whole
    assert add([add(parts[:2]), add([parts[3], parts[2]])]) == whole


def test_sums_stay_exact_beyond_float_precision() -> None:
    big = pa.Table.from_pylist(
        [{"dataset": "d", "polarity": 1, "source": 0, "target": 6, "count": 2**53 + 1}], schema=COUNTS
    )
    assert add([big, big]).column("count").to_pylist() == [2**54 + 2]


@given(st.integers(2, 66), st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2**31)), min_size=1, max_size=60))
def test_coded_pairs_are_counted_as_a_plain_loop_does(K: int, drawn: list[tuple[int, int]]) -> None:
    pairs = [((low * value) % (K * K), value % (K * K)) for low, value in drawn]
    source, target = (np.array(side, dtype=np.int32) for side in zip(*pairs, strict=True))
    found = count_pairs(source, target, K=K)
    counted = zip(found.source_sets.tolist(), found.target_sets.tolist(), found.n.tolist(), strict=True)
    assert list(counted) == [(*pair, n) for pair, n in sorted(Counter(pairs).items())]


def test_codes_that_are_no_sets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"target codes reach from 0 to 25; allowed are 0 to 24"):
        count_pairs(np.array([0, 1]), np.array([25, 0]), K=5)
