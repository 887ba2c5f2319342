"""Stage `open_labels`, of the job that discovers a taxonomy: a sample of candidates is labelled in open vocabulary.

Candidates enter; parts of schema OPEN_LABELS leave, a bad row as a reject. It stands beside the run, not in it: nothing
of the run depends on it. No arithmetic lives here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from mralign.annotation.desk import trajectory_of
from mralign.annotation.discovery import check_installed, name_counts
from mralign.annotation.instruction import Trajectory
from mralign.annotation.open_interview import label_openly
from mralign.annotation.open_labels import INSTRUCTION, sample_ids
from mralign.asking.chats import asking_faults, asking_workers, check_speaker, open_chat, speaker_of
from mralign.config import Annotator, RunConfig, named
from mralign.rows.schema import CANDIDATES, OPEN_LABELS
from mralign.run.placement import Fault, Workers
from mralign.run.stage import Context, Outcome, Stage, all_checks, log
from mralign.run.store import StageDir
from mralign.serving.embedding import check_embedding, embedding_faults, embedding_workers
from mralign.serving.lacks import annotator_lacks


def labeller_of(config: RunConfig) -> Annotator:
    """Who labels freely and names; ValueError for the cue phrases, which only know the labels of their rule book."""
    labeller = config.discovery.labeller or config.annotation.adjudicator
    if labeller.engine == "cues":
        where = "discovery.labeller" if config.discovery.labeller else "annotation.adjudicator"
        raise ValueError(
            f"{where} is {labeller.name!r} with engine=cues, which cannot find new names; allowed are vllm and http: "
            f"give a chat model, e.g. 'discovery.labeller={{name: labeller, engine: http, http: {{base_url: ...}}}}'"
        )
    return labeller


def _reads(config: RunConfig) -> dict[str, Any]:
    labeller = config.filled(labeller_of(config))
    discovery = config.discovery.model_copy(update={"labeller": labeller})
    return {"discovery": discovery, **named(config, "annotation.show_answers", "run.seed")}


def _inputs(config: RunConfig) -> dict[str, str]:
    labeller = config.filled(labeller_of(config))
    return labeller.model.inputs() if labeller.model else {}


def _label(context: Context) -> Outcome:
    config = context.config
    sampled = sample(context.upstream["candidates"], size=config.discovery.sample, seed=config.run.seed)
    labeller = labeller_of(config)
    log.info("open_labels: %s names the strategies of %d trajectories", labeller.name, len(sampled))
    tally = asyncio.run(_label_by(labeller, sampled, context=context))
    counts = name_counts(context.out.read(schema=OPEN_LABELS).to_pylist())
    rows = sum(context.out.rows(part) for part in context.out.parts())
    figures = {"instances": sum(counts.values()), "distinct": len(counts), "last_session": dict(tally)}
    return Outcome(len(sampled), rows, figures)


async def _label_by(labeller: Annotator, sampled: Sequence[Trajectory], *, context: Context) -> Counter[str]:
    from tqdm import tqdm

    with tqdm(total=len(sampled), desc="open_labels", unit="row", mininterval=1.0) as bar:
        async with open_chat(labeller, config=context.config) as chat:
            show = context.config.annotation.show_answers
            return await label_openly(sampled, chat=chat, show_answers=show, out=context.out, report=bar.update)


def sample(candidates: StageDir, *, size: int, seed: int) -> list[Trajectory]:
    """The sampled candidates in the order of the sample; ValueError if there is none."""
    ids = candidates.read(schema=CANDIDATES, columns=["row_id"]).column("row_id").to_pylist()
    place = {row_id: number for number, row_id in enumerate(sample_ids(ids, size=size, seed=seed))}
    if not place:
        raise ValueError("no candidate is left to label; `jobs/align.py --until candidates` prints how many went where")
    columns = ["row_id", "question", "answers", "text", "segment_start", "segment_end"]
    parts = (candidates.read_parts([part], schema=CANDIDATES, columns=columns) for part in candidates.parts())
    found = [trajectory_of(row) for part in parts for row in part.to_pylist() if row["row_id"] in place]
    return sorted(found, key=lambda trajectory: place[trajectory.row_id])


def _check(config: RunConfig) -> None:
    """What could only fail at the end is refused at the beginning as well."""
    speaker = speaker_of(labeller_of(config), config=config)
    embedding = config.discovery.embedding
    all_checks([partial(check_speaker, speaker), check_installed, partial(check_embedding, embedding)])


def _workers(config: RunConfig) -> Sequence[Workers]:
    """The labeller's engine, or what embeds later: of the two, never both at once, the one that takes more GPUs."""
    labelling = asking_workers([labeller_of(config)], config=config)
    embedding = embedding_workers(config.discovery.embedding)
    return max(labelling, embedding, key=lambda workers: sum(one.gpus for one in workers))


def _faults(config: RunConfig) -> list[Fault]:
    return [*asking_faults([labeller_of(config)], config=config), *embedding_faults(config.discovery.embedding)]


def _lacks(config: RunConfig) -> list[str]:
    setting = "discovery.labeller" if config.discovery.labeller else "annotation.adjudicator"
    return annotator_lacks(labeller_of(config), config=config, setting=setting)


OPEN_LABELS_STAGE = Stage(
    name="open_labels",
    run=_label,
    reads=_reads,
    code=lambda config: {"instruction": INSTRUCTION},
    inputs=_inputs,
    upstream=("candidates",),
    check=_check,
    lacks=_lacks,
    workers=_workers,
    faults=_faults,
    version=2,
)
