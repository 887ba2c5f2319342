"""Two requests of every kind: all that they share stands in front, where a prefix cache finds it.

What a request is about is made of words drawn at random. Behind the first character by which two requests differ they
may share a heading, and nothing longer.
"""

import random
from difflib import SequenceMatcher

import pytest

from mralign.annotation.instruction import (
    AnnotatorInstruction,
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
)
from mralign.annotation.naming import naming_request
from mralign.annotation.open_labels import open_request
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.chat.user_message import user_message
from mralign.config import Retrieval
from mralign.evaluation.benchmarks import registry
from mralign.evaluation.benchmarks.benchmark import Case
from mralign.evaluation.judging import request_of
from mralign.evaluation.snippets import with_snippets

HEADING = 60  # characters
ASK = "Answer the question. Give the final answer, as short as possible, between <answer> and </answer>.\n\nQuestion: "


def words(dice, count=12):
    return " ".join("".join(dice.choices("abcdefghijklmnop", k=7)) for _ in range(count))


def trajectory(dice):
    segments = tuple(words(dice) for _ in range(dice.randint(5, 9)))
    return Trajectory(words(dice), words(dice), (words(dice, 2),), segments)


def annotator(dice):
    return AnnotatorInstruction(PAPER, True).messages(trajectory(dice))


def said(dice, step):
    return StepLabels(step, step, (dice.choice(PAPER.labels),), (dice.randint(0, 10),))


def adjudicator(dice):
    disputes = [(said(dice, step), said(dice, step)) for step in range(dice.randint(1, 4))]
    instruction = adjudicator_instruction(PAPER)
    return adjudication_messages(trajectory(dice), disputes, instruction=instruction, show_answers=True)


def discovery(dice):
    return open_request(trajectory(dice), show_answers=True).messages


def naming(dice):
    typical = [[words(dice, 1) for _ in range(5)] for _ in range(4)]
    names = [name for cluster in typical for name in cluster]
    return naming_request(typical, frequency={name: dice.randint(5, 99) for name in names}).messages


def judge(dice, step):
    fields = {"incorrect_answers": [words(dice)], "topic": words(dice)}
    case = Case("q/on/0", "q", "d", "b", words(dice), words(dice, 40), (words(dice, 2),), fields)
    item = step.items(case, {"claims": [{"claims": [words(dice)]}]})[0]
    shown = dict(item.shown) | ({"evidence": [{"text": words(dice, 30)}]} if step.searched else {})
    return request_of(step, "q", shown=shown).messages


STEPS = {step.kind: step for benchmark in registry().values() for step in benchmark.steps}
KINDS = {"annotator": annotator, "adjudicator": adjudicator, "discovery": discovery, "naming": naming}
KINDS |= {f"judge: {kind}": lambda dice, step=step: judge(dice, step) for kind, step in STEPS.items()}


def text_of(messages):
    return "".join(f"<{message.role}>{message.content}" for message in messages)


def split(first, second):
    """What two texts share at their beginning, and the rest of each."""
    pairs = enumerate(zip(first, second, strict=False))
    end = next(place for place, (one, other) in pairs if one != other)
    return first[:end], first[end:], second[end:]


def longest_in_both(first, second):
    return SequenceMatcher(None, first, second, autojunk=False).find_longest_match().size


@pytest.mark.parametrize("kind", KINDS)
def test_the_instruction_comes_first_and_nothing_long_is_shared_behind_it(kind):
    one, other = (KINDS[kind](random.Random(seed)) for seed in (1, 2))
    assert one[0] == other[0] and one[0].role == "system" and len(one[0].content) > 500
    common, rest, other_rest = split(text_of(one), text_of(other))
    assert common.startswith(f"<system>{one[0].content}<user>")
    assert longest_in_both(rest, other_rest) < HEADING


def with_evidence(dice):
    snippets = [{"title": words(dice, 2), "text": words(dice, 30)} for _ in range(3)]
    asked = with_snippets(words(dice), snippets=snippets, prompt=Retrieval().prompt)
    return user_message(ASK + "{question}", question=asked, choices=())


def test_questions_with_snippets_share_what_stands_before_the_question():
    common, rest, other_rest = split(*(with_evidence(random.Random(seed)) for seed in (1, 2)))
    assert common == ASK and longest_in_both(rest, other_rest) < HEADING


def test_a_text_with_its_instruction_behind_would_be_found():
    one, other = (f"{words(random.Random(seed))}\n{ASK}" for seed in (1, 2))
    _, rest, other_rest = split(one, other)
    assert longest_in_both(rest, other_rest) >= HEADING
