"""From responses and verdicts to the figures of the tables; which benchmark is judged how."""

import pytest

from mralign.config import parse
from mralign.evaluation.judging import Verdict
from mralign.evaluation.scoring import claims_bound, kinds_of, result_figures, score_responses, with_f1

KINDS = {"nq": "short_answer", "tq": "truthfulqa", "lf": "longfact"}
SOURCES = [
    {"name": "nq", "path": "a", "format": "nq_open"},
    {"name": "tq", "path": "b", "format": "truthfulqa"},
    {"name": "lf", "path": "c", "format": "longfact"},
]


def settings(**values):
    return parse({"questions": {"test": SOURCES}, "evaluation": {"bootstrap_samples": 100, **values}}).evaluation


def response(dataset, number, *, method="base_think_on", answer="x", thought="x", invalid=None):
    text = f"<think>{thought}</think>{answer}"
    return {
        "row_id": f"{dataset}/{number}/on/0",
        "question_id": f"{dataset}/{number}",
        "dataset": dataset,
        "method": method,
        "mode": "on",
        "text": text,
        "thought_start": 7,
        "thought_end": 7 + len(thought),
        "answer": None if invalid else answer,
        "answers": ["x"],
        "invalid": invalid,
        "completion_tokens": 5,
        "thought_tokens": 1,
    }


ROWS = [
    response("nq", 0),
    response("nq", 1, answer="y"),
    response("tq", 0),
    response("tq", 1),
    response("tq", 2),
    response("lf", 0),
    response("lf", 1),
    response("lf", 2),
]
FOUND = {
    "tq/0/on/0": Verdict(truthful=True, informative=False),
    "tq/1/on/0": Verdict(truthful=False, informative=True),
    "tq/2/on/0": Verdict(rejected="not_json"),
    "lf/0/on/0": Verdict(claims=4, supported=2),
    "lf/1/on/0": Verdict(claims=2, supported=2),
    "lf/2/on/0": Verdict(claims=0, supported=0),
}


def scored():
    return score_responses(ROWS, kinds=KINDS, found=FOUND, match="exact")


def test_the_format_of_a_source_says_how_it_is_judged():
    assert kinds_of(parse({"questions": {"test": SOURCES}})) == KINDS
    assert kinds_of(parse({"questions": {"test": SOURCES}, "evaluation": {"split": "dev"}})) == {}


def test_a_response_is_measured_by_its_benchmark_and_null_elsewhere():
    by_id = {row["row_id"]: row for row in scored()}
    assert len(by_id) == len(ROWS)
    short, truth, claims = (by_id[name] for name in ("nq/1/on/0", "tq/0/on/0", "lf/0/on/0"))
    assert (short["em_thought"], short["acc"], short["mis"], short["truthful"], short["claims"]) == (
        *(True, False, True),
        *(None, None),
    )
    assert (truth["truthful"], truth["informative"], truth["acc"], truth["claims"]) == (True, False, None, None)
    assert (claims["claims"], claims["supported"], claims["acc"], claims["truthful"]) == (4, 2, None, None)
    rejected = by_id["tq/2/on/0"]
    assert [rejected[name] for name in ("truthful", "informative", "claims", "acc")] == [None] * 4


def test_figures_by_method_and_benchmark():
    scores = with_f1(scored(), k=2)
    found = result_figures(scores, kinds=KINDS, k=2, k_source="config", settings=settings())
    assert list(found) == ["base_think_on"]
    short, truth, claims = (found["base_think_on"][name] for name in KINDS)
    assert (short["kind"], short["acc"], short["mis"], short["n"]) == ("short_answer", 0.5, 0.5, 2)
    assert (truth["truthful"], truth["informative"], truth["judged"], truth["rejected"]) == (0.5, 0.5, 2, 1)
    # F1@2: P 1/2, R 1 -> 2/3; P 1, R 1 -> 1; no claim -> 0
    assert claims["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (claims["k"], claims["k_source"], claims["abstentions"], claims["claims_mean"]) == (2, "config", 1, 2.0)
    assert [row["f1"] for row in scores if row["dataset"] == "lf"] == pytest.approx([2 / 3, 1.0, 0.0])
    assert {row["f1"] for row in scores if row["dataset"] != "lf"} == {None}


def test_k_is_configured_or_the_base_models_median():
    scores = scored()
    assert claims_bound(scores, kinds=KINDS, settings=settings(longfact={"k": 7})) == 7
    assert claims_bound(scores, kinds=KINDS, settings=settings()) == 2  # of 4, 2 and 0
    other = [row | {"method": "base_think_off"} for row in scores]
    assert claims_bound(other, kinds=KINDS, settings=settings(methods=["think_off"])) == 2
    assert claims_bound(scores, kinds={"nq": "short_answer"}, settings=settings()) is None
