"""Stage `signal`: whether transitions tell positive from negative trajectories, said before a training is paid for.

The annotation and the lengths of the thoughts enter; `signal.json` leaves, and behind it a row a trajectory
(schema.HELD_OUT_SCORES) and, in `edges/`, a row a weight (schema.EDGE_NOISE). One remote task, which has all labels in
memory. The stage stands before the training and no other stands on it: whatever it says, the run goes on.
docs/signal.md explains the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from mralign.config import RunConfig, named
from mralign.config.run import chosen_datasets
from mralign.rows.schema import EDGE_NOISE, HELD_OUT_SCORES
from mralign.run.part_names import part_name
from mralign.run.stage import Context, Outcome, Stage, log, run_tasks
from mralign.run.store import StageDir, ahead
from mralign.transitions.corpus_reading import read_corpus, states_of
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import settings_of
from mralign.transitions.signal_result import Examined, examine
from mralign.transitions.signal_sentence import record_of

RECORD = "signal.json"


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
    """In a task: the labels of a large run need not fit beside the driver."""
    annotation, rollouts = context.upstream["annotation"], context.upstream["rollouts"]
    ((record, rows_out),) = run_tasks(write_signal, [(context.config, annotation, rollouts, context.out)])
    log.info("signal: %s", record["sentence"])
    return Outcome(sum(annotation.counts().values()), rows_out, record)


def write_signal(
    config: RunConfig, annotation: StageDir, rollouts: StageDir, out: StageDir
) -> tuple[dict[str, Any], int]:
    """Commit the check; its record, and how many trajectories were examined."""
    found = examine_run(config, annotation=annotation, rollouts=rollouts, seed=config.run.seed)
    record = record_of(found.signal)
    edges = StageDir(f"{out.uri}/edges", stage=out.stage, fingerprint=out.fingerprint)
    writes: list[Callable[[], object]] = [
        partial(out.commit, part_name("all"), found.scores, schema=HELD_OUT_SCORES),
        partial(edges.commit, part_name("all"), found.edges, schema=EDGE_NOISE),
        partial(out.write_text, RECORD, json.dumps(record, indent=1)),
    ]
    for _ in ahead(lambda write: write(), writes):
        pass
    return record, found.scores.num_rows


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
