import json

import pytest

from mralign.config import Evaluation
from mralign.evaluation.benchmarks.short_answer import BENCHMARK, figures


def score(rows, *, match):
    return [row | BENCHMARK.score(row, {}, Evaluation(match=match)) for row in rows]


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
        {"question_id": question, "method": mode, "acc": acc, "acc_contains": acc, "invalid": None}
        | {"mis": None, "mis_contains": None, "thought_tokens": 0, "em_thought": None}
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
    means = figures(found)
    assert (means["acc"], means["mis"], means["invalid_share"]) == pytest.approx((1 / 3, 1 / 3, 2 / 3))
    assert (means["truncated_share"], means["format_failure_share"]) == pytest.approx((1 / 3, 1 / 3))
    refused = figures(score([rows[0], generation("q/4", "", "", invalid="prompt_too_long")], match="exact"))
    assert (refused["invalid_share"], refused["truncated_share"], refused["format_failure_share"]) == (0.5, 0, 0)


def test_metrics_by_hand():
    rows = [
        generation("q/1", "Paris", "Paris", draw=0, tokens=10),
        generation("q/1", "Paris", "Rome", draw=1, tokens=20),
        generation("q/2", "Paris", "It is Paris", draw=0, tokens=60),
        generation("q/2", "Rome", "Rome", draw=1, tokens=30),
    ]
    found = figures(score(rows, match="exact"), samples=500)
    assert found["acc"] == 0.25
    assert found["acc_contains"] == 0.5
    assert found["mis"] == 0.5
    assert found["mis_contains"] == 0.25  # the third answer holds what its thought found
    assert (found["n"], found["draws"], found["invalid_share"], found["thought_tokens_mean"]) == (2, 4, 0.0, 30.0)
    assert found["acc_ci"] == [0.0, 0.5]  # resampling whole questions: their means are 1/2 and 0
    assert json.loads(json.dumps(found))["n"] == 2


def test_metrics_of_think_off_have_no_mis():
    found = figures(scores({"a": [True], "b": [False]}))
    assert (found["acc"], found["mis"], found["mis_ci"], found["thought_tokens_mean"]) == (0.5, None, None, None)
