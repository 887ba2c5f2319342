"""From responses and verdicts to the figures of the tables; which benchmark is judged how."""

import pytest

from mralign.config import parse
from mralign.evaluation.benchmarks import of_config
from mralign.evaluation.judging import Verdict
from mralign.evaluation.scoring import completed, result_figures, score_responses, shared_of

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


def truth(truthful, informative):
    return Verdict({"truthful": [{"truthful": truthful, "informative": informative}]})


def claims(count, supported):
    support = [{"supported": number < supported} for number in range(count)]
    return Verdict({"claims": [{"claims": []}], "support": support} if count else {"claims": [{"claims": []}]})


FOUND = {
    "tq/0/on/0": truth(True, False),
    "tq/1/on/0": truth(False, True),
    "tq/2/on/0": Verdict(rejected="not_json"),
    "lf/0/on/0": claims(4, 2),
    "lf/1/on/0": claims(2, 2),
    "lf/2/on/0": claims(0, 0),
}


def scored():
    return score_responses(ROWS, benchmarks=KINDS, verdicts=FOUND, settings=settings())


def test_the_format_of_a_source_says_how_it_is_judged():
    assert of_config(parse({"questions": {"test": SOURCES}})) == KINDS
    assert of_config(parse({"questions": {"test": SOURCES}, "evaluation": {"split": "dev"}})) == {}


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
    shared = shared_of(scored(), benchmarks=KINDS, settings=settings(longfact={"k": 2}), source="base")
    scores = completed(scored(), benchmarks=KINDS, shared=shared)
    found = result_figures(scores, benchmarks=KINDS, shared=shared, settings=settings())
    assert list(found) == ["base_think_on"]
    short, truth, claims = (found["base_think_on"][name] for name in KINDS)
    assert (short["kind"], short["acc"], short["mis"], short["n"]) == ("short_answer", 0.5, 0.5, 2)
    assert (truth["truthful"], truth["informative"], truth["judged"], truth["rejected"]) == (0.5, 0.5, 2, 1)
    # F1@2: P 1/2, R 1 -> 2/3; P 1, R 1 -> 1; no claim -> 0
    assert claims["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (claims["k"], claims["k_source"], claims["abstentions"], claims["claims_mean"]) == (2, "config", 1, 2.0)
    assert [row["f1"] for row in scores if row["dataset"] == "lf"] == pytest.approx([2 / 3, 1.0, 0.0])
    assert {row["f1"] for row in scores if row["dataset"] != "lf"} == {None}


def k_of(scores, *, benchmarks=KINDS, **values):
    return shared_of(scores, benchmarks=benchmarks, settings=settings(**values), source="base").get("longfact")


def test_k_is_configured_or_the_base_models_median():
    scores = scored()
    assert k_of(scores, longfact={"k": 7}) == {"k": 7, "k_source": "config"}
    assert k_of(scores) == {"k": 2, "k_source": "base"}  # of 4, 2 and 0
    other = [row | {"method": "base_think_off"} for row in scores]
    assert k_of(other, methods=["think_off"]) == {"k": 2, "k_source": "base"}
    assert k_of(scores, benchmarks={"nq": "short_answer", "tq": "short_answer", "lf": "short_answer"}) is None
