"""The signal check as a whole: a corpus enters; its figures, the scores of its trajectories and the noise of its edges
leave.

Everything is drawn from one seed. Where a polarity has fewer than two questions nothing can be held out: the figures
are then empty, and no error is raised, for the check must never stop a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from mralign.rows.schema import EDGE_NOISE, HELD_OUT_SCORES
from mralign.transitions import signal
from mralign.transitions.auc import Interval, auc_difference, auc_interval
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import Settings
from mralign.transitions.signal import Chance, Design, Scores
from mralign.transitions.signal_noise import Noise, edge_noise, noise_of
from mralign.transitions.walks import Corpus, walks
from mralign.transitions.weights import NAME

_LENGTHS = ("segments", "tokens")


@dataclass(frozen=True)
class Signal:
    """The figures of the check; None and empty where a polarity has fewer than two questions."""

    trajectories: Mapping[str, int]  # by polarity, with a labelled step
    questions: Mapping[str, int]
    folds: int = 0
    seed: int = 0
    estimator: str = ""  # of the random ones: `em`, or `frequency` where EM would take too long
    auc: Mapping[str, Interval] = field(default_factory=dict)
    length: str = ""  # the better one of the two lengths
    over_length: Interval | None = None  # AUC of transitions minus that of the better length
    over_frequencies: Interval | None = None  # AUC of transitions minus that of label frequencies
    null: Chance | None = None  # polarity permuted over questions
    shuffled: Chance | None = None  # labels permuted within each trajectory
    noise: Noise | None = None


@dataclass(frozen=True)
class Examined:
    """A signal and the tables behind it: schema.HELD_OUT_SCORES, schema.EDGE_NOISE."""

    signal: Signal
    scores: pa.Table
    edges: pa.Table


def examine(corpus: Corpus, *, states: Sequence[str], settings: Settings, rule: WeightRule, seed: int) -> Examined:
    """The check of a corpus, whose neutral trajectories count for P alone."""
    signed = corpus.signed()
    trajectories, questions = {}, {}
    for polarity, name in NAME.items():
        trajectories[name] = int((signed.polarity_N == polarity).sum())
        questions[name] = signed.questions(polarity)
    folds = min(signal.FOLDS, *questions.values())
    if folds < 2:
        empty = Signal(trajectories, questions, seed=seed)
        return Examined(empty, HELD_OUT_SCORES.empty_table(), EDGE_NOISE.empty_table())
    design = signal.design_of(signed, folds=folds, seed=seed)
    found = signal.scores(signed, design=design, settings=settings)
    edges = edge_noise(corpus, states=states, rule=rule, settings=settings, seed=seed)
    given = {"positive_N": design.positive_N, "question_N": signed.question_N}
    aucs = {name: auc_interval(score_N, **given) for name, score_N in found.named().items()}
    length = max((name for name in _LENGTHS if name in aucs), key=lambda name: aucs[name].value)
    quick = signal.null_settings(settings)
    observed = signal.transitions_auc(walks(signed), design=design, settings=quick)
    permuted = signal.permutations(signed, design=design, settings=quick, seed=seed, draws=signal.PERMUTATIONS)
    shuffled = signal.shuffles(signed, design=design, settings=quick, seed=seed, draws=signal.SHUFFLES)
    result = Signal(
        trajectories,
        questions,
        folds=folds,
        seed=seed,
        estimator=quick.estimator,
        auc=aucs,
        length=length,
        over_length=auc_difference(found.transitions, other=found.named()[length], **given),
        over_frequencies=auc_difference(found.transitions, other=found.frequencies, **given),
        null=signal.chance(observed, drawn=permuted),
        shuffled=signal.chance(observed, drawn=shuffled),
        noise=noise_of(edges),
    )
    return Examined(result, _scores(signed, found=found, design=design), edges)


def _scores(corpus: Corpus, *, found: Scores, design: Design) -> pa.Table:
    """A row a trajectory, by which every figure can be followed back."""
    columns = {
        "row_id": corpus.row_ids,
        "question_id": corpus.question_ids,
        "polarity": corpus.polarity_N,
        "fold": design.fold_N,
        **found.named(),
    }
    if found.tokens is None:
        columns["tokens"] = pa.nulls(design.fold_N.size, pa.float64())
    return pa.table({name: columns[name] for name in HELD_OUT_SCORES.names}, schema=HELD_OUT_SCORES)
