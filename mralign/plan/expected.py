"""How many tokens a run will ask for, stage by stage, and what these numbers assume.

The number of questions enters; requests and expected tokens leave. How long an answer is, is known from finished
rollouts; before, it is taken from what a model of 8 B has answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mralign.config import Decoding, RunConfig
from mralign.plan.placing import Planned
from mralign.plan.shipped_run import ShippedRun
from mralign.questions.counting import SourceCount
from mralign.rows.subjects import Way
from mralign.run.changes import newest_result
from mralign.run.store import Manifest

_THINKING = 626  # mean tokens of 800 answers to SimpleQA by Qwen3-8B, thinking
_SILENT = 9  # and not thinking
_LENGTHS = (
    f"an answer takes {_THINKING} tokens with thinking and {_SILENT} without (Qwen3-8B, 800 questions of SimpleQA)"
)
_PROMPT = 60  # tokens of a question with what stands around it
_YIELD = 0.07  # published: 6,973 training rows of the 99,604 train questions of NQ-Open and SciQ
_YIELD_SOURCE = (
    f"7 of 100 questions become training examples (as published: 6,973 of 99,604), with prompts of {_PROMPT} tokens"
)


@dataclass(frozen=True)
class KnownCounts:
    """Questions for training and for the evaluation, and training examples; None is unknown."""

    train: int | None
    held_out: int | None
    examples: int | None


@dataclass(frozen=True)
class Lengths:
    """Expected tokens of an answer with thinking and without, and where they come from."""

    thinking: float
    silent: float
    source: str

    def of(self, *, thinks: bool, decoding: Decoding) -> float:
        """Tokens of one answer, as far as the decoding lets it go."""
        return min(self.thinking if thinks else self.silent, decoding.max_tokens)


def assumed_lengths(shipped: ShippedRun | None) -> Lengths:
    """How long answers are, where the run directory has none."""
    if shipped is None:
        return Lengths(_THINKING, _SILENT, _LENGTHS)
    thinking, silent = shipped.thinking_tokens, shipped.silent_tokens
    source = f"an answer takes {thinking:.0f} tokens with thinking, {silent:.0f} without, as in {shipped.source}"
    return Lengths(thinking, silent, source)


def lengths(planned: Sequence[Planned], *, shipped: ShippedRun | None) -> Lengths:
    """How long answers are, by the newest finished rollouts of the run directory, else as assumed."""
    manifest = _newest(planned, "rollouts")
    tokens = manifest.figures.get("completion_tokens") if manifest else None
    if manifest is None or not tokens or not manifest.rows_out:
        return assumed_lengths(shipped)
    mean = tokens / manifest.rows_out  # of as many draws with thinking as without
    silent = min(mean, assumed_lengths(shipped).silent)
    source = f"an answer takes {mean:.0f} tokens in the mean, as in the finished rollouts of this run directory"
    return Lengths(2 * mean - silent, silent, source)


def _newest(planned: Sequence[Planned], name: str) -> Manifest | None:
    item = next((item for item in planned if item.stage.name == name), None)
    if item is None or item.manifest is not None:
        return item.manifest if item else None
    older = newest_result(item.out)
    return older[1] if older else None


def counts_of(config: RunConfig, planned: Sequence[Planned], *, sources: Sequence[SourceCount]) -> KnownCounts:
    """What is known of the numbers: from finished stages, else from the files."""
    done = {item.stage.name: item.manifest for item in planned if item.manifest is not None}
    examples = done["examples"].rows_out if "examples" in done else None
    split = config.evaluation.split
    if "questions" in done:
        figures = done["questions"].figures
        return KnownCounts(figures.get("train"), figures.get(split), examples)
    return KnownCounts(_sum(sources, "train"), _sum(sources, split), examples)


def _sum(sources: Sequence[SourceCount], split: str) -> int | None:
    found = [one.records for one in sources if one.split == split]
    return None if None in found else sum(filter(None, found))


def by_dataset(planned: Sequence[Planned], *, sources: Sequence[SourceCount], split: str) -> dict[str, int]:
    """Questions of each data set of a split."""
    manifest = planned[0].manifest
    if manifest is not None and "funnel" in manifest.figures:
        return {row["dataset"]: row["kept"] for row in manifest.figures["funnel"] if row["split"] == split}
    return {one.name: one.records for one in sources if one.split == split and one.records is not None}


@dataclass(frozen=True)
class ExpectedExamples:
    """Expected training examples, the tokens of each, and what that assumes (empty: nothing)."""

    number: float
    tokens: float
    source: str


def examples_expected(
    config: RunConfig, *, counts: KnownCounts, shipped: ShippedRun | None, length: Lengths
) -> ExpectedExamples:
    """How many training examples there will be, and how long they are."""
    prompt = shipped.prompt_tokens if shipped is not None else _PROMPT
    tokens = min(config.examples.max_length, prompt + length.thinking)
    if counts.examples is not None:
        return ExpectedExamples(counts.examples, tokens, "")
    train = counts.train or 0
    if shipped is not None:
        share = shipped.examples / shipped.train
        return ExpectedExamples(
            share * train, tokens, f"{share:.0%} of the questions become examples, as in {shipped.source}"
        )
    return ExpectedExamples(_YIELD * train, tokens, _YIELD_SOURCE)


@dataclass(frozen=True)
class ExpectedRequests:
    """Requests to the model, the tokens that are expected of it, and the most that it may sample."""

    requests: int
    tokens: float
    most: int

    def __str__(self) -> str:
        return f"{self.requests:,} requests, about {in_words(self.tokens)} tokens (at most {in_words(self.most)})"


def of_rollouts(config: RunConfig, *, questions: int, length: Lengths) -> ExpectedRequests:
    """All draws in both modes."""
    draws, decoding = questions * config.rollouts.n, config.rollouts.decoding
    each = length.of(thinks=True, decoding=decoding) + length.of(thinks=False, decoding=decoding)
    return ExpectedRequests(2 * draws, draws * each, 2 * draws * decoding.max_tokens)


def of_responses(config: RunConfig, *, questions: int, length: Lengths, trained: bool) -> ExpectedRequests:
    """The evaluation of one model. Self-Refine begins with think-on's answer."""
    settings = config.evaluation
    methods = settings.trained_methods if trained else settings.methods
    plain = {Way.THINK_ON if way is Way.SELF_REFINE else way for way in methods}
    thinking = sum(way.thinks for way in plain)
    silent = len(plain) - thinking
    if Way.SELF_REFINE in methods:
        thinking += 2 * settings.self_refine.rounds
    asked = questions * settings.draws
    decoding = settings.decoding
    tokens = thinking * length.of(thinks=True, decoding=decoding) + silent * length.of(thinks=False, decoding=decoding)
    requests = asked * (thinking + silent)
    return ExpectedRequests(requests, asked * tokens, requests * decoding.max_tokens)


def in_words(number: float) -> str:
    """1234567 -> 1.2 million."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.1f} {name}"
    return f"{number:.0f}"
