"""The noise of the weights: the delta method on counts that allow it, chance, and hand-worked figures."""

import math

import numpy as np
import pytest
from simulated_walks import STATES, annotations, chain, corpus_table, with_edge

from mralign.rows.schema import EDGE_NOISE
from mralign.transitions import count, estimate
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import Settings
from mralign.transitions.signal_noise import edge_noise, effective_number, noise_of
from mralign.transitions.walks import corpus_of

PAPER = Settings()


def noise(table, *, settings=PAPER, seed=0, **rule):
    return edge_noise(
        corpus_of(table, states=STATES), states=STATES, rule=WeightRule(**rule), settings=settings, seed=seed
    )


def rows(table, polarity):
    return {(row["source"], row["target"]): row for row in table.to_pylist() if row["polarity"] == polarity}


# --- the standard error --------------------------------------------------------------------------------------------


def test_the_standard_error_is_that_of_the_delta_method():
    # Each question is one trajectory of one step, so that the counts of <start> -> label are Poisson over draws.
    counts = {1: {"a": 400, "b": 150, "c": 250}, -1: {"a": 200, "b": 250, "c": 50}}
    steps = [[label] for side in counts for label, n in counts[side].items() for _ in range(n)]
    sides = [side for side in counts for n in counts[side].values() for _ in range(n)]
    exact = Settings(prior=1e-6, estimator="frequency")
    found = noise(annotations(steps, polarity=sides), settings=exact)
    n = {side: sum(counts[side].values()) for side in counts}
    for side, own in counts.items():
        for label in own:
            x, y = own[label], counts[-side][label]
            rest, other = n[side] - x, n[-side] - y
            N = n[1] + n[-1]
            # log w = log x - log (x + rest) - log (x + y) + log N; each of the four counts has its own variance.
            by_x = 1 / x - 1 / n[side] - 1 / (x + y) + 1 / N
            by_rest, by_y, by_other = -1 / n[side] + 1 / N, -1 / (x + y) + 1 / N, 1 / N
            variance = by_x**2 * x + by_rest**2 * rest + by_y**2 * y + by_other**2 * other
            row = rows(found, side)["<start>", label]
            assert row["log_weight"] == pytest.approx(math.log(x / n[side] * N / (x + y)), abs=1e-4)
            assert row["standard_error"] == pytest.approx(math.sqrt(variance), rel=0.2)  # 200 draws: 5 % of noise
            assert (row["count"], row["questions"]) == (x, x)


def test_draws_of_a_question_count_as_one_drawing():
    table = corpus_table(chain(), with_edge(chain(), "a", "b", to=0.6), positives=60, negatives=60, seed=0)
    once = rows(noise(table), 1)["a", "b"]
    steps, sides = table.column("steps").to_pylist(), table.column("polarity").to_pylist()
    paths = [[step["labels"] for step in path] for path in steps for _ in range(4)]
    four = annotations(paths, polarity=[side for side in sides for _ in range(4)], draws=4)
    again = rows(noise(four), 1)["a", "b"]
    assert again["count"] == 4 * once["count"]
    assert again["questions"] == once["questions"]
    assert again["standard_error"] == pytest.approx(once["standard_error"], rel=0.25)  # not half of it


def test_the_weights_are_those_of_the_run():
    table = corpus_table(chain(), with_edge(chain(), "a", "b", to=0.6), positives=30, negatives=20, seed=1)
    paths = {1: [], -1: []}
    for row in table.to_pylist():
        paths[row["polarity"]].append([step["labels"] for step in row["steps"]])
    for anchor in ("global", "opposite"):
        found = noise(table, anchor=anchor)
        matrices = estimate(count(paths[1], negative=paths[-1], labels=STATES[1:-1]))
        expected = [row for row in matrices.edges(anchor=anchor).to_pylist() if row["level"] == "sets"]
        assert found.num_rows == len(expected) > 20
        for row in expected:
            own = rows(found, row["polarity"])[row["source"], row["target"]]
            assert own["log_weight"] == pytest.approx(math.log(row["ratio"]), abs=1e-12)
            assert own["contribution"] == pytest.approx(row["count"] * abs(math.log(row["weight"])), abs=1e-9)


# --- told from 1 ---------------------------------------------------------------------------------------------------


def test_chance_seldom_tells_a_weight_from_1_and_never_one_that_was_seen_once():
    told, edges = 0, 0
    for seed in range(8):
        table = noise(corpus_table(chain(), chain(), positives=60, negatives=40, seed=seed))
        told += sum(table.column("told").to_pylist())
        edges += table.num_rows
        once = [row for row in table.to_pylist() if row["count"] == 1]
        assert not any(row["told"] for row in once)
    assert told / edges < 0.07


def test_an_edge_that_one_polarity_alone_took_twice_looks_sure_to_the_bootstrap_and_is_not_told():
    steps = [["a", "d"], ["a", "d"], *[["a", "b"]] * 30, *[["a", "b"]] * 32]
    row = rows(noise(annotations(steps, polarity=[1] * 32 + [-1] * 32)), 1)["a", "d"]
    assert abs(row["log_weight"]) > 1.96 * row["standard_error"]
    assert row["p"] > 0.2  # both on one side of 32 and 32: nearly one half
    assert not row["told"]


def test_an_edge_that_differs_is_told():
    table = noise(corpus_table(with_edge(chain(), "a", "b", to=0.8), chain(), positives=150, negatives=150, seed=0))
    for side in (1, -1):
        row = rows(table, side)["a", "b"]
        assert row["told"]
        assert math.copysign(1, row["log_weight"]) == side
        assert row["p"] == 1 / 200


def test_neutral_trajectories_count_for_p_alone():
    steps = [["a"]] * 10 + [["b"]] * 10 + [["c"]] * 20
    table = annotations(steps, polarity=[1] * 10 + [-1] * 10 + [0] * 20)
    exact = Settings(prior=1e-9, estimator="frequency")
    found = noise(table, settings=exact)
    assert rows(found, 1)["<start>", "a"]["log_weight"] == pytest.approx(math.log(4), abs=1e-6)  # 1 against 10 of 40
    assert set(rows(found, 1)) == {("<start>", "a")}


def test_the_same_seed_gives_the_same_table():
    table = corpus_table(chain(), chain(), positives=20, negatives=20, seed=0)
    assert noise(table, seed=1) == noise(table, seed=1)
    assert noise(table, seed=1) != noise(table, seed=2)


# --- figures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contributions", "expected"), [([1, 1, 1, 1], 4), ([3, 1], 1.6), ([5, 0, 0], 1), ([0, 0], 0), ([], 0)]
)
def test_the_effective_number_by_hand(contributions, expected):
    assert effective_number(np.array(contributions, dtype=float)) == pytest.approx(expected)


def test_the_figures_of_a_table_by_hand():
    plain = {"polarity": 1, "source": "a", "target": "b", "count": 1, "questions": 1}
    plain |= {"log_weight": 0.1, "standard_error": 0.1, "p": 0.5}
    table = [plain | {"told": told, "contribution": float(c)} for told, c in ((True, 3), (False, 1))]
    found = noise_of(EDGE_NOISE.empty_table().from_pylist(table, schema=EDGE_NOISE))
    assert (found.edges, found.not_told, found.told_share) == (2, 1, 0.75)
    assert found.effective == pytest.approx(1.6)
    assert noise_of(EDGE_NOISE.empty_table()).told_share == 0
