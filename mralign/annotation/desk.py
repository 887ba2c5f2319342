"""All that is needed to annotate, resolved once on the driver and sent to whoever does the work.

A `RunConfig` enters `desk_of`; a `Desk` leaves: who sits in which role, with which taxonomy, at which engine. A table
of candidates becomes trajectories, trajectories become a part of schema ANNOTATIONS with its rejects and its tallies.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mralign.annotation.annotators import Annotator, ChatAnnotator, CueAnnotator
from mralign.annotation.cues import RuleBook, load_rule_book
from mralign.annotation.instruction import Trajectory, adjudicator_instruction, annotator_instruction
from mralign.annotation.panel import ADJUDICATOR, ANNOTATORS, ROLES, Hearing, Visit, hear, plan_visits, settle
from mralign.annotation.taxonomy import PAPER, Taxonomy, load_taxonomy
from mralign.asking.chats import ChatHouse, Speaker, speaker_of
from mralign.config import Annotation, RunConfig, resolve_path
from mralign.config import Annotator as AnnotatorConfig
from mralign.run.rejects import Reject

Tallies = dict[str, Counter[str]]


@dataclass(frozen=True)
class Desk:
    """By role: the annotator's name, and its speaker or its rule book; and how opinions are settled."""

    names: Mapping[str, str]
    speakers: Mapping[str, Speaker]
    books: Mapping[str, RuleBook]
    taxonomy: Taxonomy
    threshold: float
    show_answers: bool

    @property
    def visits(self) -> list[Visit]:
        """The engines that a trajectory visits; none where all are cue phrases."""
        keys = {role: self.speakers[role].engine_key if role in self.speakers else None for role in ROLES}
        return plan_visits(keys)

    @property
    def twins(self) -> bool:
        """Whether both annotators are asked the same and cannot but say the same."""
        asked = [self.speakers.get(role) for role in ANNOTATORS]
        first, second = (replace(s, name="", seed=0) if s and not s.decoding.temperature else None for s in asked)
        return first is not None and first == second

    def speaker(self, visit: Visit) -> Speaker:
        """One of the speakers who share the engine of a visit."""
        return next(s for role, s in self.speakers.items() if role in visit.roles)

    def seat(self, visit: Visit | None, *, house: ChatHouse | None) -> dict[str, Annotator]:
        """The annotators by role that are heard at a visit (None: everyone, all of them cue phrases)."""
        return {role: self._annotator(role, house=house) for role in (visit.roles if visit else ROLES)}

    def _annotator(self, role: str, *, house: ChatHouse | None) -> Annotator:
        name = self.names[role]
        if role in self.books:
            return CueAnnotator(name, book=self.books[role], taxonomy=self.taxonomy)
        assert house is not None
        chat = house.chat(self.speakers[role])
        return ChatAnnotator(name, chat=chat, taxonomy=self.taxonomy, show_answers=self.show_answers)


def roles_of(settings: Annotation) -> dict[str, AnnotatorConfig]:
    """The configured annotators by role."""
    return dict(zip(ROLES, (*settings.annotators, settings.adjudicator), strict=True))


def taxonomy_of(settings: Annotation) -> Taxonomy:
    """The taxonomy of this run: the paper's, or the user's file."""
    return load_taxonomy(resolve_path(settings.taxonomy)) if settings.taxonomy else PAPER


def desk_of(config: RunConfig) -> Desk:
    """The desk of a run. Reads rule books, the taxonomy, and the models' files for their digests."""
    settings = config.annotation
    roles = roles_of(settings)
    return Desk(
        names={role: annotator.name for role, annotator in roles.items()},
        speakers={role: speaker_of(a, config=config) for role, a in roles.items() if a.engine != "cues"},
        books={role: load_rule_book(resolve_path(a.rule_book)) for role, a in roles.items() if a.rule_book},
        taxonomy=taxonomy_of(settings),
        threshold=settings.threshold,
        show_answers=settings.show_answers,
    )


def instructions(taxonomy: Taxonomy) -> list[str]:
    """What every chat is told first: a changed wording is a changed annotation."""
    return [annotator_instruction(taxonomy), adjudicator_instruction(taxonomy)]


def trajectory_of(row: Mapping[str, Any]) -> Trajectory:
    """A row of schema CANDIDATES as annotators see it."""
    spans = zip(row["segment_start"], row["segment_end"], strict=True)
    segments = tuple(row["text"][start:end].strip() for start, end in spans)
    return Trajectory(row["row_id"], row["question"], tuple(row["answers"]), segments)


async def annotate_row(
    row: Mapping[str, Any], *, desk: Desk, hearing: Hearing, seated: Mapping[str, Annotator]
) -> dict[str, Any] | Reject:
    """A row of schema ANNOTATIONS from a candidate and what was heard of it before; `seated` are heard now."""
    trajectory = trajectory_of(row)
    await hear(trajectory, hearing=hearing, annotators=seated)
    settled = await settle(
        trajectory,
        hearing=hearing,
        adjudicator=seated[ADJUDICATOR],
        taxonomy=desk.taxonomy,
        threshold=desk.threshold,
    )
    if isinstance(settled, Reject):
        return settled
    return {n: row[n] for n in ("row_id", "question_id", "dataset", "polarity")} | settled


def annotate_by_cues(table: pa.Table, *, desk: Desk) -> tuple[list[dict[str, Any]], list[Reject]]:
    """Rows and rejects of a table of candidates whose annotators are all cue phrases."""
    seated = desk.seat(None, house=None)

    async def run() -> list[dict[str, Any] | Reject]:
        return [await annotate_row(row, desk=desk, hearing=Hearing(), seated=seated) for row in table.to_pylist()]

    done = asyncio.run(run())
    return [row for row in done if not isinstance(row, Reject)], [row for row in done if isinstance(row, Reject)]


def add_tallies(hearings: Iterable[Hearing]) -> Tallies:
    """The sum of what the hearings took, by role."""
    total: Tallies = {role: Counter() for role in ROLES}
    for hearing in hearings:
        for role, tally in hearing.tallies.items():
            total[role].update(tally)
    return total
