"""What annotators say of the thoughts of a small world, and the hash of such a world.

Candidates enter; steps leave, on which two noisy annotators and an adjudicator have come to a consensus. The
hash is of all that a world says of itself: its knobs, its questions, and thoughts as its annotators see them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product

import pyarrow as pa

from mralign.annotation.consensus import consensus
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.miniworld.knobs import Knobs
from mralign.miniworld.small_world import SmallWorld, cues, draw_thought
from mralign.miniworld.world import STATE_OF_CUE, Kind
from mralign.rows import Candidate, to_table
from mralign.rows.schema import AnnotatedStep, AnnotatedTrajectory


def annotate(segments: Sequence[str], *, noise: float, rng: random.Random) -> list[StepLabels]:
    """An annotator's steps, one a segment: the states of its cues, each with odds `noise` another label instead."""
    steps = []
    for place, text in enumerate(segments):
        true = list(dict.fromkeys(STATE_OF_CUE[word].value for word in text.split() if word in STATE_OF_CUE))
        said = [rng.choice(PAPER.labels) if rng.random() < noise else label for label in true[:2]]
        labels = tuple(dict.fromkeys(said))
        steps.append(StepLabels(place, place, labels, tuple(rng.uniform(6, 10) for _ in labels)))
    return steps


def label(candidates: Sequence[Candidate], *, knobs: Knobs) -> pa.Table:
    """Two annotators and an adjudicator, all as noisy, come to a consensus: a table of schema.ANNOTATIONS."""
    rows = []
    for one in candidates:
        texts = [one.text[a:b] for a, b in zip(one.segment_start, one.segment_end, strict=True)]
        a, b, third = (
            annotate(texts, noise=knobs.noise, rng=random.Random(f"{knobs.seed} {one.row_id} {who}")) for who in "abc"
        )

        def adjudicate(spans: Sequence[tuple[int, int]], said: Sequence[StepLabels] = third) -> list[StepLabels]:
            return [said[first] for first, _ in spans]

        steps = consensus(a, b, segments=len(texts), adjudicate=adjudicate)
        given = [AnnotatedStep(**json.loads(json.dumps(vars(step)))) for step in steps]
        rows.append(
            AnnotatedTrajectory(
                one.row_id, one.question_id, one.dataset, one.polarity, len(texts), None, None, steps=given
            )
        )
    return to_table(rows, AnnotatedTrajectory)


def world_hash(world: SmallWorld) -> str:
    """A digest of what the world is: 12 hex digits."""
    parts = [json.dumps(asdict(world.knobs), sort_keys=True), *map(world.questions_text, world.splits)]
    rng = random.Random(0)
    for fact, kind in product(world.splits["test"][:50], (Kind.CLEAN, Kind.FAULT)):
        segments = draw_thought(fact, kind=kind, knobs=world.knobs, rng=rng)
        texts = [" ".join(cues(one.states, style=rng.randrange(2))) for one in segments]
        parts.append(f"{segments} {annotate(texts, noise=world.knobs.noise, rng=rng)}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
