"""Choices in the user's message: in their place, behind the question, or left out with their line."""

from dataclasses import replace

import pyarrow as pa
import pytest

from mralign.chat.self_refine import Refinement, requests_of_turn
from mralign.chat.user_message import user_message, with_choices
from mralign.config import parse
from mralign.evaluation.responses import content_parts
from mralign.rows import Request, from_table
from mralign.rows.schema import QUESTIONS
from mralign.run.rejects import Reject
from mralign.run.store import StageDir
from mralign.serving.requests import Renderer, Sampling, build_requests, family_of

CHOICES = ["lid", "spout"]


@pytest.mark.parametrize(
    ("prompt", "choices", "message"),
    [
        ("{question}", CHOICES, "what?\nA) lid\nB) spout"),
        ("Question: {question}\nAnswer.", CHOICES, "Question: what?\nA) lid\nB) spout\nAnswer."),
        ("{choices}\n\nWhich: {question}", CHOICES, "A) lid\nB) spout\n\nWhich: what?"),
        ("{question}\n{choices}\nAnswer.", None, "what?\nAnswer."),
        ("{question}\n{choices}\nAnswer.", [], "what?\nAnswer."),
        ("Q: {question} {choices}", None, "Q: what?"),
        ("{question}", None, "what?"),
    ],
)
def test_choices_are_always_shown_and_no_line_is_left_without_them(prompt, choices, message):
    assert user_message(prompt, question="what?", choices=choices) == message


def test_a_question_may_hold_the_name_of_a_place():
    said = user_message("{question} | {choices}", question="is {choices} a {question}?", choices=["{question}", "b"])
    assert said == "is {choices} a {question}? | A) {question}\nB) b"
    assert user_message("{question}", question="is {choices} one?") == "is {choices} one?"
    assert with_choices("what?", None) == "what?"


def questions(choices):
    row = {"question_id": "d/1", "dataset": "d", "split": "test", "question": "what?", "answers": ["spout", "B"]}
    return pa.Table.from_pylist([row | {"choices": choices, "extra": "{}"}], schema=QUESTIONS)


def renderer(prompt):
    from transformers import AutoTokenizer

    from mralign.config import resolve_path

    config = parse({"questions": {"test": [{"name": "d", "path": "d.jsonl"}]}})
    path = "pkg://mralign.miniworld/data/model"
    model = config.model.model_copy(update={"path": path})
    sampling = Sampling(model=model, engine=config.engine, decoding=config.evaluation.decoding, prompt=prompt)
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(path))
    return Renderer(sampling, tokenizer=tokenizer, family=family_of(model, path=resolve_path(path)))


def test_a_request_with_choices_is_asked_as_its_question_with_them_would_be():
    asks = renderer("{question}")
    (request,) = from_table(build_requests(questions(CHOICES), modes=("off",), draws=1, seed=0), Request)
    (written,) = from_table(build_requests(questions(None), modes=("off",), draws=1, seed=0), Request)
    written = replace(written, question="what?\nA) lid\nB) spout")
    prompt = asks.prepare(request)
    assert not isinstance(prompt, Reject) and prompt.token_ids == asks.prepare(written).token_ids
    row = asks.row(request, prompt, text="B", token_ids=[1], finish_reason="stop")
    assert row.question == written.question  # annotators and the next turns of Self-Refine see what was asked


def test_choices_that_cannot_be_put_into_a_prompt_are_a_reject():
    (request,) = from_table(build_requests(questions(["lid", "</think>"]), modes=("off",), draws=1, seed=0), Request)
    found = renderer("{question}").prepare(request)
    assert isinstance(found, Reject) and found.reason == "control_tokens"


def test_a_revision_asks_the_question_with_its_choices_again():
    asked = Request("d/1/on/0", "d/1", "d", "what?\nA) lid\nB) spout", ["B"], None, "on", 0, 0)
    asks = renderer("{question}")
    first = asks.row(asked, asks.prepare(asked), text="<think>a</think>A", token_ids=[1], finish_reason="stop")
    feedback = replace(first, row_id="d/1/on/0/feedback-1", mode="on/feedback-1", answer="wrong")
    texts = Refinement(1, "{question} {answer}", "{question} / {answer} / {feedback}")
    prompt = "Q: {question}\n{choices}\nAnswer."
    (request,) = requests_of_turn(
        "revise-1", rows=[first, feedback], refinement=texts, prompt_of=lambda name: prompt, seed_of=len
    )
    assert request.message == "Q: what?\nA) lid\nB) spout\nAnswer. / A / wrong"


def test_a_response_belongs_to_the_choices_that_were_shown(tmp_path):
    def names(*tables):
        return content_parts(tables, out=StageDir(str(tmp_path), stage="responses"))

    assert len(names(questions(CHOICES), questions(CHOICES[::-1]), questions(None))) == 3
    assert names(questions(CHOICES)) == names(questions(CHOICES))
