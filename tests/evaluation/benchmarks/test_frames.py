"""FRAMES: what its judge is shown, and the share of right answers, by hand."""

import pytest

from mralign.config import Evaluation
from mralign.evaluation.benchmarks.benchmark import Case, Item
from mralign.evaluation.benchmarks.frames import BENCHMARK

(STEP,) = BENCHMARK.steps


def test_the_judge_sees_the_question_the_right_answer_and_the_given_one():
    case = Case("q/on/0", "q", "d", "frames", "Which river?", "The Steam, I think.", ("River Steam",))
    shown = {"question": "Which river?", "right_answer": ["River Steam"], "answer": "The Steam, I think."}
    assert STEP.items(case, {}) == [Item("The Steam, I think.", shown)]
    broken = Case("q/on/0", "q", "d", "frames", "Which river?", None, ("River Steam",))
    assert STEP.items(broken, {}) == [Item("", verdict={"correct": False})]


def row(question, correct):
    said = {"correct": [{"correct": correct}]}
    score = {"correct": None} if correct is None else BENCHMARK.score({}, said, Evaluation())
    return {"question_id": question} | score


def test_figures_by_hand():
    rows = [row("a", True), row("a", True), row("b", False), row("c", None)]
    found = BENCHMARK.figures(rows, samples=500)
    assert found["correct"] == pytest.approx(2 / 3)  # of the judged ones
    assert found["correct_ci"] == [0.0, 1.0]  # two questions, all right and all wrong
    assert (found["n"], found["judged"], found["rejected"]) == (2, 3, 1)
    assert {measure.key for measure in BENCHMARK.measures} <= set(found)
