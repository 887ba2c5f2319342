import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.chat.thought import END_TOKENS, Split, split_thinking

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
    ],
)
def test_what_cannot_be_judged_has_a_reason_and_the_offsets_known(text, opened, reason, span):
    assert split_thinking(text, mode="on", opened=opened) == Split(*span, None, reason)


@pytest.mark.parametrize("tail", ["\n<|im_end|>", "<answer> </answer>", "Answer:</s>", "\\boxed{}", ""])
def test_an_empty_answer_is_an_answer(tail):
    assert split_thinking(f"<think>a</think>{tail}", mode="on") == Split(7, 8, "", None)
    assert split_thinking(tail, mode="off") == Split(-1, -1, "", None)


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
        ("**Answer**: Paris", "Paris"),
        ("**Answer: Paris**", "Paris"),
        ("*Answer*: **Paris**", "Paris"),
        ("Answer: **Paris**", "Paris"),
        ("**Final Answer:**\nParis", "Paris"),
        ("Final answer: Paris", "Paris"),
        ("Paris</answer>", "Paris"),
        ("Paris<|im_end|></answer>\nIt is <answer>Rome</answer>", "Paris"),
        ("</answer>\n<answer>Paris</answer>", "Paris"),
        ("So the answer: Paris", "So the answer: Paris"),  # a label only where it leads its line
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
    assert split_thinking("Par", mode="off", finish_reason="length") == Split(-1, -1, None, "truncated")


def test_think_off_takes_the_closing_tag_of_an_empty_block_alone():
    assert split_thinking("\n</think>\n\nParis", mode="off") == Split(-1, -1, "Paris", None)
    assert split_thinking("\n</think>\n\nParis", mode="off", opened=True) == Split(-1, -1, "Paris", None)
    assert split_thinking("Hm.</think>Paris", mode="off") == Split(0, 3, None, "unexpected_thought")


def test_a_thought_that_a_think_off_prompt_opened_is_no_answer():
    assert split_thinking("Hm. Paris", mode="off", opened=True) == Split(0, 9, None, "unexpected_thought")


@pytest.mark.parametrize("token", END_TOKENS)
def test_every_end_token_is_cut_in_both_modes(token):
    assert split_thinking(f"Paris{token}", mode="off").answer == "Paris"
    assert split_thinking(f"a</think>Paris\n{token}\n", mode="on", opened=True) == Split(0, 1, "Paris", None)


TAGS = ("<think>", "</think>", "<answer>", "</answer>", "Answer:", "**", "\n\n", " ", "Paris")
COMPLETIONS = st.lists(st.sampled_from([*TAGS, *END_TOKENS]) | st.text(max_size=4), max_size=10).map("".join)


@given(COMPLETIONS, st.sampled_from(["on", "off"]), st.booleans(), st.sampled_from(["stop", "length"]))
def test_any_text_is_answered_or_has_a_reason(text, mode, opened, finish_reason):
    split = split_thinking(text, mode=mode, opened=opened, finish_reason=finish_reason)
    assert (split.answer is None) == (split.invalid is not None)
    assert split.answer is None or (split.answer == split.answer.strip() and split.answer in text)
    assert (split.thought_start, split.thought_end) == (-1, -1) or 0 <= split.thought_start <= split.thought_end
    assert split.thought_end <= len(text)
    if split.invalid is None:
        assert finish_reason == "stop"
        assert not {"<think>", "</think>"} & {text[split.thought_start : split.thought_end], split.answer}
        assert (split.thought_start >= 0) == (mode == "on")


UNTAGGED = st.text().filter(lambda text: "<think>" not in text and "</think>" not in text)


@given(UNTAGGED, st.text(alphabet="abc .", min_size=1).filter(str.strip), st.booleans())
def test_what_was_joined_is_found_again(inner, answer, opened):
    text = ("" if opened else "<think>") + inner + "</think>" + answer
    split = split_thinking(text, mode="on", opened=opened)
    assert (thought(text, split), split.answer, split.invalid) == (inner, answer.strip(), None)


def test_unknown_mode_is_refused():
    with pytest.raises(ValueError, match=r"'auto'.*on, off"):
        split_thinking("x", mode="auto")


def traces(name):
    rows = [json.loads(line) for line in (TRACES / name).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 800
    return rows


def said(response):
    """What stands behind the last label of a reply, by hand: three of 1600 have several, two are in italics."""
    return response.removesuffix("<|im_end|>").rpartition("Answer:")[2].strip().strip("*")


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"published traces not found at {TRACES}")
@pytest.mark.parametrize("between", ["", "\n\n"])
def test_no_real_trace_is_lost(between):
    for row in traces("qwen3-8b_simpleqa.jsonl"):
        text = row["thought"] + between + row["response"]
        split = split_thinking(text, mode="on")
        assert split.invalid is None
        assert f"<think>{thought(text, split)}</think>" == row["thought"].strip()
        assert split.answer == said(row["response"])
        # As an R1 distill writes the same: the prompt has opened the block, and another token ends the text.
        other = text.replace("<think>\n", "", 1).replace("<|im_end|>", "<｜end▁of▁sentence｜>")
        found = split_thinking(other, mode="on", opened=True)
        assert (f"\n{thought(other, found)}", found.answer) == (thought(text, split), split.answer)


@pytest.mark.skipif(not TRACES.is_dir(), reason=f"published traces not found at {TRACES}")
def test_no_real_trace_without_a_thought_is_lost():
    for row in traces("qwen3-8b_simpleqa_no_think.jsonl"):
        assert split_thinking(row["response"], mode="off") == Split(-1, -1, said(row["response"]), None)
        after_block = "<think>\n\n</think>\n\n" + row["response"]
        assert split_thinking(after_block, mode="off") == Split(-1, -1, said(row["response"]), None)
