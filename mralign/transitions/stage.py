"""Stages `counts`, `matrices`, `weights`, `annotator_matrices`: label sets become count tables, matrices, step weights.

Counting is a remote task a part, for parts that this run directory has not counted before, and a tree of remote
additions. Each matrix is one EM in one remote task on the sum of all tables, at a cost that does not depend on the
corpus; with `transitions.em: sharded` the tables stay where they are, and each iteration is a remote E-step a table
and a tree of additions. Weights are a remote task a part. `annotator_matrices` does so with the labels of each
annotator, for the agreement of method.md §2c. No arithmetic lives here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.config import RunConfig, named
from mralign.config.run import check_datasets, chosen_datasets
from mralign.rows import Polarity
from mralign.rows.schema import (
    ANNOTATIONS,
    ANNOTATOR_FIELDS,
    COUNTS,
    EDGES,
    HUMAN_FIELDS,
    HUMAN_STEPS,
    MATRICES,
    REPLICATED_COUNTS,
    WEIGHTS,
)
from mralign.run.part_names import part_name
from mralign.run.rejects import Reject
from mralign.run.stage import Context, Outcome, Stage, log, map_parts
from mralign.run.store import StageDir
from mralign.transitions.bootstrap import add_replicated, select_replicates
from mralign.transitions.corpus_reading import read_corpus
from mralign.transitions.counts import Labels, add, count, of_datasets, select
from mralign.transitions.edges import edges
from mralign.transitions.em import (
    Estimate,
    ExpectedCounts,
    Settings,
    Shard,
    add_expected,
    check,
    estimate,
    expect,
    maximise,
    settings_of,
)
from mralign.transitions.matrices import MATRIX_POLARITIES, Fitted, estimate_named, long_form, read_matrices
from mralign.transitions.rules.rule_by_settings import CorpusSources, bounds_of, mean_weights, rule_by_settings
from mralign.transitions.rules.second_order import add_preceded, count_preceded
from mralign.transitions.shelf import RAW, Counting, Undecoded, fetch
from mralign.transitions.weights import Rule, summary
from mralign.transitions.weights_by_settings import configured_weights

_FAN_IN = 8


def _states(annotation: StageDir) -> tuple[str, ...]:
    return tuple(json.loads(annotation.read_text("taxonomy.json"))["states"])


def _below(out: StageDir, name: str) -> StageDir:
    """A directory of further tables of a stage."""
    return StageDir(f"{out.uri}/{name}", stage=out.stage, fingerprint=out.fingerprint)


def _count_table(table: pa.Table, *, counting: Counting, shelf: StageDir) -> tuple[pa.Table, list[Reject]]:
    (parquet,) = table.column("parquet").to_pylist()
    return fetch(parquet, counting=counting, shelf=shelf), []


def _counts(context: Context, *, annotation: str = "annotation") -> Outcome:
    """A table a part, the same parts as upstream, and their sum without replicates in `total/`."""
    source, settings = context.upstream[annotation], context.config.transitions
    counting = Counting(_states(source), settings.labels, settings.bootstrap, context.config.run.seed)
    shelf = StageDir(f"{context.out.uri.rsplit('/', 2)[0]}/counts_by_content")
    before = set(shelf.parts())
    map_parts(
        context,
        partial(_count_table, counting=counting, shelf=shelf),
        source=Undecoded(source.uri, stage=source.stage, fingerprint=source.fingerprint),
        schema=REPLICATED_COUNTS,
        upstream_schema=RAW,
    )
    parts = context.out.parts()
    log.info("counts: %d parts, %d of them counted now", len(parts), len(set(shelf.parts()) - before))
    total = reduce_tree(context.out)
    _below(context.out, "total").commit(part_name("all"), total, schema=COUNTS)
    transitions = int(total.column("count").to_numpy().sum())
    rows_in = sum(source.counts().values())
    rows_out = sum(context.out.counts(parts).values())
    return Outcome(rows_in, rows_out, {"transitions": transitions, "tables": len(parts)})


def _total(counts: StageDir, *, datasets: Sequence[str]) -> pa.Table:
    return of_datasets(_below(counts, "total").read(schema=COUNTS), datasets=datasets)


def reduce_tree(source: StageDir, *, schema: pa.Schema = COUNTS) -> pa.Table:
    """The sum of all committed count tables by a tree of remote additions; schema COUNTS leaves the replicates out."""
    import ray

    read: Any = ray.remote(lambda name: source.read_parts([name], schema=schema))
    together = _added if schema == COUNTS else _added_replicated
    return _reduced([read.remote(name) for name in source.parts()], together=together)


def _added(*tables: pa.Table) -> pa.Table:
    return add(tables)


def _added_replicated(*tables: pa.Table) -> pa.Table:
    return add_replicated(tables)


def _reduced(level: list[Any], *, together: Callable[..., Any]) -> Any:
    """What `together` makes of remote values, `_FAN_IN` at a time."""
    import ray

    merge: Any = ray.remote(together)
    while len(level) > 1:
        level = [merge.remote(*level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
    return ray.get(level[0]) if level else together()


def _estimate_sharded(
    tables: StageDir,
    *,
    total: pa.Table,
    name: str,
    K: int,
    replicates: int,
    settings: Settings,
    datasets: Sequence[str],
) -> list[Estimate]:
    """As `estimate_named`, with an E-step a table of `tables` in each iteration; `total` is the sum of the rows of
    `datasets` in them (schema.COUNTS)."""
    import ray

    polarities = MATRIX_POLARITIES[name]
    check(select(total, polarities=polarities), K=K)

    def unfold(part: str) -> Shard:
        table = of_datasets(tables.read_parts([part], schema=REPLICATED_COUNTS), datasets=datasets)
        counts, n_TB = select_replicates(table, polarities=polarities)
        return Shard.of(counts, n_TB=n_TB.reshape(counts.n.size, replicates), K=K)

    def step(shard: Shard, P_RKK: np.ndarray, which: np.ndarray) -> ExpectedCounts:
        return expect(shard, P_RKK=P_RKK, which=which, estimator=settings.estimator)

    unfold_remote: Any = ray.remote(unfold)
    step_remote: Any = ray.remote(step)
    shards = [unfold_remote.remote(part) for part in tables.parts()]

    def expectation(P_RKK: np.ndarray, which: np.ndarray) -> ExpectedCounts:
        shared = ray.put(P_RKK)
        return _reduced([step_remote.remote(shard, shared, which) for shard in shards], together=add_expected)

    return maximise(expectation, R=1 + replicates, K=K, settings=settings)


def _matrices(context: Context) -> Outcome:
    datasets = chosen_datasets(context.config)
    return _fit_matrices(context, annotation="annotation", counts="counts", names=MATRIX_POLARITIES, datasets=datasets)


def _fit_matrices(
    context: Context, *, annotation: str, counts: str, names: Iterable[str], datasets: Sequence[str]
) -> Outcome:
    """The matrices `names`, from stage `counts` in the states of stage `annotation`, of these data sets (none: all)."""
    import ray

    states, config = _states(context.upstream[annotation]), context.config.transitions
    source, settings = context.upstream[counts], settings_of(config)
    total, K = _total(source, datasets=datasets), len(states)
    if config.em == "sharded":
        given = {"total": total, "K": K, "replicates": config.bootstrap, "settings": settings, "datasets": datasets}
        sharded = partial(_estimate_sharded, source, **given)
        found = {name: sharded(name=name) for name in names}
    else:
        function: Any = estimate_named
        remote: Any = ray.remote(function)
        shared = ray.put(of_datasets(reduce_tree(source, schema=REPLICATED_COUNTS), datasets=datasets))
        tasks = {name: remote.remote(shared, name=name, K=K, settings=settings) for name in names}
        found = {name: ray.get(task) for name, task in tasks.items()}
    tables = {part_name(name): long_form(name, estimates=made, states=states) for name, made in found.items()}
    context.out.commit_all(tables, schema=MATRICES)
    figures = {name: _fit(found[name][0], counts=total, polarities=MATRIX_POLARITIES[name]) for name in found}
    return Outcome(total.num_rows, len(found) * K**2, figures)


def _fit(result: Estimate, *, counts: pa.Table, polarities: Sequence[int]) -> dict[str, Any]:
    return {
        "iterations": result.iterations,
        "converged": result.converged,
        "log_likelihood": list(result.log_likelihood),
        "transitions": int(select(counts, polarities=polarities).n.sum()),
    }


def _weight_table(
    table: pa.Table,
    *,
    fitted: Fitted,
    states: Sequence[str],
    config: RunConfig,
    rule: Rule | None,
    means: Mapping[Polarity, float],
) -> tuple[pa.Table, list[Reject]]:
    found = configured_weights(table, fitted=fitted, states=states, config=config, rule=rule, means=means)
    return found, []


def _preceded(source: StageDir, *, states: Sequence[str], config: RunConfig) -> pa.Table:
    """Transitions by the step before them (second_order.PRECEDED_COUNTS): a remote task a part, a tree of additions."""
    import ray

    def leaf(part: str) -> pa.Table:
        table = of_datasets(source.read_parts([part], schema=ANNOTATIONS), datasets=chosen_datasets(config))
        return count_preceded(table, states=states, labels=config.transitions.labels)

    remote: Any = ray.remote(leaf)
    return _reduced([remote.remote(part) for part in source.parts()], together=_added_preceded)


def _added_preceded(*tables: pa.Table) -> pa.Table:
    return add_preceded(tables)


def _weights(context: Context) -> Outcome:
    """Step weights, a part for each of upstream, and in `edges/` what stands behind them."""
    config, source = context.config, context.upstream["annotation"]
    states, datasets = _states(source), chosen_datasets(config)
    total = _total(context.upstream["counts"], datasets=datasets)
    fitted = read_matrices(context.upstream["matrices"], states=states)
    bounds = bounds_of(config)
    overview = summary(total, matrices=fitted.P, states=states, **asdict(bounds))
    found = edges(total, matrices=fitted.P, support=fitted.C, replicates=fitted.replicates, states=states, rule=bounds)
    _below(context.out, "edges").commit(part_name("all"), found, schema=EDGES)
    sources = CorpusSources(
        counts=total,
        preceded=cache(partial(_preceded, source, states=states, config=config)),
        corpus=partial(read_corpus, source, rollouts=None, config=config),
    )
    rule = rule_by_settings(config, fitted=fitted, states=states, sources=sources)
    means: Mapping[Polarity, float] = overview.mean
    if rule is not None and config.weights.control == "mean":
        table = sources.preceded() if config.weights.rule == "second_order" else total
        means = mean_weights(rule, table=table, matrices=fitted.P, states=states, bounds=bounds)
    function = partial(_weight_table, fitted=fitted, states=states, config=config, rule=rule, means=means)
    map_parts(context, function, source=source, schema=WEIGHTS, upstream_schema=ANNOTATIONS)
    rows = sum(context.out.counts().values())
    return Outcome(rows, rows, {"summary": asdict(overview)})


def _annotator_matrices(context: Context) -> Outcome:
    """Matrices `<stage>-<role>`, such as annotation-first and human_labels-human, of all polarities together.

    Whoever labelled no step at all has no matrix. Those of the human are compared with the others' on the same
    trajectories, cut into the same steps, so these get matrices of their own there.
    """
    config, states = context.config.transitions, _states(context.upstream["annotation"])
    figures, rows_in, made = {}, 0, {}
    for stage, (schema, fields) in _ANNOTATED.items():
        if stage not in context.upstream:
            continue
        source = context.upstream[stage]
        rows_in += sum(source.counts().values())
        tables = _count_annotators(source, schema=schema, fields=fields, states=states, labels=config.labels)
        for role, counts in tables.items():
            if not counts.num_rows:
                continue
            name = f"{stage}-{role}"
            chosen = select(counts, polarities=MATRIX_POLARITIES["all"])
            result = estimate(chosen, K=len(states), **asdict(settings_of(config)))
            made[part_name(name)] = long_form(name, estimates=[result], states=states)
            figures[name] = _fit(result, counts=counts, polarities=MATRIX_POLARITIES["all"])
    context.out.commit_all(made, schema=MATRICES)
    return Outcome(rows_in, len(figures) * len(states) ** 2, figures)


_ANNOTATED = {"annotation": (ANNOTATIONS, ANNOTATOR_FIELDS), "human_labels": (HUMAN_STEPS, HUMAN_FIELDS)}


def _count_annotators(
    source: StageDir, *, schema: pa.Schema, fields: Mapping[str, str], states: Sequence[str], labels: Labels
) -> dict[str, pa.Table]:
    """Count tables by role: a remote task a part reads it once for all roles, then a tree of additions for each."""
    import ray

    def leaf(part: str) -> tuple[pa.Table, ...]:
        table = source.read_parts([part], schema=schema)
        return tuple(count(table, states=states, labels=labels, field=field) for field in fields.values())

    function: Any = ray.remote(leaf).options(num_returns=len(fields))
    parts = [function.remote(part) for part in source.parts()]
    totals: dict[str, pa.Table] = {}
    for place, role in enumerate(fields):
        totals[role] = _reduced([tables[place] for tables in parts], together=_added)
    return totals


COUNTS_STAGE = Stage(
    name="counts",
    words="counting transitions",
    run=_counts,
    reads=("transitions.labels", "transitions.bootstrap", "run.seed"),
    upstream=("annotation",),
    version=2,
)

MATRICES_STAGE = Stage(
    name="matrices",
    words="estimating transitions",
    run=_matrices,
    reads=lambda config: {"transitions": config.transitions, "training.datasets": chosen_datasets(config)},
    upstream=("annotation", "counts"),
    check=check_datasets,
    version=2,
)

WEIGHTS_STAGE = Stage(
    name="weights",
    words="weighting steps",
    run=_weights,
    reads=lambda config: {
        **named(config, "weights", "transitions.labels", "run.seed"),
        "training.datasets": chosen_datasets(config),
    },
    upstream=("annotation", "counts", "matrices"),
    version=2,
)


def counts_of(annotation: str, *, name: str) -> Stage:
    """Stage `counts` of another stage's annotations."""
    run = partial(_counts, annotation=annotation)
    return replace(COUNTS_STAGE, name=name, words="counting its transitions", run=run, upstream=(annotation,))


def matrix_of(annotation: str, *, counts: str, name: str) -> Stage:
    """P alone, of all polarities and data sets together, from another stage's annotations and their counts."""
    return Stage(
        name=name,
        words="estimating its transitions",
        run=partial(_fit_matrices, annotation=annotation, counts=counts, names=("all",), datasets=()),
        reads=("transitions",),
        upstream=(annotation, counts),
    )


def annotators_stage(*, human: bool) -> Stage:
    """Matrices from each annotator's labels; with `human`, also from those in stage `human_labels`."""
    return Stage(
        name="annotator_matrices",
        words="estimating per annotator",
        run=_annotator_matrices,
        reads=("transitions",),
        ignores=("transitions.bootstrap",),
        upstream=("annotation", *(["human_labels"] if human else [])),
        version=2,
    )
