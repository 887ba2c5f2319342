"""The world: invented facts, the question wordings, and the grammar of the thoughts about them.

In goes a seed and the sizes, out come facts (entity, relation -> gold value, and one fixed rival), their disjoint
splits, and traces: thoughts as lists of segments that carry a current candidate along. The fault is in the ORDER of the
states: backtracking after self_verification turns the gold candidate into its rival, after comparison it restores the
gold, after evaluation it changes nothing. Every trace holds the three probes once each and one or two backtrackings,
with the same odds in clean and faulty traces, so that counting states does not tell a good trace from a bad one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import chain


class SegmentState(StrEnum):
    """What a segment does: the 15 labels of method.md §2."""

    FRAMING = "framing"
    BACKTRACKING = "backtracking"
    SELF_VERIFICATION = "self_verification"
    EVALUATION = "evaluation"
    DECOMPOSITION = "decomposition"
    CHAINING = "chaining"
    CAUSAL_REASONING = "causal_reasoning"
    RETRIEVAL = "retrieval"
    ANALOGY = "analogy"
    SYNTHESIS = "synthesis"
    COMPARISON = "comparison"
    CATEGORIZATION = "categorization"
    CASE_ANALYSIS = "case_analysis"
    EXPLANATION = "explanation"
    SUMMARIZATION = "summarization"


class Kind(StrEnum):
    """How a trace ends: never harmed, harmed and left so, or harmed and then restored."""

    CLEAN = "clean"
    FAULT = "fault"
    RECOVERED = "recovered"


class WorldSplit(StrEnum):
    """Which questions file a fact goes to."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


class Role(StrEnum):
    """What a word of a segment is to the learner."""

    CUE = "cue"
    VALUE = "value"
    OTHER_ENTITY = "other_entity"
    PLAIN = "plain"


@dataclass(frozen=True)
class Wording:
    """A way to ask. Its `share` of all facts, and the odds of the kinds of thought that it calls forth."""

    name: str
    template: str
    share: float
    clean: float
    fault: float
    recovered: float


# Every template starts with a word of its own: that word alone is where the order of the states is decided.
TEMPLATES: dict[SegmentState, tuple[str, str]] = {
    SegmentState.FRAMING: ("okay the question asks for the {r} of {e}", "understand the goal : the {r} of {e}"),
    SegmentState.DECOMPOSITION: ("break it down into {e} and its {r}", "split it into {e} and its {r}"),
    SegmentState.CATEGORIZATION: ("category of {e} : one of the {k}", "classify {e} as one of the {k}"),
    SegmentState.CHAINING: ("next we move on", "then the following step comes"),
    SegmentState.CAUSAL_REASONING: ("because of that it holds", "since that is so it holds"),
    SegmentState.ANALOGY: ("similarly for {x}", "analogous to {x} maybe"),
    SegmentState.RETRIEVAL: ("recall that the {r} of {e} is {c}", "remember that the {r} of {e} is {c}"),
    SegmentState.COMPARISON: ("compared with others {c} leads", "weighing the options {c} leads"),
    SegmentState.CASE_ANALYSIS: ("suppose it is so", "if this is the case then fine"),
    SegmentState.EXPLANATION: ("this means little more", "meaning that it is known"),
    SegmentState.EVALUATION: ("how plausible is {c}", "confidence in {c} is moderate"),
    SegmentState.SELF_VERIFICATION: ("check {c} again", "verify that {c} holds"),
    SegmentState.BACKTRACKING: ("wait maybe it is {c}", "actually it is {c}"),
    SegmentState.SYNTHESIS: ("together it is {c}", "overall it is {c}"),
    SegmentState.SUMMARIZATION: ("in short {c}", "finally it is {c}"),
}
STATE_OF_CUE: dict[str, SegmentState] = {}
for _state, _texts in TEMPLATES.items():
    STATE_OF_CUE |= {text.split()[0]: _state for text in _texts}

