"""The funnel: how many rows each filter of the candidates let through, by data set and polarity.

What `candidates.judge` returned enters, with the number of questions that were there; one row a filter leaves. Up to
the verdict it counts questions, from there on trajectories. Parts are counted apart and added. method.md §1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mralign.rollouts.candidates import LENGTH_REASONS
from mralign.rows import SIGNED, Candidate, Polarity, Reject, question_of


@dataclass(frozen=True)
class Kept:
    """What the funnel needs to know of a candidate."""

    dataset: str
    polarity: Polarity
    question_id: str


@dataclass(frozen=True)
class FunnelRow:
    """Rows in and out of one filter. `polarity` is None before the verdict; `unit` is questions or trajectories."""

    dataset: str
    filter: str
    polarity: Polarity | None
    unit: str
    rows_in: int
    rows_out: int


@dataclass
class Funnel:
    """What became of the questions of one data set. Those of two lots of questions are added."""

    entered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)  # questions, by reason
    decided: Counter[Polarity] = field(default_factory=Counter)  # questions
    kept: Counter[Polarity] = field(default_factory=Counter)  # trajectories
    cut: Counter[tuple[Polarity, str]] = field(default_factory=Counter)  # trajectories, by reason too

    def __iadd__(self, other: Funnel) -> Funnel:
        self.entered += other.entered
        self.dropped += other.dropped
        self.decided += other.decided
        self.kept += other.kept
        self.cut += other.cut
        return self


def count_funnel(
    candidates: Iterable[Candidate | Kept], rejects: Iterable[Reject], questions: Mapping[str, int]
) -> list[FunnelRow]:
    """Rows in and out of every filter, by data set and, from the verdict on, by polarity.

    `candidates`, `rejects`: what `judge` returned. `questions`: questions that entered, by data set; those `judge`
    never saw are the filter `not_generated`. Within a data set, each filter's rows_in is the one before's rows_out.
    Raises ValueError if more questions were judged than entered.
    """
    return funnel_rows(funnels(candidates, rejects, questions))


def funnels(
    candidates: Iterable[Candidate | Kept], rejects: Iterable[Reject], questions: Mapping[str, int]
) -> dict[str, Funnel]:
    """By data set what became of the questions of some parts: all that `judge` returned for them."""
    found: dict[str, Funnel] = defaultdict(Funnel)
    decided: set[tuple[str, Polarity, str]] = set()
    for dataset, entered in questions.items():
        found[dataset].entered += entered
    for candidate in candidates:
        found[candidate.dataset].kept[candidate.polarity] += 1
        decided.add((candidate.dataset, candidate.polarity, candidate.question_id))
    for reject in rejects:
        if reject.reason in LENGTH_REASONS and reject.polarity is not None:
            found[reject.dataset].cut[reject.polarity, reject.reason] += 1
            decided.add((reject.dataset, reject.polarity, question_of(reject.row_id)))
        else:  # with a question that was given up for its first trajectory: it has no polarity
            found[reject.dataset].dropped[reject.reason] += 1
    for dataset, polarity, _ in decided:
        found[dataset].decided[polarity] += 1
    return dict(found)


def add_funnels(several: Iterable[Mapping[str, Funnel]]) -> dict[str, Funnel]:
    """The sum of what `funnels` returned for parts that have no question in common."""
    total: dict[str, Funnel] = defaultdict(Funnel)
    for found in several:
        for dataset, funnel in found.items():
            total[dataset] += funnel
    return dict(total)


def funnel_rows(found: Mapping[str, Funnel]) -> list[FunnelRow]:
    """As `count_funnel`, of what is counted already."""
    rows: list[FunnelRow] = []
    for dataset in sorted(found):
        rows += _of_dataset(dataset, found[dataset])
    return rows


def _of_dataset(dataset: str, found: Funnel) -> Iterator[FunnelRow]:
    judged = found.dropped.total() + found.decided.total()
    if judged > found.entered:
        raise ValueError(
            f"data set {dataset!r}: {found.entered} questions entered, but {judged} were judged; judge the "
            f"generations of those questions only, and count each question once"
        )
    dropped = found.dropped | Counter(not_generated=found.entered - judged)
    left = found.entered
    for reason in _in_order(dropped):
        yield FunnelRow(dataset, reason, None, "questions", left, left - dropped[reason])
        left -= dropped[reason]
    for polarity in (*SIGNED, Polarity.NEUTRAL):
        count = found.decided[polarity]
        if polarity == Polarity.NEUTRAL and not count:
            continue
        yield FunnelRow(dataset, "verdict", polarity, "questions", left, count)
        too_long_or_short = {reason: found.cut[polarity, reason] for reason in LENGTH_REASONS}
        yield from _of_polarity(dataset, polarity, kept=found.kept[polarity], cut=too_long_or_short)


def _in_order(dropped: Mapping[str, int]) -> list[str]:
    """The filters up to the verdict in the order in which a question meets them."""
    first, last = ["not_generated", "missing_draw"], ["undecided"]
    return [*first, *sorted(set(dropped) - {*first, *last}), *last]


def _of_polarity(dataset: str, polarity: Polarity, *, kept: int, cut: Mapping[str, int]) -> Iterator[FunnelRow]:
    """The length filters of one polarity, and what they leave."""
    left = kept + sum(cut.values())
    for reason in LENGTH_REASONS:
        lost = cut.get(reason, 0)
        yield FunnelRow(dataset, reason, polarity, "trajectories", left, left - lost)
        left -= lost
    yield FunnelRow(dataset, "kept", polarity, "trajectories", left, left)
