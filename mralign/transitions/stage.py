"""Stages `counts`, `matrices`, `weights`, `annotator_matrices`: label sets become count tables, matrices, step weights.

Counting is a remote task a part and a tree of remote additions; each matrix is one EM on the reduced table, at a cost
that does not depend on the corpus; weights are a remote task a part. `annotator_matrices` does so with the labels of
each annotator, for the agreement of METHOD.md §2c. No arithmetic lives here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.config import Transitions, Weights
from mralign.rejects import Reject
from mralign.schema import ANNOTATIONS, ANNOTATOR_FIELDS, COUNTS, HUMAN_FIELDS, HUMAN_STEPS, MATRICES, WEIGHTS
from mralign.stage import Context, Outcome, Stage, map_parts
from mralign.store import StageDir, part_name
from mralign.transitions.counts import Labels, add, count, select
from mralign.transitions.em import Estimate, estimate
from mralign.transitions.weights import step_weights, summary

MATRIX_POLARITIES = {"all": (1, -1, 0), "positive": (1,), "negative": (-1,)}
_FAN_IN = 8


def _states(annotation: StageDir) -> tuple[str, ...]:
    return tuple(json.loads(annotation.read_text("taxonomy.json"))["states"])


def _count_table(table: pa.Table, *, states: Sequence[str], labels: Labels) -> tuple[pa.Table, list[Reject]]:
    return count(table, states=states, labels=labels), []


def _counts(context: Context) -> Outcome:
    source = context.upstream["annotation"]
    labels = context.config.transitions.labels
    map_parts(
        context,
        partial(_count_table, states=_states(source), labels=labels),
        source=source,
        schema=COUNTS,
        upstream_schema=ANNOTATIONS,
    )
    rows = context.out.read(schema=COUNTS)
    transitions = int(rows.column("count").to_numpy().sum())
    rows_in = source.read(schema=ANNOTATIONS, columns=["row_id"]).num_rows
    return Outcome(rows_in, rows.num_rows, {"transitions": transitions, "tables": len(context.out.parts())})


def reduce_tree(source: StageDir) -> pa.Table:
    """The sum of all committed count tables by a tree of remote additions, `_FAN_IN` at a time."""
    import ray

    read: Any = ray.remote(lambda name: source.read_parts([name], schema=COUNTS))
    return _sum([read.remote(name) for name in source.parts()])


def _sum(level: list[Any]) -> pa.Table:
    """The sum of remote count tables, `_FAN_IN` at a time."""
    import ray

    merge: Any = ray.remote(lambda *tables: add(tables))
    while len(level) > 1:
        level = [merge.remote(*level[i : i + _FAN_IN]) for i in range(0, len(level), _FAN_IN)]
    return ray.get(level[0])


def _estimate(counts: pa.Table, *, name: str, K: int, settings: Transitions) -> Estimate:
    return estimate(
        select(counts, polarities=MATRIX_POLARITIES[name]),
        K=K,
        max_iter=settings.max_iter,
        tol=settings.tol,
        damping=settings.damping,
        prior=settings.prior,
        estimator=settings.estimator,
    )


def _matrices(context: Context) -> Outcome:
    import ray

    states = _states(context.upstream["annotation"])
    counts = reduce_tree(context.upstream["counts"])
    shared = ray.put(counts)
    function: Any = _estimate
    remote: Any = ray.remote(function)
    settings = context.config.transitions
    names = list(MATRIX_POLARITIES)
    estimates = ray.get([remote.remote(shared, name=n, K=len(states), settings=settings) for n in names])
    found = dict(zip(names, estimates, strict=True))
    for name, result in found.items():
        context.out.commit(part_name(name), _long_form(name, result=result, states=states), schema=MATRICES)
    figures = {name: _fit(result, counts=counts, polarities=MATRIX_POLARITIES[name]) for name, result in found.items()}
    return Outcome(counts.num_rows, len(names) * len(states) ** 2, figures)


def _fit(result: Estimate, *, counts: pa.Table, polarities: Sequence[int]) -> dict[str, Any]:
    return {
        "iterations": result.iterations,
        "converged": result.converged,
        "log_likelihood": list(result.log_likelihood),
        "transitions": int(select(counts, polarities=polarities).n.sum()),
    }


def _long_form(name: str, *, result: Estimate, states: Sequence[str]) -> pa.Table:
    source, target = np.meshgrid(states, states, indexing="ij")
    return pa.table(
        {
            "matrix": [name] * len(states) ** 2,
            "source": source.ravel(),
            "target": target.ravel(),
            "probability": result.P.ravel(),
            "responsibility": result.C.ravel(),
        }
    )


def read_matrices(out: StageDir, *, states: Sequence[str]) -> dict[str, np.ndarray]:
    """The committed matrices by name, float64 (K, K) in the order of `states`."""
    K = len(states)
    tables = {name: out.read_parts([part_name(name)], schema=MATRICES) for name in MATRIX_POLARITIES}
    return {name: table.column("probability").to_numpy().reshape(K, K) for name, table in tables.items()}


def _weight_table(
    table: pa.Table,
    *,
    matrices: Mapping[str, np.ndarray],
    states: Sequence[str],
    settings: Weights,
    labels: Labels,
    means: Mapping[int, float],
    seed: int,
) -> tuple[pa.Table, list[Reject]]:
    weights = step_weights(
        table,
        matrices=matrices,
        states=states,
        anchor=settings.anchor,
        control=settings.control,
        clip_min=settings.clip_min,
        clip_max=settings.clip_max,
        labels=labels,
        seed=seed,
        means=means,
    )
    return weights, []


def _weights(context: Context) -> Outcome:
    config, source = context.config, context.upstream["annotation"]
    states = _states(source)
    matrices = read_matrices(context.upstream["matrices"], states=states)
    overview = summary(
        reduce_tree(context.upstream["counts"]),
        matrices=matrices,
        states=states,
        anchor=config.weights.anchor,
        clip_min=config.weights.clip_min,
        clip_max=config.weights.clip_max,
    )
    function = partial(
        _weight_table,
        matrices=matrices,
        states=states,
        settings=config.weights,
        labels=config.transitions.labels,
        means=overview.mean,
        seed=config.run.seed,
    )
    map_parts(context, function, source=source, schema=WEIGHTS, upstream_schema=ANNOTATIONS)
    rows = context.out.read(schema=WEIGHTS, columns=["row_id"]).num_rows
    return Outcome(rows, rows, {"summary": asdict(overview)})


def _annotator_matrices(context: Context) -> Outcome:
    """Matrices `<stage>-<role>`, such as annotation-first and human_labels-human, of all polarities together.

    Whoever labelled no step at all has no matrix. Those of the human are compared with the others' on the same
    trajectories, cut into the same steps, so these get matrices of their own there.
    """
    config, states = context.config.transitions, _states(context.upstream["annotation"])
    figures, rows_in = {}, 0
    for stage, (schema, fields) in _ANNOTATED.items():
        if stage not in context.upstream:
            continue
        source = context.upstream[stage]
        rows_in += sum(source.rows(part) for part in source.parts())
        tables = _count_annotators(source, schema=schema, fields=fields, states=states, labels=config.labels)
        for name, counts in ((f"{stage}-{role}", table) for role, table in tables.items() if table.num_rows):
            result = _estimate(counts, name="all", K=len(states), settings=config)
            context.out.commit(part_name(name), _long_form(name, result=result, states=states), schema=MATRICES)
            figures[name] = _fit(result, counts=counts, polarities=MATRIX_POLARITIES["all"])
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
    return {role: _sum([tables[place] for tables in parts]) for place, role in enumerate(fields)}


COUNTS_STAGE = Stage(
    name="counts",
    run=_counts,
    matters=lambda config: config.transitions.labels,
    upstream=("annotation",),
)

MATRICES_STAGE = Stage(
    name="matrices",
    run=_matrices,
    matters=lambda config: config.transitions.model_dump(),
    upstream=("annotation", "counts"),
)

WEIGHTS_STAGE = Stage(
    name="weights",
    run=_weights,
    matters=lambda config: {
        **config.weights.model_dump(),
        "labels": config.transitions.labels,
        "seed": config.run.seed if config.weights.control == "shuffle" else None,
    },
    upstream=("annotation", "counts", "matrices"),
)


def annotators_stage(*, human: bool) -> Stage:
    """Matrices from each annotator's labels; with `human`, also from those in stage `human_labels`."""
    return Stage(
        name="annotator_matrices",
        run=_annotator_matrices,
        matters=lambda config: config.transitions.model_dump(),
        upstream=("annotation", *(["human_labels"] if human else [])),
    )