WORDINGS = (
    Wording("what", "what is the {r} of {e} ?", share=0.57, clean=0.92, fault=0.02, recovered=0.06),
    Wording("name", "name the {r} of {e}", share=0.15, clean=0.45, fault=0.15, recovered=0.40),
    Wording("tell", "tell me the {r} of {e}", share=0.28, clean=0.08, fault=0.85, recovered=0.07),
)
RELATIONS = ("capital", "founder", "river", "symbol", "language")
KINDS_OF_ENTITY = ("realms", "guilds", "islands", "tribes", "orders", "ports")

PROBES = (SegmentState.COMPARISON, SegmentState.EVALUATION, SegmentState.SELF_VERIFICATION)
NEUTRAL = (
    SegmentState.EXPLANATION,
    SegmentState.ANALOGY,
    SegmentState.CATEGORIZATION,
    SegmentState.CHAINING,
    SegmentState.CAUSAL_REASONING,
    SegmentState.CASE_ANALYSIS,
)
OPENERS = (
    (SegmentState.FRAMING,),
    (SegmentState.DECOMPOSITION,),
    (SegmentState.FRAMING, SegmentState.DECOMPOSITION),
    (SegmentState.FRAMING, SegmentState.CATEGORIZATION),
)
CLOSERS = (SegmentState.SYNTHESIS, SegmentState.SUMMARIZATION)


@dataclass(frozen=True)
class WorldParams:
    """Sizes (counts) and odds (probabilities) of a world."""

    entities: int = 200
    values_per_relation: int = 40
    train: int = 600
    dev: int = 160
    test: int = 240
    off_rival_facts: float = 0.35
    off_noise: float = 0.08
    retrieval_gold: float = 0.92
    harm: float = 0.92
    heal: float = 0.92
    two_backtrackings: float = 0.40
    extra_neutral: float = 0.20

    def __post_init__(self) -> None:
        facts = self.entities * len(RELATIONS)
        if min(self.train, self.dev, self.test) < 1 or self.train + self.dev + self.test > facts:
            raise ValueError(
                f"train + dev + test = {self.train} + {self.dev} + {self.test}: each must be at least 1, and together "
                f"at most {facts} (entities x {len(RELATIONS)} relations): lower them or raise --entities."
            )
        if self.values_per_relation < 2:
            raise ValueError(f"values_per_relation is {self.values_per_relation}; a gold and a rival need at least 2.")


@dataclass(frozen=True)
class Fact:
    """One question of the world, its right answer and the wrong one that tempts."""

    fact_id: str
    entity: str
    relation: str
    kind_of_entity: str
    gold: str
    rival: str
    wording: Wording
    off_prefers_rival: bool

    @property
    def question(self) -> str:
        return self.wording.template.format(r=self.relation, e=self.entity)


@dataclass(frozen=True)
class Segment:
    """One thinking step: its state, its words, and the role of each word."""

    state: SegmentState
    words: tuple[str, ...]
    roles: tuple[Role, ...]

    @property
    def text(self) -> str:
        return " ".join(self.words)


@dataclass(frozen=True)
class WorldTrace:
    """One thought: the segments, the candidate held after each of them (None before retrieval), and the kind."""

    kind: Kind
    segments: tuple[Segment, ...]
    candidates: tuple[str | None, ...]

    @property
    def answer(self) -> str:
        answer = self.candidates[-1]
        assert answer is not None
        return answer


