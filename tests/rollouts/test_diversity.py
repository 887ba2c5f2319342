"""How far the draws of a question differ, by hand."""

from dataclasses import replace

import pytest
from rollouts.test_candidates import generation

from mralign.rollouts.diversity import DrawDiversity, draw_diversity


def drawn(question, draw, answer, thought, **changes):
    text = f"<think>{thought}</think>{answer}"
    row = generation(question, "on", draw, answer)
    return replace(row, text=text, thought_start=7, thought_end=7 + len(thought), **changes)


def test_pairs_of_draws_are_compared_within_a_question_and_averaged_over_questions():
    rows = [
        drawn("a", 0, "Paris", "one two three"),
        drawn("a", 1, "the PARIS.", "one two three"),  # the same answer in normal form
        drawn("a", 2, "Rome", "one two four"),
        drawn("b", 0, "Rome", "x y"),
        drawn("b", 1, "Paris", "u v"),
    ]
    found = draw_diversity(rows)
    # a: two of three pairs of answers differ; thoughts {12, 23}, {12, 23}, {12, 24}: distances 0, 2/3, 2/3. b: 1, 1.
    assert found.answers == pytest.approx((2 / 3 + 1) / 2)
    assert found.thoughts == pytest.approx(((0 + 2 / 3 + 2 / 3) / 3 + 1) / 2)
    assert found.questions == 2


def test_answers_at_once_invalid_draws_and_single_ones_do_not_count():
    rows = [
        drawn("a", 0, "Paris", "one two"),
        drawn("a", 1, "Rome", "one two", invalid="truncated"),
        generation("a", "off", 0, "Paris"),
        generation("a", "off", 1, "Rome"),
    ]
    assert draw_diversity(rows) == DrawDiversity(None, None, 0)


def test_thoughts_of_a_single_word_are_alike():
    assert draw_diversity([drawn("a", n, "Paris", "one") for n in range(2)]).thoughts == 0.0
