"""Lessons: what the base model reads, as token ids with one loss weight a token.

In go a world and its tokenizer, out come lessons of three sorts for every fact: whole traces, answers without a
thought, and study cards (stretches of a trace such as retrieval, self_verification, backtracking, synthesis) whose loss
lies on the values alone. A trace's few telling tokens - its values and the first word after a probe - weigh more than
the rest: without that the noise of the templates drowns them. Cards that go on after the backtracking, with weight on
copied values too, teach the base to keep to a changed candidate; without them half of the faulty thoughts slipped back
to the gold value before the answer, and few questions were negative.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from transformers import PreTrainedTokenizerFast

from mralign.miniworld.tokenizer import BLANK_LINE, END, SPACE, THINK, UNTHINK, prompt_ids
from mralign.miniworld.world import (
    PROBES,
    Fact,
    FactWorld,
    Role,
    Segment,
    SegmentState,
    answer_without_thought,
    draw_trace,
    fill,
)


@dataclass(frozen=True)
class LessonParams:
    """Lessons of a fact in each epoch, and the loss weights of their tokens."""

    traces: int = 4
    direct_answers: int = 4
    cards: int = 6
    plain_weight: float = 1.0
    value_weight: float = 4.0
    copy_weight: float = 2.0
    order_weight: float = 4.0
    other_entity_weight: float = 0.2


@dataclass(frozen=True)
class Lesson:
    """Token ids and, aligned with them, the weight of predicting each; the prompt weighs 0."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]


class Teacher:
    """Writes lessons. A class because vocabulary and prompts are looked up once, not in each of 100,000 lessons."""

    def __init__(self, world: FactWorld, *, tokenizer: PreTrainedTokenizerFast, params: LessonParams) -> None:
        self.world, self.params = world, params
        vocabulary = tokenizer.get_vocab()
        self._marks = {mark: vocabulary[mark] for mark in (THINK, UNTHINK, BLANK_LINE, END)}
        self._word = {word: vocabulary[SPACE + word] for word in world.words}
        self._prompts: dict[tuple[str, bool], tuple[int, ...]] = {}
        for fact, thinking in product(world.facts, (True, False)):
            ids = prompt_ids(tokenizer, fact.question, thinking=thinking)
            self._prompts[fact.fact_id, thinking] = tuple(ids)

    def epoch(self, rng: random.Random) -> Iterator[Lesson]:
        """All lessons of one epoch, drawn afresh."""
        for fact in self.world.facts:
            yield from (self.trace(fact, rng=rng) for _ in range(self.params.traces))
            yield from (self.direct_answer(fact, rng=rng) for _ in range(self.params.direct_answers))
            yield from (self.card(fact, rng=rng) for _ in range(self.params.cards))

    def trace(self, fact: Fact, *, rng: random.Random) -> Lesson:
        """A whole completion with a thought."""
        trace = draw_trace(fact, world=self.world, rng=rng)
        plain = self.params.plain_weight
        tokens = self._thought(trace.segments, self._trace_weights(trace.segments), mark_weight=plain)
        tokens += [
            (self._marks[UNTHINK], plain),
            (self._word[trace.answer], self.params.copy_weight),
            (self._marks[END], plain),
        ]
        return self._lesson(fact, thinking=True, tokens=tokens)

    def direct_answer(self, fact: Fact, *, rng: random.Random) -> Lesson:
        """A completion without a thought."""
        answer = self._word[answer_without_thought(fact, rng=rng, params=self.world.params)]
        weight = self.params.value_weight
        tokens = [(answer, weight), (self._marks[END], self.params.plain_weight)]
        return self._lesson(fact, thinking=False, tokens=tokens)

    def card(self, fact: Fact, *, rng: random.Random) -> Lesson:
        """A stretch of a trace, the loss on its values only: content without order."""
        segments, _ = fill(fact, states=rng.choice(CARDS), world=self.world, rng=rng)
        weights = [self._value_weights(segment) for segment in segments]
        return self._lesson(fact, thinking=True, tokens=self._thought(segments, weights, mark_weight=0.0))

    def _value_weights(self, segment: Segment) -> list[float]:
        return [self._value_weight(segment.state, role) for role in segment.roles]

    def _trace_weights(self, segments: tuple[Segment, ...]) -> list[list[float]]:
        weights = []
        after_probe = False
        for segment in segments:
            weights.append([self._trace_weight(segment.state, role, after_probe=after_probe) for role in segment.roles])
            after_probe = segment.state in PROBES
        return weights

    def _trace_weight(self, state: SegmentState, role: Role, *, after_probe: bool) -> float:
        if role is Role.OTHER_ENTITY:
            return self.params.other_entity_weight
        if role is Role.CUE and after_probe:
            return self.params.order_weight
        return self._value_weight(state, role) or self.params.plain_weight

    def _value_weight(self, state: SegmentState, role: Role) -> float:
        """Retrieval and backtracking choose a value; elsewhere it is copied. Other words weigh 0."""
        if role is not Role.VALUE:
            return 0.0
        chosen = state in (SegmentState.RETRIEVAL, SegmentState.BACKTRACKING)
        return self.params.value_weight if chosen else self.params.copy_weight

    def _thought(
        self, segments: tuple[Segment, ...], weights: list[list[float]], *, mark_weight: float
    ) -> list[tuple[int, float]]:
        tokens: list[tuple[int, float]] = []
        for segment, of_words in zip(segments, weights, strict=True):
            tokens.append((self._marks[BLANK_LINE if tokens else THINK], mark_weight))
            tokens += [(self._word[word], weight) for word, weight in zip(segment.words, of_words, strict=True)]
        return tokens

    def _lesson(self, fact: Fact, *, thinking: bool, tokens: list[tuple[int, float]]) -> Lesson:
        prompt = self._prompts[fact.fact_id, thinking]
        ids = (*prompt, *(token for token, _ in tokens))
        return Lesson(ids=ids, weights=(*(0.0 for _ in prompt), *(weight for _, weight in tokens)))


_HARM = (SegmentState.RETRIEVAL, SegmentState.SELF_VERIFICATION, SegmentState.BACKTRACKING)
CARDS: tuple[tuple[SegmentState, ...], ...] = (
    _HARM,
    (*_HARM, SegmentState.SYNTHESIS),
    (*_HARM, SegmentState.EVALUATION, SegmentState.SYNTHESIS),
    (*_HARM, SegmentState.EVALUATION, SegmentState.BACKTRACKING, SegmentState.SYNTHESIS),
    (*_HARM, SegmentState.COMPARISON, SegmentState.BACKTRACKING, SegmentState.SYNTHESIS),
    (SegmentState.FRAMING, *_HARM, SegmentState.COMPARISON, SegmentState.SYNTHESIS),
    (SegmentState.RETRIEVAL, SegmentState.COMPARISON, SegmentState.BACKTRACKING),
    (
        SegmentState.RETRIEVAL,
        SegmentState.EVALUATION,
        SegmentState.BACKTRACKING,
        SegmentState.SELF_VERIFICATION,
        SegmentState.BACKTRACKING,
        SegmentState.SYNTHESIS,
    ),
)
