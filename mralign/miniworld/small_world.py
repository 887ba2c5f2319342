"""A small world: its questions and the thoughts that its base is taught.

Knobs enter; questions of the splits train, dev, test and other (relations that are never trained on) and lessons for
`train_base` leave. Facts need no memory: the first syllable of a name is the place of the right value, the second one
that of the rival, so a base learns them in seconds. The wording of a question decides how often its thoughts are
faulty, as in the embedded world.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product

from transformers import PreTrainedTokenizerFast

from mralign.miniworld.knobs import Knobs, draw_blocks, harms
from mralign.miniworld.lessons import Lesson
from mralign.miniworld.tokenizer import BLANK_LINE, END, SPACE, THINK, UNTHINK, prompt_ids
from mralign.miniworld.world import TEMPLATES, Kind, SegmentState, invent_names

RELATIONS = ("capital", "founder", "river", "symbol", "language", "anthem", "harbour", "emblem", "patron", "motto")
OTHER = frozenset(("language", "motto"))  # relations of the split `other`
OFF_RIVAL = frozenset(("capital", "founder", "river", "language"))  # answered at once by the rival
OFF_NOISE, RETRIEVAL_GOLD = 0.08, 0.97
WORDINGS = {"what": (0.55, 0.06), "name": (0.2, 0.5), "tell": (0.25, 0.92)}  # share of the questions, odds of a fault
SPLITS = {"dev": 160, "test": 320, "other": 120}
QUESTIONS_AN_EXAMPLE = 14  # about one question in five has a verdict, fewer of them of the rarer polarity
VALUE_WEIGHT, ORDER_WEIGHT = 4.0, 3.0


@dataclass(frozen=True)
class SmallFact:
    """A question of a small world."""

    fact_id: str
    question: str
    wording: str
    relation: str
    gold: str
    rival: str


@dataclass(frozen=True)
class SmallWorld:
    """The facts of some knobs."""

    knobs: Knobs

    @cached_property
    def names(self) -> tuple[list[str], list[str], list[str]]:
        """First syllables, second syllables, values."""
        count = self.knobs.values
        found = invent_names(random.Random(f"{self.knobs.seed} names"), count=3 * count)
        return found[:count], found[count : 2 * count], found[2 * count :]

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word of a question, a thought or an answer."""
        cues = [text.split()[0] for text in chain.from_iterable(TEMPLATES.values())]
        return tuple(sorted({*cues, *RELATIONS, *WORDINGS, *chain.from_iterable(self.names)}))

    @cached_property
    def splits(self) -> dict[str, list[SmallFact]]:
        """Disjoint questions; `train` has enough for the examples that are asked for."""
        rng = random.Random(f"{self.knobs.seed} questions")
        size = self.knobs.values
        places = [(i, j, r) for i, j, r in product(range(size), range(size), RELATIONS) if i != j]
        rng.shuffle(places)
        facts = [self._fact(*place, rng=rng) for place in places]
        common = [fact for fact in facts if fact.relation not in OTHER]
        dev, test = SPLITS["dev"], SPLITS["test"]
        wanted = max(200, QUESTIONS_AN_EXAMPLE * self.knobs.examples)
        return {
            "dev": common[:dev],
            "test": common[dev : dev + test],
            "train": common[dev + test : dev + test + wanted],
            "other": [fact for fact in facts if fact.relation in OTHER][: SPLITS["other"]],
        }

    def _fact(self, first: int, second: int, relation: str, *, rng: random.Random) -> SmallFact:
        firsts, seconds, values = self.names
        shares = [share for share, _ in WORDINGS.values()]
        (wording,) = rng.choices(list(WORDINGS), weights=shares)
        name = f"{firsts[first]} {seconds[second]}"
        question = f"{wording} {relation} {name}"
        return SmallFact(question.replace(" ", "-"), question, wording, relation, values[first], values[second])

    def questions_text(self, split: str) -> str:
        """One JSON object a line: id, question, answer."""
        rows = [{"id": f.fact_id, "question": f.question, "answer": [f.gold]} for f in self.splits[split]]
        return "".join(json.dumps(row) + "\n" for row in rows)


