"""Predictions made elsewhere: what a line says, in which mode, and what they score."""

import json
import re
from pathlib import Path

import pytest

import mralign
from mralign.evaluation.predictions import FIELDS, dataset_name, modes_of, prediction_of
from mralign.rows import Mode

ROOT = Path(__file__).parents[2]


def test_a_line_says_all_of_its_fields():
    value = {
        "id": 7,
        "dataset": "nq/open",
        "question": "Who?",
        "answers": ["A", "B", "A"],
        "response": "B",
        "thought": "A or B",
        "mode": "on",
        "draw": 2,
        "finish_reason": "length",
        "thought_tokens": 5,
        "note": "left aside",
    }
    found = prediction_of(value, place="line 3")
    assert (found.id, found.dataset, found.answers, found.draw) == ("7", "nq_open", ("A", "B"), 2)
    assert found.text == "<think>A or B</think>B"
    assert (found.mode, found.finish_reason, found.thought_tokens) == (Mode.ON, "length", 5)


@pytest.mark.parametrize(
    ("thought", "response", "text"),
    [
        ("", "<think>t</think>a", "<think>t</think>a"),
        ("<think>t</think>", "a", "<think>t</think>a"),
        ("t", "rest of it</think>a", "rest of it</think>a"),  # the tags in the response decide
        (" \n", "a", "a"),
    ],
)
def test_thought_and_response_become_one_text(thought, response, text):
    assert prediction_of({"thought": thought, "response": response}, place="line 1").text == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "line 4 is list; allowed is an object"),
        ({"text": "x"}, r"line 4 has no `response`; it has \['text'\]"),
        ({"response": 5}, "line 4: `response` is int; allowed is text"),
        ({"response": "\ud83d"}, "line 4: `response` is not valid Unicode"),
        ({"response": "x", "mode": "maybe"}, "line 4: mode is 'maybe'; allowed are on"),
        ({"response": "x", "draw": -1}, "line 4: `draw` is -1; allowed is a number from 0"),
        ({"response": "x", "draw": True}, "line 4: `draw` is True"),
        ({"response": "x", "answers": object()}, "line 4: `answers` is object; allowed is a text or a list"),
    ],
)
def test_a_line_that_says_no_prediction_is_named(value, message):
    with pytest.raises(ValueError, match=message):
        prediction_of(value, place="line 4")


def test_without_a_word_on_the_mode_one_thought_decides_for_all():
    plain, thinking = {"response": "a"}, {"response": "<think>t</think>a"}
    off = {"response": "a", "mode": "off"}

    def modes(*values):
        return [str(mode) for mode in modes_of([prediction_of(value, place="") for value in values])]

    assert modes(plain, plain) == ["off", "off"]
    assert modes(plain, thinking, off) == ["on", "on", "off"]
    assert modes(thinking, off) == ["on", "off"]


def test_score_by_hand():
    """Four questions: right in both, lost by the answer, found by it alone, cut off. Two of them asked twice."""
    given = [
        {"id": 1, "answers": "Paris", "response": "<think>Paris</think>Answer: Paris"},
        {
            "id": 1,
            "answers": "Paris",
            "response": "<think>Rome</think>The city of Paris",
        },  # wrong unless by containment
        {"id": 2, "answers": ["Lima"], "response": "<think>Lima? No.</think>Cusco"},
        {"id": 3, "answers": ["Oslo"], "response": "<think>Bergen</think>Oslo"},
        {"id": 4, "answers": ["Bern"], "response": "<think>Bern</think>Be", "finish_reason": "length"},
    ]
    found = mralign.score(given)
    assert (found["n"], found["draws"]) == (4, 5)
    assert found["acc"] == pytest.approx(1 / 5)
    assert found["mis"] == pytest.approx(3 / 5)  # Lima, Oslo and Bern; the second draw has neither
    assert found["mis_contains"] == pytest.approx(4 / 5)
    assert found["truncated_share"] == pytest.approx(1 / 5)
    assert found["thought_tokens_mean"] is None
    low, high = found["acc_ci"]
    assert low <= found["acc"] <= high


def test_score_without_thinking_has_no_mis():
    found = mralign.score([{"answers": ["Oslo"], "response": "Oslo."}, {"answers": ["Bern"], "response": "Oslo"}])
    assert (found["acc"], found["mis"], found["n"]) == (0.5, None, 2)
    assert mralign.score([{"answers": ["Oslo"], "response": "in Oslo"}], match="contains")["acc"] == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "no predictions given"),
        ([{"response": "x", "answers": ["x"]}, {"response": "x"}], "prediction 1 has no gold answers"),
        ([{"response": "x", "answers": []}], "prediction 0 has no gold answers"),
        (
            [{"response": "x", "answers": ["x"], "mode": mode} for mode in ("on", "off")],
            "predictions of both modes given",
        ),
    ],
)
def test_score_says_what_is_missing(given, message):
    with pytest.raises(ValueError, match=message):
        mralign.score(given)
    with pytest.raises(ValueError, match="match is 'fuzzy'; allowed are"):
        mralign.score([{"response": "x", "answers": ["x"]}], match="fuzzy")


def test_a_name_of_a_data_set_is_plain():
    assert [dataset_name(said) for said in ("nq open/é", "../../x", "", "a" * 90)] == [
        "nq_open_é",
        "x",
        "predictions",
        "a" * 80,
    ]


def test_the_line_and_the_fields_of_the_page_are_those_that_are_read():
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    line = json.loads(page.partition("```json\n")[2].partition("```")[0])
    assert mralign.score([line])["acc"] == 0  # Lima is the answer, and not in the thought
    section = page.partition("## Responses made elsewhere")[2].partition("\n## ")[0]
    first_cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", " ".join(first_cells))) == sorted({*FIELDS} - {"thought"})
