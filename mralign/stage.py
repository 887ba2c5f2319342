"""The contract of a stage, and how stages spread over a cluster.

A room's `stage.py` exports `Stage` values: a name, what of the configuration matters to it, what it stands on, and
`run`, which reads committed parts of its upstream and commits its own. `map_parts` turns each upstream part into one
part by a remote task; `map_groups` does so with several parts that belong together. Both skip what is committed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig
from mralign.rejects import Reject, to_table
from mralign.store import StageDir

log = logging.getLogger("mralign")

PartFunction = Callable[[pa.Table], tuple[pa.Table, list[Reject]]]


@dataclass(frozen=True)
class Context:
    """What a running stage is given."""

    config: RunConfig
    out: StageDir
    upstream: Mapping[str, StageDir]


@dataclass(frozen=True)
class Outcome:
    """What a stage reports when it has committed everything."""

    rows_in: int
    rows_out: int
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One act of the run. `version` is raised when the code's meaning changes: old results are then not reused."""

    name: str
    run: Callable[[Context], Outcome]
    matters: Callable[[RunConfig], Any]  # the part of the configuration that changes the result
    upstream: tuple[str, ...] = ()
    inputs: Callable[[RunConfig], Mapping[str, str]] = lambda config: {}  # name -> path of outside files
    check: Callable[[RunConfig], None] = lambda config: None  # ValueError for what can be refused before anything runs
    version: int = 1


def progress(items: Iterable[Any], *, total: int | None, label: str, unit: str = "part") -> Iterable[Any]:
    """A progress bar on standard error."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit=unit, mininterval=1.0)


def map_parts(
    context: Context, function: PartFunction, *, source: StageDir, schema: pa.Schema, upstream_schema: pa.Schema
) -> None:
    """Commit `function(part)` for each part of `source` that is not committed yet, one remote task a part."""
    groups = {name: [name] for name in source.parts()}
    map_groups(context, function, groups=groups, source=source, schema=schema, upstream_schema=upstream_schema)


def map_groups(
    context: Context,
    function: PartFunction,
    *,
    groups: Mapping[str, Sequence[str]],
    source: StageDir,
    schema: pa.Schema,
    upstream_schema: pa.Schema,
) -> None:
    """As `map_parts`, but `groups` says which parts of `source` become which part: its name -> their names."""
    import ray

    done = set(context.out.parts())
    task: Any = ray.remote(_map_group).options(max_retries=3)
    pending = [
        task.remote(function, source, context.out, name, parts, schema, upstream_schema)
        for name, parts in groups.items()
        if name not in done
    ]
    _wait(pending, context.out.stage)


def _wait(pending: list[Any], label: str) -> None:
    import ray

    def finished() -> Iterable[Any]:
        left = pending
        while left:
            ready, left = ray.wait(left, num_returns=1)
            yield ray.get(ready[0])

    try:
        for _ in progress(finished(), total=len(pending), label=label):
            pass
    except BaseException:
        for task in pending:
            ray.cancel(task)
        raise


def _map_group(
    function: PartFunction,
    source: StageDir,
    out: StageDir,
    name: str,
    parts: Sequence[str],
    schema: pa.Schema,
    upstream_schema: pa.Schema,
) -> None:
    table, rejects = function(source.read_parts(parts, schema=upstream_schema))
    out.commit(name, table, schema=schema, rejects=to_table(rejects))
