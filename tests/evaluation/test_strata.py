"""Gains by stratum, by cases counted by hand."""

import json

import pytest

from mralign.evaluation.strata import STRATA, strata_figures, stratum


def verdict(question, bits, *, method="base_think_on", dataset="d", thinks=True):
    """A score; `bits` is thought and answer, such as "10"."""
    thought, answer = (bit == "1" for bit in bits)
    return {
        "question_id": question,
        "dataset": dataset,
        "method": method,
        "em_thought": thought if thinks else None,
        "em_answer": answer,
        "acc": answer and (thought or not thinks),
        "mis": thought != answer if thinks else None,
    }


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        (["11"], "both_correct"),
        (["00"], "both_wrong"),
        (["10"], "inconsistent"),
        (["01"], "inconsistent"),
        (["11", "11", "11"], "both_correct"),
        (["00", "00"], "both_wrong"),
        (["11", "00"], "inconsistent"),
        (["11", "01"], "inconsistent"),
        (["00", "10"], "inconsistent"),
    ],
)
def test_a_question_is_consistent_only_if_all_its_draws_are(draws, expected):
    assert stratum([verdict("q", bits) for bits in draws]) == expected


BASE = [
    *(verdict("c1", bits) for bits in ("11", "11")),
    *(verdict("c2", bits) for bits in ("11", "11")),
    *(verdict("w1", bits) for bits in ("00", "00")),
    *(verdict("i1", bits) for bits in ("10", "11")),  # Acc 1/2, Mis 1/2
    *(verdict("i2", bits) for bits in ("01", "10")),  # Acc 0, Mis 1
]


def test_gains_are_of_questions_within_their_stratum():
    trained = {"c1": "11", "c2": "10", "w1": "11", "i1": "11", "i2": "00"}
    others = [verdict(question, bits, method="mralign") for question, bits in trained.items()]
    others += [verdict(question, bits, method="off", thinks=False) for question, bits in trained.items()]
    figures = strata_figures(BASE, others, level=0.9, samples=200)["d"]
    assert figures["n"] == {"both_correct": 2, "both_wrong": 1, "inconsistent": 2}
    gains = figures["methods"]["mralign"]
    assert list(gains) == list(STRATA)
    assert (gains["both_correct"]["acc"], gains["both_correct"]["mis"]) == (-1 / 2, 1 / 2)
    assert gains["both_correct"]["acc_ci"] == (-1.0, 0.0)
    assert gains["both_wrong"] == {"acc": 1.0, "acc_ci": (1.0, 1.0), "mis": 0.0, "mis_ci": (0.0, 0.0), "n": 1}
    assert (gains["inconsistent"]["acc"], gains["inconsistent"]["mis"]) == (1 / 4, -3 / 4)
    off = figures["methods"]["off"]
    assert (off["both_correct"]["mis"], off["both_correct"]["mis_ci"]) == (None, None)
    assert off["both_correct"]["acc"] == -1 / 2  # c2 is wrong
    assert json.loads(json.dumps(figures))["n"] == figures["n"]


def test_an_empty_stratum_has_no_gain():
    figures = strata_figures([verdict("q", "11")], [verdict("q", "11", method="m")])["d"]
    assert figures["methods"]["m"]["both_wrong"] == {"acc": None, "acc_ci": None, "mis": None, "mis_ci": None, "n": 0}


def test_benchmarks_are_apart_and_those_without_gold_answers_are_left_out():
    open_ended = dict.fromkeys(("em_thought", "em_answer", "acc", "mis"))
    base = [verdict("q", "11"), verdict("r", "00", dataset="e"), verdict("t", "00", dataset="longfact") | open_ended]
    others = [row | {"method": "m"} for row in base]
    figures = strata_figures(base, others)
    assert set(figures) == {"d", "e"}
    assert figures["e"]["n"] == {"both_correct": 0, "both_wrong": 1, "inconsistent": 0}
    assert set(figures["e"]["methods"]) == {"m"}


def test_a_question_that_a_method_lacks_is_left_out_of_its_gain():
    base = [verdict("q", "10"), verdict("r", "10"), verdict("s", "10")]
    found = strata_figures(base, [verdict("q", "11", method="m"), verdict("r", "10", method="m")])
    assert found["d"]["n"]["inconsistent"] == 3
    gain = found["d"]["methods"]["m"]["inconsistent"]
    assert (gain["acc"], gain["n"]) == (0.5, 2)
    assert strata_figures(base, [verdict("other", "11", method="m")])["d"]["methods"]["m"]["inconsistent"]["n"] == 0


def test_a_base_that_does_not_think_is_refused():
    with pytest.raises(ValueError, match="one method that thinks"):
        strata_figures([verdict("q", "11", thinks=False)], [])
    with pytest.raises(ValueError, match="one method that thinks"):
        strata_figures([verdict("q", "11"), verdict("q", "11", method="m")], [])
