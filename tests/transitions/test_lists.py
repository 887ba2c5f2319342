"""`from mralign.transitions import count, estimate, weights`: the same numbers as the tables give, on plain lists."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mralign.annotation.taxonomy import PAPER
from mralign.config import Transitions, parse
from mralign.transitions import count, estimate, weights
from mralign.transitions.em import settings_of

HELPED: list[Any] = [["framing", ["retrieval", "analogy"], "summarization"], ["framing", "retrieval"]] * 6
HURT: list[Any] = [["framing", {"comparison", "evaluation"}], ["comparison", [], "comparison"]] * 4


def test_a_frequency_by_hand() -> None:
    """Singletons, undamped, no prior: shares of what follows what."""
    matrices = estimate(count([["a", "b"], ["a", "a"], ["b"]]), damping=1.0, prior=0.0)
    assert matrices.states == ("<start>", "a", "b", "<stop>")
    np.testing.assert_allclose(matrices.P["all"][0], [0, 2 / 3, 1 / 3, 0], atol=1e-15)
    np.testing.assert_allclose(matrices.P["all"][1], [0, 1 / 3, 1 / 3, 1 / 3], atol=1e-15)
    np.testing.assert_allclose(matrices.P["all"][2], [0, 0, 0, 1], atol=1e-15)
    assert set(matrices.P) == {"all", "positive"}
    assert weights([["a", "b"]], matrices=matrices) == [[1.0, 1.0]]  # P+ is P


def test_weights_are_ratios_of_the_matrices_between_the_clips() -> None:
    matrices = estimate(count(HELPED, negative=HURT))
    at = {state: place for place, state in enumerate(matrices.states)}
    [[first, second, _]] = weights(HELPED[:1], matrices=matrices)
    P, own = matrices.P["all"], matrices.P["positive"]
    assert first == pytest.approx(own[0, at["framing"]] / P[0, at["framing"]], rel=1e-12)
    pair = [at["analogy"], at["retrieval"]]
    assert second == pytest.approx(own[at["framing"], pair].sum() / P[at["framing"], pair].sum(), rel=1e-12)
    hurt = weights(HURT, matrices=matrices, polarity=-1, anchor="opposite")
    assert all(1 / math.e <= weight <= math.e for row in hurt for weight in row)
    assert (hurt[1][1], len(hurt[1])) == (1.0, 3)  # a step without a label


def test_standard_errors_and_edges_come_along() -> None:
    matrices = estimate(count(HELPED, negative=HURT, bootstrap=30))
    errors = matrices.standard_error
    assert set(errors) == {"all", "positive", "negative"}
    at = matrices.states.index("framing")
    assert errors["positive"][0, at] < errors["all"][0, at]  # every one of HELPED begins so, half of HURT
    rows = {(r["polarity"], r["source"], r["target"]): r for r in matrices.edges().to_pylist() if r["level"] == "sets"}
    begins = rows[-1, "<start>", "framing"]
    assert begins["count"] == 4
    assert begins["weight"] == weights(HURT[:1], matrices=matrices, polarity=-1)[0][0]
    assert begins["ratio_standard_error"] > 0.05
    assert estimate(count(HELPED)).standard_error == {}
    again = estimate(count(HELPED, negative=HURT, bootstrap=30))
    assert np.array_equal(errors["negative"], again.standard_error["negative"])
    other = estimate(count(HELPED, negative=HURT, bootstrap=30, seed=1))
    assert not np.array_equal(errors["negative"], other.standard_error["negative"])


SETS = st.lists(st.sampled_from(PAPER.labels[:4]), max_size=2, unique=True)


@settings(deadline=None, max_examples=30)
@given(rows=st.lists(st.lists(SETS, max_size=4), min_size=1, max_size=6))
def test_the_order_of_labels_trajectories_and_states_does_not_matter(rows: list[list[list[str]]]) -> None:
    rows = [[["framing"]], *rows]
    one = estimate(count(rows, labels=PAPER.labels[:4]), prior=0.3)
    two = estimate(count([[set(s) for s in row] for row in rows[::-1]], labels=PAPER.labels[3::-1]), prior=0.3)
    place = [two.states.index(state) for state in one.states]
    np.testing.assert_allclose(one.P["all"], two.P["all"][np.ix_(place, place)], atol=1e-12)


def test_given_labels_fix_the_states() -> None:
    tally = count([["framing"]], labels=PAPER.labels)
    assert tally.states == PAPER.states
    assert estimate(tally).P["all"].shape == (17, 17)


def test_presets_and_values_that_win_over_them() -> None:
    paper, converged = (estimate(count(HELPED), preset=name).estimates["all"] for name in ("paper", "converged"))
    assert (paper.iterations, paper.converged) == (5, False)
    assert converged.converged
    assert converged.iterations > 5
    assert estimate(count(HELPED), preset="converged", max_iter=2).estimates["all"].iterations == 2
    frequency = estimate(count(HELPED), estimator="frequency").estimates["all"]
    assert frequency.iterations == 1


def test_the_configuration_has_the_same_presets() -> None:
    assert settings_of(Transitions()) == settings_of(Transitions(preset="paper"))
    assert settings_of(Transitions(preset="converged", damping=0.5)).damping == 0.5
    road = {"questions": {"train": [{"name": "a", "path": "a"}]}}
    chosen = settings_of(parse({**road, "transitions": {"preset": "converged", "prior": 0.2}}).transitions)
    assert (chosen.max_iter, chosen.tol, chosen.damping, chosen.prior) == (1000, 1e-9, 1.0, 0.2)
    with pytest.raises(ValueError, match=r"transitions\.bootstrap=1 has no spread; allowed are 0"):
        parse({**road, "transitions": {"bootstrap": 1}})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: count(["framing", "retrieval"]), "trajectory 0 is 'framing'; allowed is a list of steps"),
        (lambda: count([["framing", 3]]), "trajectory 0 has the step 3; allowed is a label, or a list or set"),
        (lambda: count([[["a", None]]]), r"trajectory 0 has the step \['a', None\]"),
        (lambda: count([[["a", "b", "c"]]]), "a step has 3 labels; allowed are 0, 1 or 2"),
        (lambda: count([["a"]], labels=["b"]), r"labels \['a'\] are not states; allowed are \['b'\]"),
        (lambda: count([["a"]], labels=["a", "a"]), "allowed is each once"),
        (lambda: count([["<stop>"]]), "none named <start> or <stop>"),
        (lambda: count([["a"]], bootstrap=1), "1 bootstrap replicates; allowed are 0"),
        (lambda: estimate(count([])), "was counted: its matrix cannot be estimated"),
        (lambda: estimate(count([["a"]]), damping=2.0), "damping is 2.0; allowed is above 0 up to 1"),
        (
            lambda: weights([["a"]], matrices=estimate(count([["a"]])), polarity=-1),
            "matrix 'negative' is needed, given",
        ),
        (lambda: weights([["b"]], matrices=estimate(count([["a"]]))), r"labels \['b'\] are not states"),
        (lambda: weights([["a"]], matrices=estimate(count([["a"]])), polarity=0), "polarity is 0; allowed are 1"),
    ],
)
def test_what_is_wrong_is_said(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_the_room_loads_nothing_heavy() -> None:
    heavy = "{'ray', 'torch', 'vllm', 'transformers', 'pandas', 'scipy'}"
    code = f"import sys, mralign.transitions.stage; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
