"""The criteria a world must meet before any method is tried on it, measured on completions sampled from its base.

In go a world, its base and the sampler's settings; out come the think-off accuracy, the think-on Acc, Mis and EM_t
(method.md §6), the rate of the harmful edge by wording, the share of broken completions, and the numbers of
positive and negative questions (method.md §1). Completions are judged as text, as every user of the model does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from mralign.miniworld.sampling import SamplerParams, sample
from mralign.miniworld.tokenizer import BLANK_LINE, prompt_ids
from mralign.miniworld.world import STATE_OF_CUE, WORDINGS, Fact, FactWorld, SegmentState, WorldSplit

_THINK_ON = re.compile(r"<think>((?:(?!</?think>).)+)</think>(\w+)", re.DOTALL)
_THINK_OFF = re.compile(r"()(\w+)")


@dataclass(frozen=True)
class Draw:
    """One judged completion. `broken`: it did not end by itself, or is not a thought and a one-word answer."""

    fact: Fact
    thought: str
    answer: str
    broken: bool

    @property
    def states(self) -> list[SegmentState | None]:
        """The states of the thought's segments, None where no template starts with the segment's first word."""
        segments = self.thought.split(BLANK_LINE) if self.thought else []
        return [STATE_OF_CUE.get(segment.split(" ")[0]) for segment in segments]

    @property
    def right(self) -> bool:
        return not self.broken and self.answer == self.fact.gold

    @property
    def thought_has_gold(self) -> bool:
        return not self.broken and self.fact.gold in self.thought.split()


@dataclass(frozen=True)
class SplitCriteria:
    """Shares over all draws of a split; positives and negatives are numbers of questions.

    `harmful_edge` and `healing_edge` are the shares of self_verification and of comparison segments that a backtracking
    follows, by wording (wordings that were not asked are left out). A broken thought has an odd segment count.
    """

    questions: int
    off_accuracy: float
    on_accuracy: float
    on_acc: float
    on_mis: float
    on_em_t: float
    harmful_edge: dict[str, float]
    healing_edge: dict[str, float]
    on_acc_by_wording: dict[str, float]
    positives: int
    negatives: int
    broken: float
    odd_segment_count: float


def measure(
    world: FactWorld,
    split: WorldSplit,
    *,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    params: SamplerParams,
) -> SplitCriteria:
    """The criteria of one split."""
    facts = world.splits[split]
    on = draw(facts, thinking=True, model=model, tokenizer=tokenizer, params=params)
    off = draw(facts, thinking=False, model=model, tokenizer=tokenizer, params=replace(params, seed=params.seed + 1))
    every_on, every_off = _flat(on), _flat(off)
    return SplitCriteria(
        questions=len(facts),
        off_accuracy=_share([d.right for d in every_off]),
        on_accuracy=_share([d.right for d in every_on]),
        on_acc=_share([d.right and d.thought_has_gold for d in every_on]),
        on_mis=_share([d.right != d.thought_has_gold for d in every_on]),
        on_em_t=_share([d.thought_has_gold for d in every_on]),
        harmful_edge=_edge_by_wording(every_on, SegmentState.SELF_VERIFICATION),
        healing_edge=_edge_by_wording(every_on, SegmentState.COMPARISON),
        on_acc_by_wording=_acc_by_wording(every_on),
        positives=_count_polar(on, off),
        negatives=_count_polar(off, on),
        broken=_share([d.broken for d in every_on + every_off]),
        odd_segment_count=_share([not 4 < len(d.states) < 15 for d in every_on]),
    )


def draw(
    facts: Sequence[Fact],
    *,
    thinking: bool,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    params: SamplerParams,
) -> list[list[Draw]]:
    """`params.draws` judged completions for each fact."""
    eos = tokenizer.eos_token_id
    assert isinstance(eos, int)
    asked = list(chain.from_iterable([fact] * params.draws for fact in facts))
    prompts = [prompt_ids(tokenizer, fact.question, thinking=thinking) for fact in asked]
    completions = sample(model, prompts, eos=eos, params=params)
    texts = tokenizer.batch_decode(completions, skip_special_tokens=True)
    judged = [
        judge(fact, text, thinking=thinking, ended=ids[-1] == eos)
        for fact, text, ids in zip(asked, texts, completions, strict=True)
    ]
    return [judged[start : start + params.draws] for start in range(0, len(judged), params.draws)]


def judge(fact: Fact, text: str, *, thinking: bool, ended: bool) -> Draw:
    """Split a completion's text into thought and answer."""
    match = (_THINK_ON if thinking else _THINK_OFF).fullmatch(text)
    if match is None or not ended:
        return Draw(fact, thought="", answer="", broken=True)
    return Draw(fact, thought=match[1], answer=match[2], broken=False)


def _count_polar(right: Sequence[Sequence[Draw]], wrong: Sequence[Sequence[Draw]]) -> int:
    """Questions with every draw of `right` right and every draw of `wrong` wrong."""
    count = 0
    for rights, wrongs in zip(right, wrong, strict=True):
        count += all(draw.right for draw in rights) and not any(draw.right for draw in wrongs)
    return count


def _edge_by_wording(draws: Sequence[Draw], probe: SegmentState) -> dict[str, float]:
    """The share of `probe` segments that a backtracking follows."""
    followed: dict[str, list[bool]] = {w.name: [] for w in WORDINGS}
    for d in draws:
        for state, after in pairwise(d.states):
            if state is probe:
                followed[d.fact.wording.name].append(after is SegmentState.BACKTRACKING)
    return {name: _share(values) for name, values in followed.items() if values}


def _acc_by_wording(draws: Sequence[Draw]) -> dict[str, float]:
    hits: dict[str, list[bool]] = {w.name: [] for w in WORDINGS}
    for d in draws:
        hits[d.fact.wording.name].append(d.right and d.thought_has_gold)
    return {name: _share(values) for name, values in hits.items() if values}


def _flat(draws: Sequence[Sequence[Draw]]) -> list[Draw]:
    return list(chain.from_iterable(draws))


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4)
