"""The rule that a configuration asks for, with all that it must know of the corpus, and the mean weights under it.

Counts, matrices and, for the rules that need them, triples or single trajectories enter; a rule leaves, or None for the
paper's, which needs no rule. A stage gathers what enters from parts, a study from a table in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig
from mralign.rows import Polarity
from mralign.transitions.counts import UNLABELLED, stop_code
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import settings_of
from mralign.transitions.matrices import Fitted
from mralign.transitions.rules.held_out_edges import HeldOutRule, gains
from mralign.transitions.rules.normalised import NormalisedRule
from mralign.transitions.rules.second_order import second_order_rule
from mralign.transitions.rules.shrunk import shrunk_rule
from mralign.transitions.rules.zero_floor import ZeroFloorRule
from mralign.transitions.walks import Corpus
from mralign.transitions.weights import NAME, LabelledSteps, Rule, ratios


@dataclass(frozen=True)
class CorpusSources:
    """What rules are made of: counts (schema.COUNTS) of all trajectories, and what only some rules ask for."""

    counts: pa.Table
    preceded: Callable[[], pa.Table]  # second_order.PRECEDED_COUNTS
    corpus: Callable[[], Corpus]


def bounds_of(config: RunConfig) -> WeightRule:
    """Anchor and bounds of the section `weights`."""
    return WeightRule(config.weights.anchor, config.weights.clip_min, config.weights.clip_max)


def rule_by_settings(
    config: RunConfig, *, fitted: Fitted, states: Sequence[str], sources: CorpusSources
) -> Rule | None:
    """The rule of `weights.rule`; None for the paper's."""
    bounds, name = bounds_of(config), config.weights.rule
    if name == "shrunk":
        return shrunk_rule(sources.counts, fitted=fitted, states=states, bounds=bounds)
    if name == "zero_floor":
        return ZeroFloorRule(bounds)
    if name == "normalised":
        return NormalisedRule(bounds)
    if name == "second_order":
        return second_order_rule(sources.preceded(), matrices=fitted.P, states=states, bounds=bounds)
    if name == "held_out":
        settings = settings_of(config.transitions)
        return HeldOutRule(gains(sources.corpus(), settings=settings, seed=config.run.seed), bounds)
    return None


def mean_weights(
    rule: Rule, *, table: pa.Table, matrices: Mapping[str, np.ndarray], states: Sequence[str], bounds: WeightRule
) -> dict[Polarity, float]:
    """The mean weight of each polarity that occurs, over the steps counted in `table` (schema.COUNTS, or
    second_order.PRECEDED_COUNTS where the rule asks for the step before).

    Every step counts as a trajectory of its own: a mean of 1 in each trajectory is a mean of 1.
    """
    found = {}
    for polarity in NAME:
        mask = pc.and_(
            pc.equal(table.column("polarity"), int(polarity)),
            pc.not_equal(table.column("target"), stop_code(len(states))),
        )
        kept = table.filter(mask)
        if not kept.num_rows:
            continue
        source_T, target_T, n_T = (
            kept.column(name).to_numpy().astype(np.int64) for name in ("source", "target", "count")
        )
        sign_T = np.full(kept.num_rows, int(polarity))
        before_T = np.full(kept.num_rows, UNLABELLED)
        if "before" in kept.column_names:
            before_T = kept.column("before").to_numpy().astype(np.int64)
        ratio_T = ratios(source_T, target_T, polarity=sign_T, matrices=matrices, states=states, anchor=bounds.anchor)
        weight_T = rule(LabelledSteps(np.arange(kept.num_rows), sign_T, before_T, source_T, target_T, ratio_T))
        found[polarity] = float(n_T @ weight_T / n_T.sum())
    return found
