"""Annotators are asked for their opinion of a trajectory, the adjudicator about what two opinions leave open.

A `Trajectory` enters; an `Opinion` (or the labels of the disputed steps) leaves, or a `Reject` that says why there is
none, with a tally of what it took. A chat is asked once, and once more with the error quoted if its reply cannot be
used; then the row is put aside with the raw reply (method.md §2a). Cue phrases and labellers of one's own answer at
once. A trajectory may be asked about at several engines, one after the other: `Opinions` holds what was said so far. No
Ray here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mralign.annotation.consensus import validate
from mralign.annotation.cues import RuleBook, adjudicate, annotate
from mralign.annotation.instruction import (
    AnnotatorInstruction,
    Trajectory,
    adjudication_messages,
    adjudicator_instruction,
)
from mralign.annotation.labeller import Labeller
from mralign.annotation.replies import (
    Opinion,
    adjudication_schema,
    annotation_schema,
    read_adjudication,
    read_annotation,
)
from mralign.annotation.resolved import ANNOTATORS, ROLES, ResolvedAnnotation, Roles
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.asking.chats import SharedEngine
from mralign.asking.interview import ask as ask_chat
from mralign.asking.interview import together
from mralign.asking.json_reply import Fault
from mralign.run.rejects import Reject
from mralign.serving.conversation import Chat, ChatRequest

Tallies = dict[str, Counter[str]]  # by role, what is named in TALLIED
Dispute = tuple[StepLabels, StepLabels]
Said = TypeVar("Said")

# What is counted of every annotator: trajectories asked about, those put aside, those that needed a second request;
# requests answered, those of them that an earlier run had paid for; tokens, and those of them that cost something now.
TALLIED = (
    "trajectories",
    "rejected",
    "repaired",
    "requests",
    "cached",
    "prompt_tokens",
    "completion_tokens",
    "prefix_tokens",
    "written_tokens",
    "fresh_prompt_tokens",
    "fresh_prefix_tokens",
    "fresh_written_tokens",
    "fresh_completion_tokens",
)


class CueAnnotator:
    """The cue phrases of a rule book."""

    def __init__(self, name: str, *, book: RuleBook, taxonomy: Taxonomy) -> None:
        self.name, self.book, self.taxonomy = name, book, taxonomy

    async def annotate(self, trajectory: Trajectory, *, tally: Counter[str]) -> Opinion | Reject:
        tally["trajectories"] += 1
        steps = annotate(trajectory.segments, book=self.book)
        fault = validate(steps, segments=len(trajectory.segments), taxonomy=self.taxonomy)
        if fault is None:
            return Opinion(tuple(steps))
        tally["rejected"] += 1
        return Reject(trajectory.row_id, "bad_labels", f"annotator {self.name}: {fault}", trajectory.question)

    async def adjudicate(
        self, trajectory: Trajectory, disputed: Sequence[Dispute], *, tally: Counter[str]
    ) -> tuple[StepLabels, ...] | Reject:
        tally["trajectories"] += 1
        spans = [(a.first_segment, a.last_segment) for a, _ in disputed]
        return tuple(adjudicate(spans, segments=trajectory.segments, book=self.book))


class DistilledAnnotator:
    """A labeller that has learned from a panel."""

    def __init__(self, name: str, *, labeller: Labeller) -> None:
        self.name, self.labeller = name, labeller

    async def annotate(self, trajectory: Trajectory, *, tally: Counter[str]) -> Opinion | Reject:
        tally["trajectories"] += 1
        return self.labeller.annotate(trajectory.segments)

    async def adjudicate(
        self, trajectory: Trajectory, disputed: Sequence[Dispute], *, tally: Counter[str]
    ) -> tuple[StepLabels, ...] | Reject:
        tally["trajectories"] += 1
        spans = [(a.first_segment, a.last_segment) for a, _ in disputed]
        return tuple(self.labeller.adjudicate(trajectory.segments, spans=spans))


class ChatAnnotator:
    """A chat model; its instructions are made once."""

    def __init__(self, name: str, *, chat: Chat, instruction: AnnotatorInstruction) -> None:
        self.name, self.chat, self.instruction = name, chat, instruction
        self.taxonomy, self.show_answers = instruction.taxonomy, instruction.show_answers
        self.adjudicating = adjudicator_instruction(instruction.taxonomy)

    async def annotate(self, trajectory: Trajectory, *, tally: Counter[str]) -> Opinion | Reject:
        segments = len(trajectory.segments)
        asked = self.instruction.messages(trajectory)
        request = ChatRequest(trajectory.row_id, asked, annotation_schema(segments=segments, taxonomy=self.taxonomy))
        return await self._ask(
            trajectory,
            request,
            read=lambda text: read_annotation(text, segments=segments, taxonomy=self.taxonomy),
            tally=tally,
        )

    async def adjudicate(
        self, trajectory: Trajectory, disputed: Sequence[Dispute], *, tally: Counter[str]
    ) -> tuple[StepLabels, ...] | Reject:
        spans = [(a.first_segment, a.last_segment) for a, _ in disputed]
        asked = adjudication_messages(
            trajectory, disputed, instruction=self.adjudicating, show_answers=self.show_answers
        )
        schema = adjudication_schema(disputes=len(spans), taxonomy=self.taxonomy)
        return await self._ask(
            trajectory,
            ChatRequest(trajectory.row_id, asked, schema),
            read=lambda text: read_adjudication(text, spans=spans, taxonomy=self.taxonomy),
            tally=tally,
        )

    async def _ask(
        self,
        trajectory: Trajectory,
        request: ChatRequest,
        *,
        read: Callable[[str], Said | Fault],
        tally: Counter[str],
    ) -> Said | Reject:
        """The reply as `read` reads it, at the second attempt at the latest."""
        tally["trajectories"] += 1
        who, question = f"annotator {self.name}", trajectory.question
        said = await ask_chat(self.chat, request, read=read, tally=tally, who=who, unanswered=question)
        if isinstance(said, Reject):
            tally["rejected"] += 1
        return said


AskedAnnotator = ChatAnnotator | CueAnnotator | DistilledAnnotator


def annotators_at(
    resolved: ResolvedAnnotation, roles: Roles = ROLES, *, engine: SharedEngine | None = None
) -> dict[str, AskedAnnotator]:
    """Those who are asked at one engine, by role; `engine` None: none of them is a chat model."""
    return {role: _annotator(resolved, role, engine=engine) for role in roles}


def _annotator(resolved: ResolvedAnnotation, role: str, *, engine: SharedEngine | None) -> AskedAnnotator:
    name, taxonomy = resolved.names[role], resolved.taxonomy
    if role in resolved.books:
        return CueAnnotator(name, book=resolved.books[role], taxonomy=taxonomy)
    if role in resolved.labellers:
        return DistilledAnnotator(name, labeller=resolved.labellers[role])
    assert engine is not None
    chat = engine.chat(resolved.chats[role])
    return ChatAnnotator(name, chat=chat, instruction=resolved.instruction)


def _no_tallies() -> Tallies:
    return {role: Counter() for role in ROLES}


@dataclass
class Opinions:
    """What was said of one trajectory so far: by role an opinion or why there is none, and what asking took."""

    by_role: dict[str, Opinion | Reject] = field(default_factory=dict)
    tallies: Tallies = field(default_factory=_no_tallies)

    @property
    def reject(self) -> Reject | None:
        """Why the trajectory is put aside; None while it is not."""
        return next((said for said in self.by_role.values() if isinstance(said, Reject)), None)

    def to_json(self) -> Any:
        """As a JSON value."""
        return _OPINIONS.dump_python(self)

    @staticmethod
    def from_json(value: Any) -> Opinions:
        return _OPINIONS.validate_python(value)


_OPINIONS = TypeAdapter(Opinions)


async def ask(trajectory: Trajectory, annotators: Mapping[str, AskedAnnotator], *, opinions: Opinions) -> None:
    """Add what `annotators` (by role) say to `opinions`; nobody is asked about a trajectory that is put aside.

    Where one is told to stop (calls.Stopped), the other comes to its end first: its reply is paid for.
    """
    if opinions.reject is not None:
        return
    roles = [role for role in ANNOTATORS if role in annotators]
    said = await together(annotators[role].annotate(trajectory, tally=opinions.tallies[role]) for role in roles)
    for role, one in zip(roles, said, strict=True):
        opinions.by_role[role] = replace(one, role=role) if isinstance(one, Reject) else one
