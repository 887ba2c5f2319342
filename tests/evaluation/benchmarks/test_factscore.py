"""The FActScore-like benchmark, by hand: share of supported facts, penalty for few, abstentions apart."""

import math

import pytest

from mralign.config import Evaluation
from mralign.evaluation.benchmarks.factscore import BENCHMARK, factscore


@pytest.mark.parametrize(
    ("supported", "facts", "expected"),
    [
        (6, 12, 0.5),
        (11, 11, 1.0),
        (10, 10, 1.0),  # exp(1 - 10/10)
        (5, 5, math.exp(-1)),
        (1, 2, 0.5 * math.exp(-4)),
        (0, 7, 0.0),
    ],
)
def test_the_score_by_hand(supported, facts, expected):
    assert factscore(supported, facts=facts) == pytest.approx(expected)
    assert factscore(supported, facts=facts, gamma=0) == pytest.approx(supported / facts)


def said(facts, supported):
    support = [{"supported": number < supported} for number in range(facts)]
    return {"claims": [{"claims": []}], **({"support": support} if facts else {})}


def score(question, facts, supported, *, invalid=None):
    row = {"question_id": question, "invalid": invalid}
    return row | BENCHMARK.score(row, said(facts, supported), Evaluation())


def test_figures_by_hand():
    rows = [
        score("a", 12, 6),  # 1/2
        score("b", 5, 5),  # e^-1
        score("c", 0, 0),  # abstains: counted apart
        score("d", 0, 0, invalid="truncated"),  # 0: a model must not gain by answers that break off
        {"question_id": "e", "invalid": None, "claims": None, "supported": None, "factscore": None},  # rejected
    ]
    assert [row["factscore"] for row in rows] == [0.5, pytest.approx(math.exp(-1)), None, 0.0, None]
    found = BENCHMARK.figures(rows, samples=500)
    assert found["factscore"] == pytest.approx((0.5 + math.exp(-1) + 0) / 3)
    assert (found["precision"], found["claims_mean"], found["responded"]) == (0.75, 8.5, 0.5)
    assert (found["n"], found["judged"], found["rejected"]) == (4, 4, 1)
    assert found["factscore_ci"] == [0.0, 0.5]
    assert {measure.key for measure in BENCHMARK.measures} <= set(found)


def test_where_nothing_was_judged_there_is_no_figure():
    found = BENCHMARK.figures([{"question_id": "e", "claims": None, "supported": None, "factscore": None}])
    assert [found[key] for key in ("factscore", "factscore_ci", "precision", "responded", "n")] == [None] * 4 + [0]
