import json
from itertools import product

import numpy as np
import pytest

from mralign.evaluation.short_answer import bootstrap_interval, metrics, score


def generation(question, thought, answer, *, mode="on", draw=0, invalid=None, tokens=10):
    text = f"<think>{thought}</think>{answer}" if mode == "on" else answer
    return {
        "row_id": f"{question}/{mode}/{draw}",
        "question_id": question,
        "dataset": "d",
        "method": mode,
        "completion_tokens": tokens + 1,
        "answers": ["Paris", "---"],
        "mode": mode,
        "text": text,
        "thought_start": 7 if mode == "on" else -1,
        "thought_end": 7 + len(thought) if mode == "on" else -1,
        "answer": None if invalid else answer,
        "thought_tokens": tokens,
        "invalid": invalid,
    }


def scores(accs, *, mode="off"):
    """Scores with the accuracies of `accs`: question -> a list, one a draw."""
    return [
        {"question_id": question, "method": mode, "acc": acc, "acc_contains": acc, "mis": False, "invalid": None}
        | {"thought_tokens": 0, "em_thought": None if mode == "off" else acc}
        for question, values in accs.items()
        for acc in values
    ]


def test_think_on_needs_thought_and_answer_and_counts_where_they_part():
    rows = [
        generation("q/1", "so Paris", "Paris"),
        generation("q/2", "so Paris", "Rome"),
        generation("q/3", "so Rome", "Paris"),
        generation("q/4", "so Rome", "Rome"),
        generation("q/5", "comParison", "It is Paris"),
    ]
    found = [(s["em_thought"], s["em_answer"], s["acc"], s["mis"]) for s in score(rows, match="exact")]
    assert found == [
        (True, True, True, False),
        (True, False, False, True),
        (False, True, False, True),
        (False, False, False, False),
        (False, False, False, False),
    ]
    last = score(rows, match="contains")[-1]
    assert (last["em_answer"], last["acc"], last["mis"], last["acc_contains"]) == (True, False, True, False)
    assert [s["row_id"] for s in score(rows, match="exact")][:2] == ["q/1/on/0", "q/2/on/0"]


def test_think_off_is_the_answer_alone():
    rows = [generation("q/1", "", "paris!", mode="off"), generation("q/2", "", "It is Paris", mode="off")]
    found = score(rows, match="exact")
    assert [(s["em_thought"], s["acc"], s["acc_contains"], s["mis"]) for s in found] == [
        (None, True, True, None),
        (None, False, True, None),
    ]
    assert json.dumps(found)  # plain booleans, no numpy


def test_the_papers_matching_is_exact_after_thinking_and_contains_without():
    rows = [
        generation("q/1", "so Paris", "It is Paris"),
        generation("q/1", "so Paris", "It is Paris") | {"mode": "on/revise-1"},
        generation("q/1", "so Paris", "Paris"),
        generation("q/1", "", "It is Paris", mode="off"),
        generation("q/1", "", "It is Rome", mode="off"),
    ]
    found = score(rows, match="paper")
    assert [(s["em_answer"], s["acc"], s["mis"]) for s in found] == [
        (False, False, True),
        (False, False, True),
        (True, True, False),
        (True, True, None),
        (False, False, None),
    ]
    # The variants by containment do not ask for the mode.
    assert [(s["acc_contains"], s["mis_contains"]) for s in found] == [
        (s["acc_contains"], s["mis_contains"]) for s in score(rows, match="exact")
    ]


def test_a_right_answer_in_chinese_is_right_and_consistent():
    thought = "法国的首都是巴黎，不是里昂。"
    row = generation("q/1", thought, "巴黎。") | {"answers": ["巴黎"]}
    (found,) = score([row], match="exact")
    assert (found["acc"], found["mis"], found["acc_contains"]) == (True, False, True)


