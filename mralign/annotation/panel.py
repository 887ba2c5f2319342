"""Two annotators and an adjudicator label one trajectory; who of them sits at which engine.

The speakers of a run enter `plan_visits`, and the engines that a trajectory visits leave, in order: each once, however
many annotators share it. At each the annotators who sit there are heard; at the last one the opinions are consolidated,
what stays open is adjudicated, and a row of schema ANNOTATIONS (or a reject) leaves. What was heard travels as JSON.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from mralign.annotation.annotators import Annotator
from mralign.annotation.consensus import consensus, disputes
from mralign.annotation.instruction import Trajectory
from mralign.annotation.replies import Opinion
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import Taxonomy
from mralign.run.rejects import Reject

ANNOTATORS = ("first", "second")
ADJUDICATOR = "adjudicator"
ROLES = (*ANNOTATORS, ADJUDICATOR)


@dataclass(frozen=True)
class Visit:
    """One engine that every trajectory visits, and the roles heard there."""

    engine_key: str
    roles: tuple[str, ...]


@dataclass
class Hearing:
    """What has been heard of one trajectory: by role an opinion or why there is none, and what it took."""

    opinions: dict[str, Opinion | Reject] = field(default_factory=dict)
    tallies: dict[str, Counter[str]] = field(default_factory=lambda: {role: Counter() for role in ROLES})

    @property
    def reject(self) -> Reject | None:
        return next((said for said in self.opinions.values() if isinstance(said, Reject)), None)

    def to_json(self) -> str:
        said = {role: [type(value).__name__, asdict(value)] for role, value in self.opinions.items()}
        return json.dumps({"opinions": said, "tallies": self.tallies})

    @staticmethod
    def from_json(text: str) -> Hearing:
        raw = json.loads(text)
        opinions = {role: _restore(kind, value) for role, (kind, value) in raw["opinions"].items()}
        return Hearing(opinions, {role: Counter(counts) for role, counts in raw["tallies"].items()})


def _restore(kind: str, value: dict[str, Any]) -> Opinion | Reject:
    if kind == Reject.__name__:
        return Reject(**value)
    steps = [
        StepLabels(s["first_segment"], s["last_segment"], tuple(s["labels"]), tuple(s["confidences"]))
        for s in value["steps"]
    ]
    return Opinion(tuple(steps), value["confidence"])


def plan_visits(engine_keys: Mapping[str, str | None]) -> list[Visit]:
    """The engines in the order of the visit; `engine_keys` by role, None for the cue phrases, which need no engine.

    The last visit is where adjudication happens: at the adjudicator's engine, or, if it has none, at the last
    annotator's. The cue phrases are heard there as well. No visit where nobody needs an engine.
    """
    keys = {role: key for role, key in engine_keys.items() if key is not None}
    if not keys:
        return []
    last = keys.get(ADJUDICATOR) or keys[max(keys, key=ROLES.index)]
    order = [key for key in dict.fromkeys(keys[role] for role in ANNOTATORS if role in keys) if key != last]
    return [Visit(key, tuple(r for r in ROLES if keys.get(r, last) == key)) for key in (*order, last)]


async def hear(trajectory: Trajectory, *, hearing: Hearing, annotators: Mapping[str, Annotator]) -> None:
    """Add the opinions of `annotators` (by role) to the hearing; nobody is asked about a trajectory put aside."""
    if hearing.reject is not None:
        return
    asked = [role for role in ANNOTATORS if role in annotators]
    said = await asyncio.gather(*(annotators[role].annotate(trajectory, tally=hearing.tallies[role]) for role in asked))
    hearing.opinions.update(zip(asked, said, strict=True))


async def settle(
    trajectory: Trajectory, *, hearing: Hearing, adjudicator: Annotator, taxonomy: Taxonomy, threshold: float
) -> dict[str, Any] | Reject:
    """The columns of ANNOTATIONS that follow from what was heard, or why the trajectory is put aside."""
    first, second = (hearing.opinions.get(role) for role in ANNOTATORS)
    if hearing.reject is not None:
        return hearing.reject
    assert isinstance(first, Opinion) and isinstance(second, Opinion)
    segments = len(trajectory.segments)
    opened = disputes(first.steps, second.steps, segments=segments, taxonomy=taxonomy, threshold=threshold)
    verdicts: Sequence[StepLabels] | Reject = ()
    if opened:
        verdicts = await adjudicator.adjudicate(trajectory, opened, tally=hearing.tallies[ADJUDICATOR])
    if isinstance(verdicts, Reject):
        return verdicts
    steps = consensus(
        first.steps,
        second.steps,
        segments=segments,
        taxonomy=taxonomy,
        adjudicate=lambda spans: verdicts,
        threshold=threshold,
    )
    return {
        "segments": segments,
        "confidence_a": first.confidence,
        "confidence_b": second.confidence,
        "steps": [asdict(step) for step in steps],
    }
