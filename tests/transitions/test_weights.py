"""Step weights (method.md §4): the ratio, its clip, its controls and its summary."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.rows.schema import ANNOTATIONS, WEIGHTS
from mralign.transitions.counts import add, count, select
from mralign.transitions.em import estimate
from mralign.transitions.weights import pair_probability, step_weights, summary

STATES = ("<start>", "x", "y", "z", "<stop>")  # K = 5
E = math.e
Row = tuple[int, Sequence[Sequence[str]]]


def table(rows: Sequence[Row], *, names: Sequence[str] | None = None) -> pa.Table:
    """ANNOTATIONS of (polarity, label lists of the steps)."""
    return pa.Table.from_pylist(
        [
            {
                "row_id": names[number] if names else f"q{number}/on/0",
                "dataset": "d",
                "polarity": polarity,
                "steps": [{"labels": list(labels)} for labels in steps],
            }
            for number, (polarity, steps) in enumerate(rows)
        ],
        schema=ANNOTATIONS,
    )


def random_matrix(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(5, 0.4), size=5) + 1e-3


MATRICES = {"all": random_matrix(1), "positive": random_matrix(2), "negative": random_matrix(3)}


def weights_of(rows: Sequence[Row], **options: Any) -> list[list[float]]:
    settings = {"matrices": MATRICES, "states": STATES} | options
    return step_weights(table(rows), **settings).column("step_weights").to_pylist()


def literal(rows: Sequence[Row], *, anchor: str = "global", low: float = 1 / E, high: float = E) -> list[list[float]]:
    """§4 in a plain loop."""
    result = []
    for polarity, steps in rows:
        if polarity == 0:
            continue
        own, other = ("positive", "negative") if polarity == 1 else ("negative", "positive")
        top, base = MATRICES[own], MATRICES["all" if anchor == "global" else other]
        before, weights = ["<start>"], []
        for labels in steps:
            if not labels:
                weights.append(1.0)
                continue
            edges = [(STATES.index(a), STATES.index(b)) for a in before for b in labels]
            share = 1 / (len(before) * len(labels))
            ratio = sum(top[e] * share for e in edges) / sum(base[e] * share for e in edges)
            weights.append(min(max(ratio, low), high))
            before = list(labels)
        result.append(weights)
    return result


STEPS = st.lists(st.lists(st.sampled_from(["x", "y", "z"]), max_size=2, unique=True), max_size=6)
ROWS = st.lists(st.tuples(st.sampled_from([1, -1, 0]), STEPS), max_size=8)


# --- the ratio ---------------------------------------------------------------------------------------------------


def test_pair_probability_sums_the_base_edges() -> None:
    P = np.arange(25.0).reshape(5, 5)
    got = pair_probability(P, source_sets=np.array([6, 7, 7]), target_sets=np.array([13, 18, 13]))  # x>yz xy>z xy>yz
    assert got.tolist() == [7 + 8, 8 + 13, 7 + 8 + 12 + 13]


def test_weights_by_hand() -> None:
    uniform = np.full((5, 5), 0.2)
    positive, negative = uniform.copy(), uniform.copy()
    positive[0, 1], positive[1, 2], positive[1, 3] = 0.3, 0.9, 0.04
    negative[0, 1] = 0.1
    matrices = {"all": uniform, "positive": positive, "negative": negative}
    rows: list[Row] = [(1, [["x"], ["y"]]), (1, [["x"], ["z"]]), (1, [["x"], ["y", "z"]]), (-1, [["x"]])]
    got = weights_of(rows, matrices=matrices)
    assert got[0] == pytest.approx([1.5, E])  # 0.9/0.2 = 4.5 is clipped
    assert got[1] == pytest.approx([1.5, 1 / E])  # 0.04/0.2 = 0.2 is clipped
    assert got[2] == pytest.approx([1.5, 0.94 / 0.4])
    assert got[3] == pytest.approx([0.5])
    assert weights_of(rows, matrices=matrices, clip_min=0, clip_max=math.inf)[1] == pytest.approx([1.5, 0.2])


@settings(deadline=None)
@given(rows=ROWS, anchor=st.sampled_from(["global", "opposite"]))
def test_weights_equal_a_plain_loop(rows: list[Row], anchor: str) -> None:
    got, expected = weights_of(rows, anchor=anchor), literal(rows, anchor=anchor)
    assert [len(weights) for weights in got] == [len(weights) for weights in expected]
    for mine, theirs in zip(got, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)


@settings(deadline=None)
@given(rows=ROWS, anchor=st.sampled_from(["global", "opposite"]))
def test_equal_matrices_give_weight_one(rows: list[Row], anchor: str) -> None:
    matrices = dict.fromkeys(("all", "positive", "negative"), MATRICES["all"])
    assert all(weight == 1.0 for weights in weights_of(rows, matrices=matrices, anchor=anchor) for weight in weights)


def test_the_opposite_anchor_turns_over_with_the_polarity() -> None:
    steps = [["x"], ["y", "z"], ["x"]]
    [positive, negative] = weights_of([(1, steps), (-1, steps)], anchor="opposite", clip_min=0, clip_max=math.inf)
    assert np.array(positive) * np.array(negative) == pytest.approx(np.ones(3))


def test_unlabelled_steps_weigh_one_and_are_nobodys_predecessor() -> None:
    [with_gaps] = weights_of([(1, [[], ["x"], [], ["y"]])])
    [without] = weights_of([(1, [["x"], ["y"]])])
    assert with_gaps == [1.0, without[0], 1.0, without[1]]


def test_rows_without_polarity_get_no_weights_and_rows_without_steps_an_empty_list() -> None:
    got = step_weights(table([(0, [["x"]]), (1, []), (-1, [["x"]])]), matrices=MATRICES, states=STATES)
    assert got.schema == WEIGHTS
    assert got.column("row_id").to_pylist() == ["q1/on/0", "q2/on/0"]
    assert got.column("polarity").to_pylist() == [1, -1]
    assert [len(weights) for weights in got.column("step_weights").to_pylist()] == [0, 1]


def test_an_empty_table_gives_an_empty_table() -> None:
    for control in ("none", "shuffle", "mean", "uniform"):
        got = step_weights(ANNOTATIONS.empty_table(), matrices=MATRICES, states=STATES, control=control)
        assert (got.num_rows, got.schema) == (0, WEIGHTS)


def test_single_labels_weigh_by_the_most_confident_one() -> None:
    rows: list[Row] = [(1, [["y", "x"], ["z"]])]
    assert weights_of(rows, labels="single") == weights_of([(1, [["y"], ["z"]])])
    assert weights_of(rows, labels="single") != weights_of(rows)


# --- from counts to weights --------------------------------------------------------------------------------------

CORPUS: list[Row] = [*[(1, [["x"], ["y", "z"]])] * 20, *[(-1, [["x"], ["x"]])] * 9, (1, [["y"], []])]


def estimated(counts: pa.Table) -> dict[str, np.ndarray]:
    polarities = {"all": (1, -1), "positive": (1,), "negative": (-1,)}
    return {name: estimate(select(counts, polarities=chosen), K=5).P for name, chosen in polarities.items()}


def test_a_label_unseen_in_the_other_polarity_still_has_finite_weights() -> None:
    """z never occurs in a negative trajectory, so P- knows nothing of it but the prior."""
    matrices = estimated(count(table(CORPUS), states=STATES))
    for anchor in ("global", "opposite"):
        got = weights_of([*CORPUS, (-1, [["z"], ["z", "y"]])], matrices=matrices, anchor=anchor)
        flat = np.array([weight for weights in got for weight in weights])
        assert np.isfinite(flat).all()
        assert ((flat >= 1 / E) & (flat <= E)).all()
    assert weights_of([(1, [["x"], ["z"]])], matrices=matrices, anchor="opposite")[0][1] == E


def test_an_impossible_transition_is_named_not_weighed() -> None:
    matrices = {name: np.eye(5) for name in MATRICES}
    with pytest.raises(ValueError, match=r"<start> -> x\+y has probability 0 under 'positive' and 'all'.*prior > 0"):
        weights_of([(1, [["y", "x"]])], matrices=matrices)


def test_a_transition_impossible_under_the_anchor_alone_is_clipped() -> None:
    assert weights_of([(1, [["x"]])], matrices=MATRICES | {"all": np.eye(5)}) == [[E]]


# --- controls ----------------------------------------------------------------------------------------------------


def test_uniform_is_one_everywhere_and_needs_no_matrix() -> None:
    assert weights_of([(1, [["x"], [], ["y"]])], matrices={}, control="uniform") == [[1.0, 1.0, 1.0]]


def test_mean_is_each_polaritys_mean_over_labelled_steps() -> None:
    rows: list[Row] = [(1, [["x"], [], ["y"]]), (1, [["z"]]), (-1, [["x"], ["y"]])]
    plain = weights_of(rows)
    positive = (plain[0][0] + plain[0][2] + plain[1][0]) / 3
    negative = (plain[2][0] + plain[2][1]) / 2
    got = weights_of(rows, control="mean")
    assert got[0] == pytest.approx([positive, 1.0, positive])
    assert got[1] == pytest.approx([positive])
    assert got[2] == pytest.approx([negative, negative])


def test_mean_of_all_shards_comes_from_the_count_table() -> None:
    rows: list[Row] = [(1, [["x"], [], ["y"]]), (1, [["z"]]), (-1, [["x"], ["y"]])]
    counts = add([count(table(rows[:1]), states=STATES), count(table(rows[1:]), states=STATES)])
    means = summary(counts, matrices=MATRICES, states=STATES).mean
    whole = weights_of(rows, control="mean")
    parts = weights_of(rows[:1], control="mean", means=means) + weights_of(rows[1:], control="mean", means=means)
    assert [pytest.approx(weights) for weights in whole] == parts
    with pytest.raises(ValueError, match=r"means has no value for polarity -1"):
        weights_of(rows, control="mean", means={1: 1.0})


LONG: list[Row] = [
    (1, [["x"], ["y"], [], ["z"], ["x", "y"], ["z"], ["y"], ["y"]]),
    (-1, [["z"], ["x"], ["y"], []]),
] * 10


def test_shuffle_permutes_inside_each_trajectory_and_leaves_unlabelled_steps() -> None:
    plain, shuffled = weights_of(LONG), weights_of(LONG, control="shuffle", seed=7)
    for (_, steps), before, after in zip(LONG, plain, shuffled, strict=True):
        labelled = [index for index, labels in enumerate(steps) if labels]
        assert sorted(before[index] for index in labelled) == sorted(after[index] for index in labelled)
        assert all(after[index] == 1.0 for index, labels in enumerate(steps) if not labels)
    assert sum(before != after for before, after in zip(plain, shuffled, strict=True)) > 12
    assert len({tuple(weights) for weights in shuffled[::2]}) > 5  # rows with other ids, other permutations


def test_shuffle_depends_on_the_seed_and_nothing_else() -> None:
    options: dict[str, Any] = {"matrices": MATRICES, "states": STATES, "control": "shuffle"}
    names = [f"q{number}/on/0" for number in range(len(LONG))]
    whole = step_weights(table(LONG, names=names), seed=1, **options)
    by_id = dict(zip(names, whole.column("step_weights").to_pylist(), strict=True))
    backwards = step_weights(table(LONG[::-1], names=names[::-1]), seed=1, **options).column("step_weights").to_pylist()
    assert backwards == [by_id[name] for name in names[::-1]]
    alone = step_weights(table(LONG[4:5], names=names[4:5]), seed=1, **options).column("step_weights").to_pylist()
    assert alone == [by_id[names[4]]]
    assert weights_of(LONG, control="shuffle", seed=1) != weights_of(LONG, control="shuffle", seed=2)


def test_every_permutation_of_three_steps_is_about_as_frequent() -> None:
    rows: list[Row] = [(1, [["x"], ["y"], ["z"]])] * 1200
    [plain] = weights_of(rows[:1])
    assert len(set(plain)) == 3
    shuffled = [tuple(weights) for weights in weights_of(rows, control="shuffle", seed=3)]
    frequencies = [shuffled.count(order) for order in set(shuffled)]
    assert len(frequencies) == 6
    assert 150 < min(frequencies) <= max(frequencies) < 250  # 200 expected, standard deviation 13


# --- summary -----------------------------------------------------------------------------------------------------


def test_summary_tells_what_the_weights_are() -> None:
    rows: list[Row] = [*LONG, (1, [["z", "x"]]), (0, [["x"]])]
    result = summary(count(table(rows), states=STATES), matrices=MATRICES, states=STATES, top=2)
    got, kept = weights_of(rows), [row for row in rows if row[0]]
    for polarity in (1, -1):
        flat = [
            weight
            for (sign, steps), weights in zip(kept, got, strict=True)
            for labels, weight in zip(steps, weights, strict=True)
            if sign == polarity and labels
        ]
        assert result.steps[polarity] == len(flat)
        assert result.mean[polarity] == pytest.approx(np.mean(flat))
        assert result.clipped[polarity] == pytest.approx(np.mean([weight in (1 / E, E) for weight in flat]))
    assert 0 < result.clipped[1] < 1


def test_summary_names_the_extreme_edges() -> None:
    positive = np.full((5, 5), 0.2)
    positive[0, 1], positive[1, 2], positive[2, 3] = 0.3, 0.8, 0.1
    matrices = {"all": np.full((5, 5), 0.2), "positive": positive}
    counts = count(table([(1, [["x"], ["y"], ["z"]]), (1, [["x"], ["y", "z"]])]), states=STATES)
    result = summary(counts, matrices=matrices, states=STATES, top=1)
    [high], [low] = result.highest, result.lowest
    assert (high.polarity, high.source, high.target, high.count) == (1, "x", "y", 1)
    assert high.ratio == pytest.approx(4)
    assert (low.source, low.target) == ("y", "z")
    assert low.ratio == pytest.approx(0.5)
    frequent = summary(counts, matrices=matrices, states=STATES, top=3, min_count=2)
    assert [(edge.source, edge.target) for edge in frequent.highest] == [("<start>", "x")]


# --- what the user is told ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor": "local"}, "anchor is 'local'; allowed are 'global' and 'opposite'"),
        ({"control": "sort"}, "control is 'sort'; allowed are"),
        ({"clip_min": 2, "clip_max": 1}, "clip_min 2 and clip_max 1 given"),
        ({"clip_min": -1}, "clip_min -1"),
        ({"matrices": {"positive": MATRICES["positive"]}}, r"matrix 'all' is needed, given are \['positive'\]"),
        ({"matrices": MATRICES | {"all": np.eye(4)}}, r"matrix 'all' has shape \(4, 4\), the taxonomy needs \(5, 5\)"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        weights_of([(1, [["x"]])], **change)