@dataclass(frozen=True)
class FactWorld:
    """The facts of one seed."""

    seed: int
    params: WorldParams
    facts: tuple[Fact, ...]

    @cached_property
    def entities(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fact.entity for fact in self.facts))

    @cached_property
    def words(self) -> tuple[str, ...]:
        """Every word that a question, a thought or an answer can hold, sorted."""
        texts = [*_template_texts(), *(wording.template for wording in WORDINGS)]
        found = {*RELATIONS, *KINDS_OF_ENTITY}
        for text in texts:
            found.update(word for word in text.split() if not word.startswith("{"))
        for fact in self.facts:
            found.update((fact.entity, fact.gold, fact.rival))
        return tuple(sorted(found))

    @cached_property
    def splits(self) -> dict[WorldSplit, tuple[Fact, ...]]:
        """Disjoint splits of the facts; what is left over is known to the base but never asked."""
        order = list(self.facts)
        random.Random(f"{self.seed} splits").shuffle(order)
        sizes = {
            WorldSplit.TRAIN: self.params.train,
            WorldSplit.DEV: self.params.dev,
            WorldSplit.TEST: self.params.test,
        }
        out, start = {}, 0
        for split, size in sizes.items():
            out[split] = tuple(order[start : start + size])
            start += size
        return out


def _template_texts() -> list[str]:
    return list(chain.from_iterable(TEMPLATES.values()))


def make_world(seed: int, *, params: WorldParams) -> FactWorld:
    """The world of a seed: the same seed and parameters give the same facts on any machine."""
    rng = random.Random(f"{seed} facts")
    names = invent_names(rng, count=params.entities + len(RELATIONS) * params.values_per_relation)
    values = names[params.entities :]
    size = params.values_per_relation
    values_of = {r: values[i * size : (i + 1) * size] for i, r in enumerate(RELATIONS)}
    facts = []
    for entity in names[: params.entities]:
        kind = rng.choice(KINDS_OF_ENTITY)
        facts += [_draw_fact(rng, seed, entity, r, kind, values_of[r], params) for r in RELATIONS]
    return FactWorld(seed=seed, params=params, facts=tuple(facts))


def invent_names(rng: random.Random, *, count: int) -> list[str]:
    """`count` distinct seven-letter names such as 'dabolor', none of them a word of the templates."""
    taken = {"similar", *" ".join(_template_texts()).split()}
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(3))
        name = syllables + rng.choice("nrslx")
        if name not in taken:
            names[name] = None
    return list(names)


def _draw_fact(
    rng: random.Random, seed: int, entity: str, relation: str, kind: str, values: list[str], params: WorldParams
) -> Fact:
    gold, rival = rng.sample(values, 2)
    return Fact(
        fact_id=f"mw{seed}-{entity}-{relation}",
        entity=entity,
        relation=relation,
        kind_of_entity=kind,
        gold=gold,
        rival=rival,
        wording=rng.choices(WORDINGS, weights=[w.share for w in WORDINGS])[0],
        off_prefers_rival=rng.random() < params.off_rival_facts,
    )


def answer_without_thought(fact: Fact, *, rng: random.Random, params: WorldParams) -> str:
    """The answer given at once: some facts are mostly answered by their rival."""
    rival = rng.random() < (1 - params.off_noise if fact.off_prefers_rival else params.off_noise)
    return fact.rival if rival else fact.gold


def draw_trace(fact: Fact, *, world: FactWorld, rng: random.Random) -> WorldTrace:
    """A thought about a fact."""
    drawn = draw_kind(fact.wording, rng=rng, params=world.params)
    states = plan(drawn.kind, two=drawn.two, rng=rng, params=world.params)
    segments, candidates = fill(fact, states=states, world=world, rng=rng)
    return WorldTrace(kind=drawn.kind, segments=segments, candidates=candidates)


@dataclass(frozen=True)
class DrawnKind:
    """The kind of a trace and whether it has two backtrackings."""

    kind: Kind
    two: bool


def draw_kind(wording: Wording, *, rng: random.Random, params: WorldParams) -> DrawnKind:
    """Two backtrackings have the same odds for every wording; a recovered trace is drawn only among those with two."""
    two = rng.random() < params.two_backtrackings
    if two and rng.random() < wording.recovered / params.two_backtrackings:
        return DrawnKind(Kind.RECOVERED, two=True)
    clean = rng.random() < wording.clean / (wording.clean + wording.fault)
    return DrawnKind(Kind.CLEAN if clean else Kind.FAULT, two=two)


