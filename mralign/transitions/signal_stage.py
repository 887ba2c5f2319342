"""Stage `signal`: whether transitions tell positive from negative trajectories, said before a training is paid for.

The annotation and the lengths of the thoughts enter; `signal.json` leaves, and behind it a row a trajectory
(schema.HELD_OUT_SCORES) and, in `edges/`, a row a weight (schema.EDGE_NOISE). Seconds of one process: no Ray. The
stage stands before the training and no other stands on it: whatever it says, the run goes on. docs/signal.md explains
the figures.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig, named
from mralign.config.run import chosen_datasets
from mralign.rows.schema import ANNOTATIONS, EDGE_NOISE, GENERATIONS, HELD_OUT_SCORES
from mralign.run.part_names import part_name
from mralign.run.pieces import rows_in_pieces
from mralign.run.stage import Context, Outcome, Stage, log
from mralign.run.store import StageDir
from mralign.transitions.counts import of_datasets
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import settings_of
from mralign.transitions.signal_result import Examined, examine
from mralign.transitions.signal_sentence import record_of
from mralign.transitions.walks import Corpus, corpus_of, join, with_tokens

RECORD = "signal.json"
_COLUMNS = ("row_id", "question_id", "dataset", "polarity", "segments", "steps")


def states_of(annotation: StageDir) -> tuple[str, ...]:
    """The states that the trajectories were annotated with."""
    return tuple(json.loads(annotation.read_text("taxonomy.json"))["states"])


def read_corpus(annotation: StageDir, *, rollouts: StageDir | None, config: RunConfig) -> Corpus:
    """The trajectories of a finished annotation, part by part, as all of a question stand in one part; without
    `rollouts` nobody knows the tokens of their thoughts."""
    states, datasets = states_of(annotation), chosen_datasets(config)
    corpora: list[Corpus] = []
    for piece in rows_in_pieces(annotation, schema=ANNOTATIONS, columns=_COLUMNS):
        chosen = of_datasets(piece, datasets=datasets)
        corpora.append(corpus_of(chosen, states=states, labels=config.transitions.labels))
    corpus = join(corpora)
    return corpus if rollouts is None else with_tokens(corpus, _thought_tokens(rollouts, row_ids=corpus.row_ids))


def _thought_tokens(rollouts: StageDir, *, row_ids: pa.Array) -> pa.Table:
    """The columns row_id and thought_tokens of these draws; most of a run's draws become no trajectory."""
    pieces = rows_in_pieces(rollouts, schema=GENERATIONS, columns=("row_id", "thought_tokens"))
    return pa.concat_tables(piece.filter(pc.is_in(piece.column("row_id"), value_set=row_ids)) for piece in pieces)


def examine_run(config: RunConfig, *, annotation: StageDir, rollouts: StageDir | None, seed: int) -> Examined:
    """The signal check of a run by its configuration."""
    return examine(
        read_corpus(annotation, rollouts=rollouts, config=config),
        states=states_of(annotation),
        settings=settings_of(config.transitions),
        rule=WeightRule(config.weights.anchor, config.weights.clip_min, config.weights.clip_max),
        seed=seed,
    )


def _signal(context: Context) -> Outcome:
    annotation, out = context.upstream["annotation"], context.out
    found = examine_run(
        context.config, annotation=annotation, rollouts=context.upstream["rollouts"], seed=context.config.run.seed
    )
    out.commit(part_name("all"), found.scores, schema=HELD_OUT_SCORES)
    edges = StageDir(f"{out.uri}/edges", stage=out.stage, fingerprint=out.fingerprint)
    edges.commit(part_name("all"), found.edges, schema=EDGE_NOISE)
    record = record_of(found.signal)
    out.write_text(RECORD, json.dumps(record, indent=1))
    log.info("signal: %s", record["sentence"])
    rows_in = sum(annotation.counts().values())
    return Outcome(rows_in, found.scores.num_rows, record)


def _reads(config: RunConfig) -> dict[str, Any]:
    return {
        **named(config, "transitions", "weights.anchor", "weights.clip_min", "weights.clip_max", "run.seed"),
        "training.datasets": chosen_datasets(config),
    }


SIGNAL_STAGE = Stage(
    name="signal",
    words="checking the signal",
    run=_signal,
    reads=_reads,
    ignores=("transitions.bootstrap",),
    upstream=("annotation", "rollouts"),
)
