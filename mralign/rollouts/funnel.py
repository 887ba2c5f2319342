"""The funnel: how many rows each filter of the candidates let through, by data set and polarity.

What `candidates.judge` returned enters, with the number of questions that were there; one row a filter leaves. Up to
the verdict it counts questions, from there on trajectories. method.md §1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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


def count_funnel(
    candidates: Iterable[Candidate | Kept], rejects: Iterable[Reject], questions: Mapping[str, int]
) -> list[FunnelRow]:
    """Rows in and out of every filter, by data set and, from the verdict on, by polarity.

    `candidates`, `rejects`: what `judge` returned. `questions`: questions that entered, by data set; those `judge`
    never saw are the filter `not_generated`. Within a data set, each filter's rows_in is the one before's rows_out.
    Raises ValueError if more questions were judged than entered.
    """
    kept: dict[str, list[Candidate | Kept]] = defaultdict(list)
    for candidate in candidates:
        kept[candidate.dataset].append(candidate)
    dropped: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        dropped[reject.dataset].append(reject)
    rows: list[FunnelRow] = []
    for dataset in sorted({*questions, *kept, *dropped}):
        entered = questions.get(dataset, 0)
        rows += _of_dataset(dataset, kept=kept[dataset], rejects=dropped[dataset], entered=entered)
    return rows


def _of_dataset(
    dataset: str, *, kept: Sequence[Candidate | Kept], rejects: Sequence[Reject], entered: int
) -> Iterator[FunnelRow]:
    # A question that was given up for its first trajectory has no polarity: it is counted as a question.
    cut = [reject for reject in rejects if reject.reason in LENGTH_REASONS and reject.polarity is not None]
    dropped = Counter(reject.reason for reject in rejects)
    dropped -= Counter(reject.reason for reject in cut)
    decided = {(candidate.polarity, candidate.question_id) for candidate in kept}
    decided |= {(_polarity(reject), question_of(reject.row_id)) for reject in cut}
    judged = dropped.total() + len(decided)
    if judged > entered:
        raise ValueError(
            f"data set {dataset!r}: {entered} questions entered, but {judged} were judged; judge the "
            f"generations of those questions only, and count each question once"
        )
    dropped["not_generated"] = entered - judged
    left = entered
    for reason in _in_order(dropped):
        yield FunnelRow(dataset, reason, None, "questions", left, left - dropped[reason])
        left -= dropped[reason]
    questions_by_polarity = Counter(polarity for polarity, _ in decided)
    for polarity in (*SIGNED, Polarity.NEUTRAL):
        count = questions_by_polarity[polarity]
        if polarity == Polarity.NEUTRAL and not count:
            continue
        yield FunnelRow(dataset, "verdict", polarity, "questions", left, count)
        whole = sum(candidate.polarity == polarity for candidate in kept)
        too_long_or_short = Counter(reject.reason for reject in cut if reject.polarity == polarity)
        yield from _of_polarity(dataset, polarity, kept=whole, cut=too_long_or_short)


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


def _polarity(reject: Reject) -> Polarity:
    assert reject.polarity is not None, reject
    return reject.polarity
