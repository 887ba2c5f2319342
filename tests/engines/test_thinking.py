import json
from pathlib import Path

import pytest

from mralign.engines.thinking import Split, split_thinking

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"


def thought(text, split):
    return text[split.thought_start : split.thought_end]


def test_thought_and_answer_of_qwen():
    text = "<think>\nHm.\n\nYes.\n</think>\n\nParis<|im_end|>"
    assert split_thinking(text, mode="on") == Split(7, 18, "Paris", None)
    assert thought(text, Split(7, 18, None, None)) == "\nHm.\n\nYes.\n"


@pytest.mark.parametrize("opened", [True, False])
def test_a_block_the_prompt_opened_starts_the_text(opened):
    assert split_thinking("Hm.</think>Paris", mode="on", opened=opened) == Split(0, 3, "Paris", None)


def test_an_opening_tag_repeated_after_the_prompts_is_the_opening():
    assert split_thinking("\n<think>Hm.</think>Paris", mode="on", opened=True) == Split(8, 11, "Paris", None)
    late = split_thinking("Hm. <think>x</think>Paris", mode="on", opened=True)
    assert late == Split(0, 12, None, "second_thought")


@pytest.mark.parametrize(
    ("text", "opened", "reason", "span"),
    [
        ("Paris", False, "no_thought", (-1, -1)),
        ("", False, "no_thought", (-1, -1)),
        ("<think>Hm. Paris", False, "unclosed_thought", (7, 16)),
        ("Hm. Paris", True, "unclosed_thought", (0, 9)),
        ("<think>a<think>b</think>Paris", False, "second_thought", (7, 16)),
        ("<think>a</think>b<think>c</think>Paris", False, "second_thought", (7, 8)),
        ("<think>a</think>b</think>Paris", False, "second_thought", (7, 8)),
        ("a</think>b<think>c", False, "second_thought", (0, 1)),
        ("<think>a</think>\n<|im_end|>", False, "empty_answer", (7, 8)),
        ("<think>a</think><answer> </answer>", False, "empty_answer", (7, 8)),
        ("<think>a</think>Answer:</s>", False, "empty_answer", (7, 8)),
    ],
)
def test_what_cannot_be_judged_has_a_reason_and_the_offsets_known(text, opened, reason, span):
    assert split_thinking(text, mode="on", opened=opened) == Split(*span, None, reason)


@pytest.mark.parametrize(("text", "span"), [("<think>a</think>Par", (7, 8)), ("<think>ab", (7, 9)), ("Par", (-1, -1))])
def test_truncated_comes_before_every_other_reason(text, span):
    assert split_thinking(text, mode="on", finish_reason="length") == Split(*span, None, "truncated")


@pytest.mark.parametrize(
    ("tail", "answer"),
    [
        ("\n\nParis\n<|im_end|>\n<|endoftext|></s>", "Paris"),
        ("Paris<|eot_id|>", "Paris"),
        ("So it is <answer>\nParis </answer>. Done", "Paris"),
        ("<answer>Rome</answer> no: <answer>Paris</answer>", "Paris"),
        ("<answer>Paris<|im_end|>", "Paris"),
        ("<answer>Answer: Paris</answer>", "Paris"),
        ("ANSWER : Paris", "Paris"),
        ("**Answer:** Paris", "Paris"),
        ("The answer: Paris", "The answer: Paris"),  # a prefix only where it leads
        ("Answering Paris", "Answering Paris"),
    ],
)
def test_answers_lose_tags_prefix_and_end_tokens(tail, answer):
    assert split_thinking("<think>a</think>" + tail, mode="on").answer == answer
    assert split_thinking(tail, mode="off") == Split(-1, -1, answer, None)


def test_think_off_drops_an_empty_block_and_refuses_a_full_one():
    assert split_thinking("<think>\n\n</think>\n\nParis", mode="off") == Split(-1, -1, "Paris", None)
    assert split_thinking("<think>Hm.</think>Paris", mode="off") == Split(7, 10, None, "unexpected_thought")
    assert split_thinking("<think></think>x</think>Paris", mode="off").invalid == "unexpected_thought"
    assert split_thinking("<think>Hm.", mode="off") == Split(7, 10, None, "unexpected_thought")
    assert split_thinking(" ", mode="off") == Split(-1, -1, None, "empty_answer")
    assert split_thinking("Par", mode="off", finish_reason="length") == Split(-1, -1, None, "truncated")


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'auto'.*on, off"):
        split_thinking("x", mode="auto")


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"published traces not found at {TRACES}")
def test_no_real_trace_is_lost():
    rows = [json.loads(line) for line in (TRACES / "qwen3-8b_simpleqa.jsonl").read_text().splitlines()]
    assert len(rows) == 800
    for row in rows:
        text = row["thought"] + row["response"]
        split = split_thinking(text, mode="on")
        assert split.invalid is None
        assert f"<think>{thought(text, split)}</think>" == row["thought"]
        assert split.answer == row["response"].removesuffix("<|im_end|>").removeprefix("Answer:").strip()
    off = [json.loads(line) for line in (TRACES / "qwen3-8b_simpleqa_no_think.jsonl").read_text().splitlines()]
    assert [split_thinking(row["response"], mode="off").invalid for row in off] == [None] * 800
