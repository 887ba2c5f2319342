"""Text that survives the tokenizer there and back, with offsets, and the chat template's two modes."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer

from mralign.miniworld.lessons import LessonParams, Teacher
from mralign.miniworld.tokenizer import BLANK_LINE, THINK, UNTHINK, make_tokenizer, prompt_ids
from mralign.miniworld.world import FactWorld, WorldParams, draw_trace, make_world


@pytest.fixture(scope="module")
def world() -> FactWorld:
    return make_world(1, params=WorldParams(entities=20, train=40, dev=10, test=10))


@pytest.fixture(scope="module")
def tokenizer(world: FactWorld, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Saved and loaded again: what the rest of the project sees."""
    path: Path = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(world.words, max_length=256).save_pretrained(path)
    return AutoTokenizer.from_pretrained(path)


@pytest.fixture(scope="module")
def completions(world: FactWorld) -> list[str]:
    rng = random.Random(0)
    traces = [draw_trace(fact, world=world, rng=rng) for fact in world.facts]
    return [
        THINK + BLANK_LINE.join(segment.text for segment in trace.segments) + UNTHINK + trace.answer for trace in traces
    ]


def test_completions_round_trip(tokenizer: Any, completions: list[str]) -> None:
    for text in completions:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids


def test_offsets_cover_the_text_without_gaps(tokenizer: Any, completions: list[str]) -> None:
    for text in completions:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        assert (offsets[0][0], offsets[-1][1]) == (0, len(text))
        assert all(left[1] == right[0] for left, right in pairwise(offsets))
        pieces = [tokenizer.decode([token]).strip(" ") for token in encoded["input_ids"]]
        assert [text[a:b].strip(" ") for a, b in offsets] == pieces


def test_streamed_decoding_gives_the_same_text(tokenizer: Any, completions: list[str]) -> None:
    for text in completions[:20]:
        ids = tokenizer.encode(text, add_special_tokens=False)
        stream = DecodeStream(ids=[tokenizer.convert_tokens_to_ids("<|im_start|>")], skip_special_tokens=True)
        streamed = [stream.step(tokenizer.backend_tokenizer, token) or "" for token in ids]
        assert "".join(streamed) == text


def test_marks_are_one_token_each_and_visible(tokenizer: Any) -> None:
    for mark in (THINK, UNTHINK, BLANK_LINE):
        ids = tokenizer.encode(mark, add_special_tokens=False)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == mark
    assert tokenizer.decode([tokenizer.eos_token_id], skip_special_tokens=True) == ""
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_template_modes(tokenizer: Any, world: FactWorld) -> None:
    question = world.facts[0].question
    messages = [{"role": "user", "content": question}]
    bare = f"<|im_start|>user {question}<|im_end|>"
    opened = bare + "<|im_start|>assistant"

    def render(**options: bool) -> str:
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        assert isinstance(text, str)
        return text

    assert render(add_generation_prompt=True) == opened
    assert render(add_generation_prompt=True, enable_thinking=True) == opened
    assert render(add_generation_prompt=True, enable_thinking=False) == opened + "<think>\n\n</think>\n\n"
    assert render(add_generation_prompt=False, enable_thinking=False) == bare
    for thinking in (True, False):
        encoded = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, add_generation_prompt=True, enable_thinking=thinking
        )
        assert encoded["input_ids"] == prompt_ids(tokenizer, question, thinking=thinking)


def test_lessons_are_the_tokenizers_own_ids(tokenizer: Any, world: FactWorld) -> None:
    teacher = Teacher(world, tokenizer=tokenizer, params=LessonParams())
    rng = random.Random(0)
    for fact in world.facts[:30]:
        for lesson in (teacher.trace(fact, rng=rng), teacher.direct_answer(fact, rng=rng), teacher.card(fact, rng=rng)):
            text = tokenizer.decode(list(lesson.ids))
            assert tokenizer.encode(text, add_special_tokens=False) == list(lesson.ids)
            assert len(lesson.ids) == len(lesson.weights)
            start = len(prompt_ids(tokenizer, fact.question, thinking=True))
            assert not any(lesson.weights[:start])
            assert any(lesson.weights)


def test_cards_weigh_only_values(tokenizer: Any, world: FactWorld) -> None:
    teacher = Teacher(world, tokenizer=tokenizer, params=LessonParams())
    rng, fact = random.Random(0), world.facts[0]
    for _ in range(30):
        card = teacher.card(fact, rng=rng)
        weighed = {tokenizer.decode([i]).strip() for i, w in zip(card.ids, card.weights, strict=True) if w}
        assert weighed <= {fact.gold, fact.rival}
        assert weighed