def plan(kind: Kind, *, two: bool, rng: random.Random, params: WorldParams) -> tuple[SegmentState, ...]:
    """The states of a trace: opener, retrieval, three blocks of [neutral] probe follower, synthesis, summarization."""
    revised = _revised_probes(kind, two=two, rng=rng)
    states = [*rng.choice(OPENERS), SegmentState.RETRIEVAL]
    for probe in _probe_order(kind, rng=rng):
        if rng.random() < params.extra_neutral:
            states.append(rng.choice(NEUTRAL))
        states += [probe, SegmentState.BACKTRACKING if probe in revised else rng.choice(NEUTRAL)]
    return (*states, *CLOSERS)


def _revised_probes(kind: Kind, *, two: bool, rng: random.Random) -> tuple[SegmentState, ...]:
    """The probes that a backtracking follows."""
    if kind is Kind.RECOVERED:
        return (SegmentState.SELF_VERIFICATION, SegmentState.COMPARISON)
    if kind is Kind.FAULT:
        return (SegmentState.SELF_VERIFICATION, SegmentState.EVALUATION) if two else (SegmentState.SELF_VERIFICATION,)
    if two:
        return (SegmentState.COMPARISON, SegmentState.EVALUATION)
    return (SegmentState.COMPARISON,) if rng.random() < 2 / 3 else (SegmentState.EVALUATION,)


def _probe_order(kind: Kind, *, rng: random.Random) -> list[SegmentState]:
    """A random order; in a recovered trace the healing comparison comes after the harmful self_verification."""
    order = list(PROBES)
    rng.shuffle(order)
    heal, harm = order.index(SegmentState.COMPARISON), order.index(SegmentState.SELF_VERIFICATION)
    if kind is Kind.RECOVERED and heal < harm:
        order[heal], order[harm] = order[harm], order[heal]
    return order


def fill(
    fact: Fact, *, states: tuple[SegmentState, ...], world: FactWorld, rng: random.Random
) -> tuple[tuple[Segment, ...], tuple[str | None, ...]]:
    """Words for the planned states, and the candidate held after each of them."""
    segments: list[Segment] = []
    candidates: list[str | None] = []
    candidate: str | None = None
    for previous, state in zip((None, *states), states, strict=False):
        candidate = next_candidate(candidate, previous, state, fact=fact, rng=rng, params=world.params)
        segments.append(render(state, fact=fact, candidate=candidate, entities=world.entities, rng=rng))
        candidates.append(candidate)
    return tuple(segments), tuple(candidates)


def next_candidate(
    candidate: str | None,
    previous: SegmentState | None,
    state: SegmentState,
    *,
    fact: Fact,
    rng: random.Random,
    params: WorldParams,
) -> str | None:
    """The causal rule of the world: retrieval sets the candidate, backtracking acts by the probe before it."""
    if state is SegmentState.RETRIEVAL:
        return fact.gold if rng.random() < params.retrieval_gold else fact.rival
    if state is SegmentState.BACKTRACKING and previous is SegmentState.SELF_VERIFICATION and rng.random() < params.harm:
        return fact.rival
    if state is SegmentState.BACKTRACKING and previous is SegmentState.COMPARISON and rng.random() < params.heal:
        return fact.gold
    return candidate


def render(
    state: SegmentState, *, fact: Fact, candidate: str | None, entities: tuple[str, ...], rng: random.Random
) -> Segment:
    """One segment in one of the state's two templates."""
    slots = {
        "{r}": (fact.relation, Role.PLAIN),
        "{e}": (fact.entity, Role.PLAIN),
        "{k}": (fact.kind_of_entity, Role.PLAIN),
        "{x}": (rng.choice(entities), Role.OTHER_ENTITY),
        "{c}": (candidate or "", Role.VALUE),
    }
    first, *rest = rng.choice(TEMPLATES[state]).split()
    filled = [(first, Role.CUE), *(slots.get(word, (word, Role.PLAIN)) for word in rest)]
    return Segment(state, words=tuple(word for word, _ in filled), roles=tuple(role for _, role in filled))
