"""Positions of the gold answer in a thought, by cases counted by hand."""

import pytest

from mralign.evaluation.positions import BINS, hit_positions, position_figures
from mralign.questions.matching import contains


@pytest.mark.parametrize(
    ("thought", "answers", "expected"),
    [
        # tokens: is it paris no rome or paris after all (9); `the` and punctuation are no tokens
        ("Is it the Paris? No: Rome, or Paris after all.", ["Paris"], (2 / 9, 6 / 9)),
        ("Is it the Paris? No: Rome, or Paris after all.", ["Rome"], (4 / 9, 4 / 9)),
        ("Is it the Paris? No: Rome, or Paris after all.", ["Rome", "paris"], (2 / 9, 6 / 9)),
        ("Paris", ["Paris"], (0.0, 0.0)),
        # an alias of two tokens stands where its first one stands: so new york it is new york (7)
        ("So New York it is, New York", ["the New York"], (1 / 7, 5 / 7)),
        # runs of one alias may overlap
        ("x a1 a1 a1", ["A1 a1"], (1 / 4, 2 / 4)),
        # tokens of Chinese are its characters: 是 北 京 吗 不 是 上 海 是 北 京 (11)
        ("是北京吗？不，是上海。是北京。", ["北京"], (1 / 11, 9 / 11)),
        ("Is it “Zu\u0308rich”? Yes—Zürich", ["Zürich"], (2 / 4, 2 / 4)),  # a dash joins what it joins in English
        # an alias that is written as it is: is it blood type or blood type (7 tokens, none of them `a`)
        ("Is it a blood type A, or blood type A?", ["A"], (4 / 7, 6 / 7)),
        ("A", ["A"], (0.0, 0.0)),
        ("A party in Parisian style", ["art", "Paris", "---"], None),
        ("...", ["Paris"], None),
        ("", ["Paris"], None),
    ],
)
def test_positions_are_tokens_of_the_normalised_thought(thought, answers, expected):
    assert hit_positions(thought, answers) == (None if expected is None else pytest.approx(expected))
    assert contains(thought, answers) == (expected is not None)


def draw(number, thought, answer, *, method="m", dataset="d", invalid=None, em=True):
    text = f"<think>{thought}</think>{answer}"
    row_id = f"q/on/{number}"
    row = {"row_id": row_id, "method": method, "text": text, "answers": ["Paris"]}
    row |= {"thought_start": 7, "thought_end": 7 + len(thought)}
    right = answer == "Paris" and invalid is None
    score = {"row_id": row_id, "method": method, "dataset": dataset, "invalid": invalid}
    score |= {"em_thought": "Paris" in thought if em else None, "em_answer": right if em else None}
    return row, score


def test_right_and_wrong_answers_are_counted_apart():
    draws = [
        draw(0, "Paris b c d", "Paris"),  # 0, 0
        draw(1, "b Paris Paris d", "Paris"),  # 1/4, 2/4
        draw(2, "b c d e", "Paris"),  # right without a hit
        draw(3, "b c d Paris", "Rome"),  # 3/4, 3/4
        draw(4, "Paris", "Paris", invalid="truncated"),
        draw(0, "b Paris", "Rome", method="other"),  # the same row_id, another method
        draw(5, "Paris", "Paris", em=False),  # think-off, or a benchmark without gold answers
        draw(6, "b", "Rome", dataset="e"),
    ]
    figures = position_figures([row for row, _ in draws], [score for _, score in draws])
    assert set(figures) == {"d", "e"} and set(figures["d"]) == {"m", "other"}
    right, wrong = figures["d"]["m"]["right"], figures["d"]["m"]["wrong"]
    assert figures["d"]["m"]["invalid"] == 1
    assert (right["thoughts"], right["without_hit"]) == (3, 1)
    assert right["first"]["mean"] == pytest.approx(1 / 8)
    assert right["last"]["mean"] == pytest.approx(1 / 4)
    assert {i: n for i, n in enumerate(right["first"]["histogram"]) if n} == {0: 1, 5: 1}
    assert {i: n for i, n in enumerate(right["last"]["histogram"]) if n} == {0: 1, 10: 1}
    assert (wrong["thoughts"], wrong["without_hit"]) == (1, 0)
    assert {i: n for i, n in enumerate(wrong["last"]["histogram"]) if n} == {15: 1}
    assert figures["d"]["other"]["wrong"]["first"]["mean"] == pytest.approx(1 / 2)
    none = {"mean": None, "histogram": [0] * BINS}
    assert figures["e"]["m"]["wrong"] == {"thoughts": 1, "without_hit": 1, "first": none, "last": none}


def test_a_hit_on_the_edge_of_a_bin_falls_into_the_bin_it_begins():
    for place in range(BINS):
        thought = " ".join(["x"] * place + ["Paris"] + ["x"] * (BINS - 1 - place))
        row, score = draw(0, thought, "Paris")
        histogram = position_figures([row], [score])["d"]["m"]["right"]["last"]["histogram"]
        assert histogram.index(1) == place


def test_a_score_without_its_generation_is_named():
    row, score = draw(0, "Paris", "Paris")
    with pytest.raises(ValueError, match="score q/on/0 of other has no generation"):
        position_figures([row], [score | {"method": "other"}])
    unheard = position_figures([], [score | {"invalid": "too_long"}])  # it could not be asked: there is no row
    assert unheard["d"]["m"]["invalid"] == 1
