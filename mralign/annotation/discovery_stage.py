"""Stage `open_labels`, of the job that discovers a taxonomy: a sample of candidates is labelled in open vocabulary.

Candidates enter; rows of schema OPEN_LABELS leave, a bad row as a reject. The sample streams through the labeller's
engines (run/stream.py). The stage stands beside the run, not in it: nothing of the run depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.annotation.discovery import check_installed, name_counts
from mralign.annotation.open_interview import OpenLabelling
from mralign.annotation.open_labels import INSTRUCTION, sample_ids
from mralign.asking.annotator import ResolvedAnnotator, check_annotator, resolve
from mralign.asking.chats import SharedEngine, asking_faults
from mralign.asking.interview import money_spent
from mralign.config import Annotator, RunConfig, named
from mralign.rows.schema import CANDIDATES, OPEN_LABELS
from mralign.run.events import MoneySpent
from mralign.run.placement import DEALING, NodeFault, Workers
from mralign.run.stage import Context, Outcome, Stage, all_checks, log
from mralign.run.store import StageDir
from mralign.run.stream import Pool, Streamed, stream
from mralign.serving.conversation import Chat
from mralign.serving.embedding import check_embedding, embedding_faults, embedding_workers
from mralign.serving.lacks import annotator_lacks
from mralign.serving.streaming import engine_workers, pool_of


def labeller_of(config: RunConfig) -> Annotator:
    """Who labels freely and names; ValueError for whoever knows only the labels that it was given."""
    labeller = config.discovery.labeller or config.annotation.adjudicator
    if not labeller.is_chat:
        where = "discovery.labeller" if config.discovery.labeller else "annotation.adjudicator"
        raise ValueError(
            f"{where} is {labeller.name!r} with engine={labeller.engine}, which cannot find new names; allowed are "
            f"vllm and http: give a chat model, e.g. "
            f"'discovery.labeller={{name: labeller, engine: http, http: {{base_url: ...}}}}'"
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
    config, out = context.config, context.out
    candidates, labeller = context.upstream["candidates"], resolve(labeller_of(config), config=config)
    sampled = sample(candidates, size=config.discovery.sample, seed=config.run.seed)
    parts = {part: len(row_ids) for part, row_ids in sampled.items()}
    rows_in = sum(parts.values())
    log.info("open_labels: %s names the strategies of %d trajectories", labeller.name, rows_in)
    given = {"start_chat": partial(_start_chat, labeller), "show_answers": config.annotation.show_answers}
    pool = pool_of(labeller.serving, endpoint=labeller.http)
    done = stream(
        parts,
        requests=partial(_read_sampled, candidates=candidates, sampled=sampled),
        pools=[Pool(OpenLabelling, given=given, arguments=pool)],
        out=out,
        schema=OPEN_LABELS,
        batch=labeller.serving.batch_size,
        money=partial(_spent, labeller=labeller),
    )
    counts = name_counts(out.read(schema=OPEN_LABELS).to_pylist())
    rows_out = sum(out.counts().values())
    figures = {"instances": sum(counts.values()), "distinct": len(counts), "last_session": done.took}
    return Outcome(rows_in, rows_out, figures)


def _spent(done: Streamed, *, labeller: ResolvedAnnotator) -> list[MoneySpent]:
    """What the labels of this call have cost."""
    return money_spent({labeller.name: done.took}, endpoints={labeller.name: labeller.http})


def _start_chat(labeller: ResolvedAnnotator) -> Chat:
    return SharedEngine(labeller).chat(labeller)


def sample(candidates: StageDir, *, size: int, seed: int) -> dict[str, list[str]]:
    """The row_ids of the sampled candidates by part; ValueError if there is none."""
    by_part = {}
    for part in candidates.parts():
        table = candidates.read_parts([part], schema=CANDIDATES, columns=["row_id"])
        by_part[part] = table.column("row_id").to_pylist()
    chosen = set(sample_ids(chain(*by_part.values()), size=size, seed=seed))
    if not chosen:
        raise ValueError("no candidate is left to label; `mralign align --until candidates` prints how many went where")
    return {part: [row_id for row_id in row_ids if row_id in chosen] for part, row_ids in by_part.items()}


def _read_sampled(part: str, *, candidates: StageDir, sampled: Mapping[str, Sequence[str]]) -> pa.Table:
    """The sampled candidates of a part."""
    columns = ["row_id", "dataset", "polarity", "question", "answers", "text", "segment_start", "segment_end"]
    table = candidates.read_parts([part], schema=CANDIDATES, columns=columns)
    return table.filter(pc.is_in(table.column("row_id"), value_set=pa.array(sampled[part], pa.string())))


def _check(config: RunConfig) -> None:
    """What could only fail at the end is refused at the beginning as well."""
    labeller = resolve(labeller_of(config), config=config)
    embedding = config.discovery.embedding
    all_checks([partial(check_annotator, labeller), check_installed, partial(check_embedding, embedding)])


def _workers(config: RunConfig) -> Sequence[Workers]:
    """The labeller's engines, or what embeds later: of the two, never both at once, the one that takes more GPUs."""
    labeller = resolve(labeller_of(config), config=config)
    labelling: list[Workers] = []
    if labeller.http is None:
        setting = "discovery.labeller: `serving`, else engine"
        labelling = [engine_workers(labeller.serving, what=f"engines of {labeller.name!r}", setting=setting), DEALING]
    embedding = embedding_workers(config.discovery.embedding)
    return max(labelling, embedding, key=lambda workers: sum(one.gpus for one in workers))


def _faults(config: RunConfig) -> list[NodeFault]:
    return [*asking_faults([labeller_of(config)], config=config), *embedding_faults(config.discovery.embedding)]


def _lacks(config: RunConfig) -> list[str]:
    setting = "discovery.labeller" if config.discovery.labeller else "annotation.adjudicator"
    return annotator_lacks(labeller_of(config), config=config, setting=setting)


OPEN_LABELS_STAGE = Stage(
    name="open_labels",
    words="naming strategies freely",
    run=_label,
    reads=_reads,
    code=lambda config: {"instruction": INSTRUCTION},
    inputs=_inputs,
    upstream=("candidates",),
    check=_check,
    lacks=_lacks,
    workers=_workers,
    faults=_faults,
    version=3,
)
