"""The answer that a reply states, as reasoning models write it: prose first, then a label or a box."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mralign.chat.stated_answer import stated_answer
from mralign.chat.thought import clean_answer, split_thinking

PROSE = "The treaty was signed in 1815.\nIt ended the war.\n\n"


@pytest.mark.parametrize(
    "line",
    [
        "Answer: Vienna",
        "answer : Vienna",
        "Answer:Vienna",
        "**Answer:** Vienna",
        "**Answer**: Vienna",
        "**Answer: Vienna**",
        "**Answer: Vienna**.",
        "Answer: **Vienna**",
        "Answer: **Vienna**.",
        "**Answer:** **Vienna**",
        "Answer: *Vienna*",
        "Answer: __Vienna__",
        "Answer: `Vienna`",
        "__Answer:__ Vienna",
        "Final answer: Vienna",
        "**Final Answer:** Vienna",
        "FINAL ANSWER: Vienna",
        "The final answer is: Vienna",
        "**The answer is: Vienna**",
        "The answer: Vienna",
        "Short answer: Vienna",
        "### Answer: Vienna",
        "> **Answer:** Vienna",
        "- **Answer:** Vienna",
        "Answer： Vienna",
        "答案：Vienna",
        "最终答案是：**Vienna**",
        "**答え：** Vienna",
        "정답: Vienna",
        "Réponse finale : Vienna",
        "Antwort: Vienna",
        "Ответ: Vienna",
        "**Answer:**\nVienna",
        "**Final Answer**\n\nVienna",
        "### Final Answer\n**Vienna**",
        "## Answer:\n\nVienna",
        "Answer: Vienna\n\n",
        "Answer: Vienna\r\n",
        "**Answer**\r\n\r\nVienna\r\n",
        "Answer: $\\text{Vienna}$",
        "Answer: \\(\\text{Vienna}\\).",
        "Answer: \\boxed{Vienna}",
        "**Final Answer**\n\\[\n\\boxed{\\text{Vienna}}\n\\]",
        "So it is \\boxed{Vienna}.",
        "\\boxed{Vienna}",
        "$$\\boxed{\\textbf{Vienna}}$$",
        "\\fbox{Vienna}",
        "\\boxed{\\mathrm{Vienna}}",
        "Final Answer: The final answer is $\\boxed{Vienna}$. I hope it is correct.",
    ],
)
def test_a_stated_answer_is_the_answer_after_prose_alone_and_in_a_block(line):
    for reply in (line, PROSE + line, PROSE.replace("\n", "\r\n") + line):
        assert clean_answer(reply) == "Vienna"
        assert clean_answer(f"{reply}<|im_end|>") == "Vienna"
        assert clean_answer(f"So: <answer>{reply}</answer>") == "Vienna"
        assert clean_answer(f"{PROSE}<answer>\n{reply}\n</answer>\nDone.") == "Vienna"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        # what wins: the block, then the label at the end, then the last box
        ("<answer>Rome</answer>\n\nAnswer: Paris", "Rome"),
        ("Answer: Paris\n\n<answer>Rome</answer>", "Rome"),
        ("<answer>Rome</answer> or <answer>Paris</answer>", "Paris"),
        ("\\boxed{Rome}\n\nAnswer: Paris", "Paris"),
        ("Answer: Rome\n\nNo: \\boxed{Paris}", "Paris"),
        ("\\boxed{Rome} no, \\boxed{Paris}", "Paris"),
        ("Answer: Rome\n\nAnswer: Paris", "Paris"),
        ("Answer: Rome\nWait.\nFinal answer: Paris", "Paris"),
        ("Answer: \\boxed{Rome} or \\boxed{Paris}", "Paris"),
        ("<answer>We know \\boxed{Rome}.\n\n**Answer:** Paris</answer>", "Paris"),
        # braces nest, and TeX is read as text
        ("\\boxed{f{g}h}", "f{g}h"),
        ("\\boxed{\\text{New York}}", "New York"),
        ("\\boxed{\\text{John } \\text{Smith}}", "John Smith"),
        ("\\boxed{New~York}", "New York"),
        ("\\boxed{\\frac{1}{2}}", "1/2"),
        ("\\boxed{1{,}000\\,000}", "1,000,000"),
        ("\\boxed{5\\ \\text{km}}", "5 km"),
        ("\\boxed{90^\\circ}", "90°"),
        ("\\boxed{\\$50\\%}", "$50%"),
        ("\\boxed{\\{1\\}}", "{1}"),
        ("\\boxed{\\boxed{x}}", "x"),
        ("\\boxed{Vienna", "Vienna"),
        ("\\boxed{}", ""),
        # bold type that is not around all of it stays
        ("Answer: **Paris** and **Rome**", "**Paris** and **Rome**"),
        ("Answer: U.S.A.", "U.S.A."),
        ("Answer: snake_case_name", "snake_case_name"),
        ("Answer: $5 million", "$5 million"),
        # a label that opens the reply is taken off whatever follows
        ("Answer: Paris\n\nIt is in France.", "Paris\n\nIt is in France."),
        ("**Answer:**\n- Paris\n- Rome", "- Paris\n- Rome"),
        # no label: not at the beginning of its line, nothing behind it, or more than the answer behind it
        ("So the answer: Paris", "So the answer: Paris"),
        ("The answer is Paris.", "The answer is Paris."),
        ("Answering: Paris", "Answering: Paris"),
        ("It is Paris.\nAnswer: Rome\nOr not.", "It is Paris.\nAnswer: Rome\nOr not."),
        ("It is Paris.\n\nAnswer:", "It is Paris.\n\nAnswer:"),
        ("It is **Paris**.", "It is **Paris**."),
        ("boxed{Paris}", "boxed{Paris}"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_what_counts_where_a_reply_states_several_answers_or_none(reply, answer):
    assert clean_answer(reply) == answer


LINES = st.text(st.characters(exclude_characters="\\{}:：*_`#$<>"), max_size=20)


@given(st.lists(LINES, max_size=5).map("\n".join))
def test_a_reply_that_states_nothing_is_its_own_answer(reply):
    assert stated_answer(reply) == reply.strip()


@given(st.text(alphabet="\\{}boxed*: Answer\n$textfrac", max_size=60))
def test_any_reply_ends(reply):
    found = stated_answer(reply)
    assert found == found.strip()


@pytest.mark.parametrize(
    "line",
    [
        "My final answer is: Vienna",
        "The correct answer is: Vienna",
        "La réponse est : Vienna",
        "Die richtige Antwort lautet: Vienna",
        "La respuesta correcta es: Vienna",
        "我的答案是：Vienna",
        "* Answer: Vienna",
        "✅ **Answer:** Vienna",
        "👉 Final answer: Vienna",
        "Answer: Vienna\n\n---",
        "Answer: Vienna\n```",
        "\\boxed{\\underline{Vienna}}",
        "<answer>Vienna</answer> (in <answer> tags)",
    ],
)
def test_further_ways_to_state_an_answer(line):
    assert clean_answer(PROSE + line) == "Vienna"


# A model that repeats itself to the limit writes such replies; each took minutes, or more frames than there are.
@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("\\boxed{" * 30_000 + "x" + "}" * 30_000, "x"),
        ("\\boxed{" * 30_000, ""),
        ("\\boxed{" + "\\text{" * 30_000 + "x" + "}" * 30_001, "x"),
        ("\\boxed{x" + "\\text{" * 30_000, "x"),
        ("<answer>" * 30_000 + "x</answer>", "x"),
    ],
)
def test_a_reply_that_repeats_itself_is_read_in_one_pass(reply, answer):
    assert clean_answer(reply) == answer


def test_blank_space_to_the_limit_is_read_in_one_pass():
    assert split_thinking("\n" * 200_000 + "x", mode="off").answer == "x"