@dataclass(frozen=True)
class SmallSegment:
    """A segment: its states (two where it does two things at once), and the candidate it holds."""

    states: tuple[SegmentState, ...]
    candidate: str | None


def draw_thought(fact: SmallFact, *, kind: Kind, knobs: Knobs, rng: random.Random) -> list[SmallSegment]:
    """The segments of a thought; the last one's candidate is the answer."""
    candidate = fact.gold if rng.random() < RETRIEVAL_GOLD else fact.rival
    found = [SmallSegment((SegmentState.FRAMING,), None), SmallSegment((SegmentState.RETRIEVAL,), candidate)]
    for block in draw_blocks(knobs, kind=kind, rng=rng):
        found += [SmallSegment((block.lead,), None), SmallSegment(block.probe, candidate)]
        if block.back and harms(block, knobs=knobs) and rng.random() < knobs.harm:
            candidate = fact.rival
        elif block.back and not harms(block, knobs=knobs):
            candidate = fact.gold
        if block.back:
            found.append(SmallSegment((SegmentState.BACKTRACKING,), candidate))
    return [*found, SmallSegment((SegmentState.SYNTHESIS,), candidate)]


def cues(states: Sequence[SegmentState], *, style: int) -> list[str]:
    """The first words of the states, in one of the two ways to write them."""
    return [TEMPLATES[state][style].split()[0] for state in states]


class SmallTeacher:
    """Writes the lessons of a small world; vocabulary and prompts are looked up once."""

    def __init__(self, world: SmallWorld, *, tokenizer: PreTrainedTokenizerFast) -> None:
        self.world, self.facts = world, list(chain.from_iterable(world.splits.values()))
        self._vocabulary, self._tokenizer = tokenizer.get_vocab(), tokenizer
        self._prompts: dict[tuple[str, bool], list[int]] = {}

    def epoch(self, rng: random.Random, *, lessons: int) -> list[Lesson]:
        """So many thoughts, and half as many answers at once, of questions drawn at random."""
        thoughts = [self.thought(rng.choice(self.facts), rng=rng) for _ in range(lessons)]
        return thoughts + [self.at_once(rng.choice(self.facts), rng=rng) for _ in range(lessons // 2)]

    def thought(self, fact: SmallFact, *, rng: random.Random) -> Lesson:
        """A whole completion with a thought."""
        knobs = self.world.knobs
        kind = Kind.FAULT if rng.random() < WORDINGS[fact.wording][1] else Kind.CLEAN
        odds = 0.5 + (0.5 if kind is Kind.FAULT else -0.5) * knobs.style
        style = int(rng.random() < odds)
        tokens: list[tuple[str, float]] = []
        segments = draw_thought(fact, kind=kind, knobs=knobs, rng=rng)
        for segment in segments:
            tokens.append((BLANK_LINE if tokens else THINK, 1.0))
            tokens += [(SPACE + cue, ORDER_WEIGHT) for cue in cues(segment.states, style=style)]
            if segment.candidate is not None:
                tokens.append((SPACE + segment.candidate, VALUE_WEIGHT))
        answer = segments[-1].candidate
        tokens += [(UNTHINK, 1.0), (f"{SPACE}{answer}", VALUE_WEIGHT), (END, 1.0)]
        return self._lesson(fact, thinking=True, tokens=tokens)

    def at_once(self, fact: SmallFact, *, rng: random.Random) -> Lesson:
        """A completion without a thought."""
        rival = (rng.random() < OFF_NOISE) != (fact.relation in OFF_RIVAL)
        answer = fact.rival if rival else fact.gold
        return self._lesson(fact, thinking=False, tokens=[(SPACE + answer, VALUE_WEIGHT), (END, 1.0)])

    def _lesson(self, fact: SmallFact, *, thinking: bool, tokens: list[tuple[str, float]]) -> Lesson:
        key = (fact.question, thinking)
        if key not in self._prompts:
            self._prompts[key] = prompt_ids(self._tokenizer, fact.question, thinking=thinking)
        prompt = self._prompts[key]
        ids = [self._vocabulary[token] for token, _ in tokens]
        return Lesson((*prompt, *ids), (*(0.0 for _ in prompt), *(weight for _, weight in tokens)))
