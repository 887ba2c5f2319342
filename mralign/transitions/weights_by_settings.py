"""Step weights as a configuration asks for them.

A table of schema.ANNOTATIONS and what was estimated enter, a table of schema.WEIGHTS leaves: the stage `weights` calls
this for each part, a study for a whole small world in memory. A new way to weigh is a file of `rules/`, and both have
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

from mralign.config import RunConfig
from mralign.config.run import chosen_datasets
from mralign.rows import Polarity
from mralign.rows.schema import COUNTS
from mralign.transitions.bootstrap import count_replicated
from mralign.transitions.counts import of_datasets
from mralign.transitions.em import settings_of
from mralign.transitions.matrices import Fitted, fit
from mralign.transitions.rules.rule_by_settings import CorpusSources, rule_by_settings
from mralign.transitions.rules.second_order import count_preceded
from mralign.transitions.walks import corpus_of
from mralign.transitions.weights import Rule, step_weights


def configured_weights(
    steps: pa.Table,
    *,
    fitted: Fitted,
    states: Sequence[str],
    config: RunConfig,
    rule: Rule | None,
    means: Mapping[Polarity, float] | None = None,
) -> pa.Table:
    """The weights of some trajectories; `rule` and `means` as in `step_weights`."""
    settings = config.weights
    return step_weights(
        of_datasets(steps, datasets=chosen_datasets(config)),
        matrices=fitted.P,
        states=states,
        anchor=settings.anchor,
        control=settings.control,
        clip_min=settings.clip_min,
        clip_max=settings.clip_max,
        labels=config.transitions.labels,
        seed=config.run.seed,
        means=means,
        rule=rule,
    )


def weights_in_memory(steps: pa.Table, *, states: Sequence[str], config: RunConfig) -> pa.Table:
    """Counts, matrices and weights of all trajectories at once: what three stages do to a corpus."""
    settings = config.transitions
    table = count_replicated(
        steps, states=states, replicates=settings.bootstrap, seed=config.run.seed, labels=settings.labels
    )
    fitted = fit(table, K=len(states), settings=settings_of(settings))
    sources = CorpusSources(
        counts=table.select(COUNTS.names),
        preceded=lambda: count_preceded(steps, states=states, labels=settings.labels),
        corpus=lambda: corpus_of(steps, states=states, labels=settings.labels),
    )
    rule = rule_by_settings(config, fitted=fitted, states=states, sources=sources)
    return configured_weights(steps, fitted=fitted, states=states, config=config, rule=rule)
