"""Knobs: what can be turned in a small world, and which thoughts its cause makes.

A small world is like the embedded one, but trained in seconds: a question names two syllables, of which the first one
leads to the right value and the second one to its rival, and every segment of a thought is a cue and the candidate it
holds. The settings and a kind of thought enter; blocks of states leave. In every world the states of a faulty thought
are, one for one, those of a clean thought: only what follows what differs, so counting states tells nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

from mralign.miniworld.world import Kind, SegmentState

LEADS = (
    SegmentState.CHAINING,
    SegmentState.EXPLANATION,
    SegmentState.CAUSAL_REASONING,
    SegmentState.ANALOGY,
    SegmentState.DECOMPOSITION,
    SegmentState.CATEGORIZATION,
)
HARMFUL = (SegmentState.SELF_VERIFICATION, SegmentState.EVALUATION, SegmentState.CASE_ANALYSIS)
HARMLESS = SegmentState.COMPARISON
PAIR = (SegmentState.SELF_VERIFICATION, SegmentState.EVALUATION)


class Cause(StrEnum):
    """What makes a backtracking take the rival."""

    EDGE = "edge"  # the state before it
    SECOND_ORDER = "second_order"  # the state before it, and the one before that
    PAIR = "pair"  # two states that the step before it has at once, neither of which does it alone


@dataclass(frozen=True)
class Knobs:
    """The settings of a small world. `harmful`: probes after which backtracking harms; `irrelevant`: states that lead
    to a probe and change nothing; `noise`: how often an annotator names another label; `style`: how much oftener a
    faulty thought is written in its second set of words."""

    seed: int
    examples: int = 150
    negatives: float = 0.4
    values: int = 30
    harm: float = 0.95
    harmful: int = 1
    irrelevant: int = 3
    noise: float = 0.1
    blocks: int = 3
    style: float = 0.0
    cause: Cause = Cause.EDGE

    def __post_init__(self) -> None:
        limits = {
            "examples": (4, 1600),
            "negatives": (0.05, 0.95),
            "values": (12, 60),
            "harm": (0.0, 1.0),
            "harmful": (1, len(HARMFUL)),
            "irrelevant": (2, len(LEADS)),
            "noise": (0.0, 0.4),
            "blocks": (3 if self.cause is Cause.PAIR else 2, 8),
            "style": (0.0, 1.0),
        }
        for name, (low, high) in limits.items():
            given = getattr(self, name)
            if not low <= given <= high:
                raise ValueError(f"{name} of a small world is {given}; allowed are {low} to {high}")


@dataclass(frozen=True)
class ThoughtBlock:
    """A state that leads to a probe, the probe (one state, or two at once), and whether backtracking follows."""

    lead: SegmentState
    probe: tuple[SegmentState, ...]
    back: bool


def draw_blocks(knobs: Knobs, *, kind: Kind, rng: random.Random) -> list[ThoughtBlock]:
    """The blocks of a thought, in random order; `kind` is CLEAN or FAULT."""
    fault = kind is Kind.FAULT
    if knobs.cause is Cause.SECOND_ORDER:
        blocks = _second_order(fault=fault)
    elif knobs.cause is Cause.PAIR:
        blocks = _pair(knobs, fault=fault, rng=rng)
    else:
        blocks = _edge(knobs, fault=fault, rng=rng)
    while len(blocks) < knobs.blocks:
        blocks.append(ThoughtBlock(_lead(knobs, rng), (rng.choice((*HARMFUL[: knobs.harmful], HARMLESS)),), back=False))
    rng.shuffle(blocks)
    return blocks


def _edge(knobs: Knobs, *, fault: bool, rng: random.Random) -> list[ThoughtBlock]:
    """One harmful probe and the harmless one; backtracking follows the first in a fault, the second otherwise."""
    harmful = rng.choice(HARMFUL[: knobs.harmful])
    return [
        ThoughtBlock(_lead(knobs, rng), (harmful,), back=fault),
        ThoughtBlock(_lead(knobs, rng), (HARMLESS,), back=not fault),
    ]


def _second_order(*, fault: bool) -> list[ThoughtBlock]:
    """The same probe behind either lead: every pair of neighbours is as frequent in a fault as elsewhere."""
    return [
        ThoughtBlock(LEADS[0], (HARMFUL[0],), back=fault),
        ThoughtBlock(LEADS[1], (HARMFUL[0],), back=not fault),
    ]


def _pair(knobs: Knobs, *, fault: bool, rng: random.Random) -> list[ThoughtBlock]:
    """Both states at once, and each alone; backtracking follows the pair in a fault, else one of the single states.
    Shared evenly among its base edges, the pair gives each single state what it has elsewhere."""
    chosen = rng.choice(PAIR)
    singles = [ThoughtBlock(_lead(knobs, rng), (state,), back=not fault and state is chosen) for state in PAIR]
    return [ThoughtBlock(_lead(knobs, rng), PAIR, back=fault), *singles]


def _lead(knobs: Knobs, rng: random.Random) -> SegmentState:
    return rng.choice(LEADS[: knobs.irrelevant])


def harms(block: ThoughtBlock, *, knobs: Knobs) -> bool:
    """Whether backtracking in this block may take the rival."""
    if not block.back:
        return False
    if knobs.cause is Cause.SECOND_ORDER:
        return block.lead is LEADS[0] and block.probe == HARMFUL[:1]
    if knobs.cause is Cause.PAIR:
        return block.probe == PAIR
    return block.probe[0] in HARMFUL[: knobs.harmful]