def test_invalid_draws_are_wrong_answers_and_stay_in_the_mean():
    rows = [generation("q/1", "so Paris", "Paris"), generation("q/2", "so Paris", "Par", invalid="truncated")]
    rows += [
        generation("q/3", "", "", invalid="no_thought") | {"thought_start": -1, "thought_end": -1, "text": "Paris"}
    ]
    found = score(rows, match="exact")
    assert [(s["em_thought"], s["acc"], s["mis"], s["invalid"]) for s in found] == [
        (True, True, False, None),
        (True, False, True, "truncated"),
        (False, False, False, "no_thought"),
    ]
    means = metrics(found)
    assert (means["acc"], means["mis"], means["invalid_share"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    assert (means["truncated_share"], means["format_failure_share"]) == pytest.approx((1 / 3, 1 / 3))
    refused = metrics(score([rows[0], generation("q/4", "", "", invalid="prompt_too_long")], match="exact"))
    assert (refused["invalid_share"], refused["truncated_share"], refused["format_failure_share"]) == (0.5, 0, 0)


def test_metrics_by_hand():
    rows = [
        generation("q/1", "Paris", "Paris", draw=0, tokens=10),
        generation("q/1", "Paris", "Rome", draw=1, tokens=20),
        generation("q/2", "Paris", "It is Paris", draw=0, tokens=60),
        generation("q/2", "Rome", "Rome", draw=1, tokens=30),
    ]
    found = metrics(score(rows, match="exact"), samples=500)
    assert found["acc"] == 0.25
    assert found["acc_contains"] == 0.5
    assert found["mis"] == 0.5
    assert found["mis_contains"] == 0.25  # the third answer holds what its thought found
    assert (found["n"], found["draws"], found["invalid_share"], found["thought_tokens_mean"]) == (2, 4, 0.0, 30.0)
    assert found["acc_ci"] == (0.0, 0.5)  # resampling whole questions: their means are 1/2 and 0
    assert json.loads(json.dumps(found))["n"] == 2


def test_metrics_of_think_off_have_no_mis():
    found = metrics(scores({"a": [True], "b": [False]}))
    assert (found["acc"], found["mis"], found["mis_ci"], found["thought_tokens_mean"]) == (0.5, None, None, None)


def test_metrics_refuse_nothing_and_several_methods():
    with pytest.raises(ValueError, match="scores of one method, given 0"):
        metrics([])
    with pytest.raises(ValueError, match=r"\['off', 'on'\]"):
        metrics(scores({"a": [True]}) + scores({"a": [True]}, mode="on"))


def test_bootstrap_finds_the_exact_quantiles_of_all_resamples():
    values = np.array([0.0, 1.0, 1.0, 5.0])
    means = [np.mean(pick) for pick in product(values, repeat=4)]  # all 256 resamples, equally likely
    exact = np.quantile(means, [0.1, 0.9])
    assert bootstrap_interval(values, level=0.8, samples=40_000) == pytest.approx(exact, abs=1e-9)


def test_bootstrap_covers_the_mean_of_a_normal_sample():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap_interval(values, samples=4000)
    half = 1.96 * values.std() / 20  # the normal interval, which the bootstrap must agree with here
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)


def test_draws_of_one_question_go_together():
    accs = np.repeat([0.0, 1.0] * 25, 8)
    questions = np.repeat(np.arange(50), 8)
    clustered = bootstrap_interval(accs, clusters=questions, seed=3)
    assert clustered == bootstrap_interval(accs[::8], seed=3)  # eight equal draws say no more than one
    naive = bootstrap_interval(accs, seed=3)
    assert clustered[1] - clustered[0] > 2 * (naive[1] - naive[0])


def test_clusters_of_unequal_size_weigh_by_their_draws():
    values, clusters = np.array([1.0, 0.0, 0.0, 0.0]), np.array(["a", "b", "b", "b"])
    # Resamples aa, ab, ba, bb have the means 1, 1/4, 1/4, 0: their middle half is 1/4. A mean of means would be 1/2.
    assert bootstrap_interval(values, clusters=clusters, level=0.4, samples=20_000) == (0.25, 0.25)


def test_the_seed_fixes_the_interval():
    values = np.random.default_rng(0).random(200)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(("values", "level"), [([], 0.95), ([1.0], 1.0), ([1.0], 95)])
def test_bootstrap_refuses_what_has_no_interval(values, level):
    with pytest.raises(ValueError, match="needs values and a level"):
        bootstrap_interval(np.array(values), level=level)
