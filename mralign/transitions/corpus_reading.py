"""The trajectories of a finished annotation, read part by part into one `Corpus` (walks.py)."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig
from mralign.config.run import chosen_datasets
from mralign.rows.schema import ANNOTATIONS, GENERATIONS
from mralign.run.pieces import rows_in_pieces
from mralign.run.store import StageDir
from mralign.transitions.counts import of_datasets
from mralign.transitions.walks import Corpus, corpus_of, join, with_tokens

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
