"""TriviaQA's exact match and F1, by hand."""

import pytest

from mralign.config import Evaluation
from mralign.evaluation.benchmarks.triviaqa import BENCHMARK, token_f1, tokens


def response(answer, *, answers, invalid=None, question="q"):
    row = {"question_id": question, "mode": "off", "text": answer, "thought_start": -1, "thought_end": -1}
    return row | {"answer": None if invalid else answer, "answers": answers, "invalid": invalid, "thought_tokens": 0}


def score(row):
    return BENCHMARK.score(row, {}, Evaluation())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Spider-Man!", ["spider", "man"]),  # punctuation parts words, where SQuAD's form joins them
        ("A_B  ‘c’d´s`", ["b", "c", "d", "s"]),
        ("U.S.A.", ["u", "s"]),  # the last A is an article
        ("... the", []),
    ],
)
def test_the_normal_form_is_that_of_the_published_script(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("answer", "alias", "expected"),
    [
        ("Paris", "Paris", 1.0),
        ("Paris, France", "paris", 2 * 1 / 3),
        ("the city of New York", "New York City", 2 * 3 / 7),  # city of new york; new york city
        ("New New York", "New York", 2 * 2 / 5),  # a word counts as often as both have it
        ("Rome", "Paris", 0.0),
        ("", "Paris", 0.0),
    ],
)
def test_f1_by_hand(answer, alias, expected):
    assert token_f1(answer, alias) == pytest.approx(expected)


def test_the_alias_that_fits_best_counts():
    found = score(response("Sunset Boulevard, L.A.", answers=["Hollywood", "Sunset Blvd", "sunset boulevard"]))
    assert (found["em"], found["token_f1"]) == (False, pytest.approx(2 * 2 / 5))  # sunset boulevard l (a: an article)
    found = score(response("Spider-Man", answers=["Spider Man"]))
    assert (found["em"], found["token_f1"]) == (True, 1.0)
    assert found["acc"] is False  # the project's form joins spiderman
    broken = score(response("Par", answers=["Par"], invalid="truncated"))
    assert (broken["em"], broken["token_f1"], broken["acc"]) == (False, 0.0, False)


def test_figures_by_hand():
    rows = [
        response("Paris", answers=["Paris"], question="a"),
        response("Paris France", answers=["Paris"], question="b"),
        response("x", answers=["Paris"], invalid="truncated", question="c"),
    ]
    found = BENCHMARK.figures([row | score(row) for row in rows], samples=300)
    assert (found["em"], found["acc"]) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found["token_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert (found["n"], found["truncated_share"], found["mis"]) == (3, pytest.approx(1 / 3), None)
    low, high = found["em_ci"]
    assert low == 0.0 and high == 1.0
    assert {measure.key for measure in BENCHMARK.measures} <= set(found)
