"""What annotation is expected to take, and the figures of what it took, by hand."""

from collections import Counter

import pyarrow as pa
import pytest

from mralign.annotation.costs import describe_expected, expect, figures, money
from mralign.annotation.instruction import Trajectory, annotation_messages, annotator_instruction
from mralign.annotation.resolved import resolve_annotation
from mralign.annotation.taxonomy import PAPER
from mralign.config import parse
from mralign.rows.schema import ANNOTATIONS

HTTP = {"base_url": "http://127.0.0.1:1/v1", "vllm_extras": False, "price_prompt": 2.0, "price_completion": 10.0}
CUES = "pkg://mralign.annotation/rule_books/second.yaml"


@pytest.fixture(name="resolved")
def _resolved(tmp_path):
    annotators = [
        {"name": "Ann", "engine": "http", "http": HTTP | {"model": "a"}},
        {"name": "Ben", "rule_book": CUES},
    ]
    judge = {"name": "Jo", "engine": "http", "http": HTTP | {"model": "j", "price_prompt": 0.0}}
    return resolve_annotation(
        parse(
            {
                "run": {"dir": str(tmp_path)},
                "questions": {"train": [{"name": "a", "path": "a"}]},
                "annotation": {"annotators": annotators, "adjudicator": judge},
            }
        )
    )


def test_the_expectation_scales_the_sample_and_leaves_cue_phrases_out(resolved):
    sample = [Trajectory(f"{n}", "Who?", ("x",), ("word " * (n + 1),) * (n + 2)) for n in range(2)]
    first, judge = expect(sample, rows=10, resolved=resolved, count=lambda text: len(text.split()))
    instruction = annotator_instruction(PAPER)
    texts = [
        message.content
        for trajectory in sample
        for message in annotation_messages(trajectory, instruction=instruction, show_answers=True)
    ]
    assert (first.who, first.requests) == ("Ann", 10)
    assert first.prompt_tokens == 5 * sum(len(text.split()) for text in texts)
    assert first.money == pytest.approx((2 * first.prompt_tokens + 10 * first.completion_tokens) / 1e6)
    assert (judge.who, judge.requests, judge.most) == ("Jo", 10, True)
    text = describe_expected([first, judge])
    assert "Ann: 10 requests, about" in text
    assert "Jo: at most 10 requests" in text
    assert "money unknown" not in text


def test_an_engine_of_ours_has_no_price(resolved):
    tokens = {"prompt_tokens": 1_000_000, "completion_tokens": 500_000, "fresh_completion_tokens": 100_000}
    assert money(tokens, resolved=resolved, role="first") == pytest.approx(2.0 + 5.0)
    assert money(tokens, resolved=resolved, role="first", fresh=True) == pytest.approx(1.0)
    assert money(tokens, resolved=resolved, role="second") == 0


def step(labels, a, b, rule):
    return {"first_segment": 0, "last_segment": 0, "labels": labels, "labels_a": a, "labels_b": b, "rule": rule}


def test_the_figures_of_a_small_annotation(resolved):
    steps = [
        step(["framing"], ["framing"], ["framing"], "equal"),
        step(["analogy"], ["framing"], ["chaining"], "adjudicated"),
        step([], ["chaining"], [], "unlabelled"),
        step(["framing", "chaining"], ["framing"], ["framing", "chaining"], "intersection"),
    ]
    parts = [
        pa.Table.from_pylist([{"row_id": str(i), "steps": half}], schema=ANNOTATIONS).select(["steps"])
        for i, half in enumerate((steps[:2], steps[2:]))
    ]
    tally = {"trajectories": 2, "repaired": 1, "rejected": 0, "requests": 3, "prompt_tokens": 300}
    tallies = [
        {"first": Counter(tally), "second": Counter(trajectories=2)},
        {"first": Counter(trajectories=2, rejected=1)},
    ]
    found = figures(parts, tallies=tallies, resolved=resolved)
    assert found["steps"] == 4
    assert found["rules"] == {"equal": 1, "adjudicated": 1, "unlabelled": 1, "intersection": 1}
    assert found["adjudicated"] == 0.5
    assert found["labels"] == {"framing": 2, "analogy": 1, "chaining": 1}
    named = ("proposed_first", "proposed_second", "final", "dropped", "escalated")
    assert {label: [counts[n] for n in named] for label, counts in found["by_label"].items()} == {
        "framing": [3, 2, 2, 1, 1],
        "chaining": [1, 2, 1, 2, 2],
        "analogy": [0, 0, 1, 0, 0],
    }
    assert found["annotators"]["Ann"]["repair_rate"] == found["annotators"]["Ann"]["reject_rate"] == 0.25
    assert found["annotators"]["Ann"]["requests"] == 3
    assert found["annotators"]["Ben"] == {
        "trajectories": 2,
        "repair_rate": 0,
        "reject_rate": 0,
        "money": 0,
        "money_now": 0,
    }
    assert "Jo" not in found["annotators"]  # never asked
