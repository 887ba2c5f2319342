"""Our matching beside the published grades of 1600 real answers of Qwen3-8B to SimpleQA (-s prints the tables).

A grader read each answer: A correct, B wrong, C not attempted. Every disagreement with `contains` was read by eye
(SimpleQA's row numbers). What it misses of A says the same in other words, and no string matching finds it: a unit left
out (1936, 2936), a hyphen or a generic noun left out (2351, 967), a longer or otherwise worded quantity (2957, 2703,
3099), another order (2775), a formula with its arguments (2017). What it finds beyond A is one full name whose
surname is the gold (1809): the grader's slip. `exact` loses three more with thinking and six more without, which say
more than the gold.

Of 774 thoughts whose answer was not graded correct, 57 hold the gold: that is what Mis counts. Read by eye, about 50
consider the gold answer and drop it; the others hold a short gold in another sense (2383, 1914, 1396, 2656, 1450, 2472,
3210). The one right answer whose thought does not hold it (1842) is a digit that the thought writes as a word.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from mralign.chat.thought import split_thinking
from mralign.questions.matching import contains, equals

TRACES = Path(__file__).parents[3] / "shared" / "data" / "traces"
FILES = {"on": "qwen3-8b_simpleqa.jsonl", "off": "qwen3-8b_simpleqa_no_think.jsonl"}

pytestmark = pytest.mark.skipif(not TRACES.exists(), reason="the real traces of ../shared/data are not on this machine")


@pytest.fixture(scope="module")
def verdicts():
    """By mode, (grade, contains, exact, thought holds the gold) of each answer."""
    return {mode: [verdict(row, mode=mode) for row in read(name)] for mode, name in FILES.items()}


def read(name):
    gold = {row["id"]: row["answer"] for row in lines("simpleqa_800.jsonl")}
    return [row | {"gold": gold[row["id"]]} for row in lines(name)]


def lines(name):
    return [json.loads(line) for line in (TRACES / name).read_text(encoding="utf-8").splitlines()]


def verdict(row, *, mode):
    text = row.get("thought", "") + row["response"]
    split = split_thinking(text, mode=mode)
    assert split.invalid is None
    gold = [row["gold"]]
    thought = text[split.thought_start : split.thought_end] if mode == "on" else ""
    return row["grading"], contains(split.answer, gold), equals(split.answer, gold), contains(thought, gold)


def table(rows, *, title, column):
    counts = Counter((row[0], row[column]) for row in rows)
    print(f"\n{title:<34} grade   hit  miss")
    for grade in "ABC":
        print(f"{'':<34} {grade:<5} {counts[grade, True]:>5} {counts[grade, False]:>5}")
    return {grade: (counts[grade, True], counts[grade, False]) for grade in "ABC"}


@pytest.mark.parametrize(
    ("mode", "graded", "least_hits", "most_beyond"),
    [("on", (26, 240, 534), (20, 17), (0, 0)), ("off", (30, 617, 153), (25, 19), (1, 0))],
)
def test_answers_match_where_the_grader_says_correct(verdicts, mode, graded, least_hits, most_beyond):
    rows = verdicts[mode]
    assert len(rows) == 800
    for column, name, least, most in zip((1, 2), ("contains", "exact"), least_hits, most_beyond, strict=True):
        found = table(rows, title=f"think-{mode}, answer {name}", column=column)
        assert tuple(sum(found[grade]) for grade in "ABC") == graded
        assert found["A"][0] >= least
        assert found["B"][0] + found["C"][0] <= most
    assert all(holds for _, holds, same, _ in rows if same)


def test_thoughts_hold_the_gold_of_right_answers_and_of_some_that_were_lost(verdicts):
    found = table(verdicts["on"], title="think-on, thought contains", column=3)
    right = [in_thought for _, _, same, in_thought in verdicts["on"] if same]
    assert sum(right) >= len(right) - 1
    assert found["A"][0] >= 20
    assert 50 <= found["B"][0] + found["C"][0] <= 60
