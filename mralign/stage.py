"""The contract of a stage, and the two ways in which stages spread over a cluster.

A room's `stage.py` exports `Stage` values: a name, what of the configuration matters to it, what it stands on, and
`run`, which reads committed parts of its upstream and commits its own. `map_parts` turns each upstream part into one
part by a remote task; `exchange_parts` first brings rows with the same key together. Both skip what is committed.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import RunConfig
from mralign.rejects import Reject, to_table
from mralign.store import StageDir, part_name

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


def progress(items: Iterable[Any], *, total: int, label: str, unit: str = "part") -> Iterable[Any]:
    """A progress bar on standard error."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=label, unit=unit, mininterval=1.0)


def map_parts(
    context: Context, function: PartFunction, *, source: StageDir, schema: pa.Schema, upstream_schema: pa.Schema
) -> None:
    """Commit `function(part)` for each part of `source` that is not committed yet, one remote task a part."""
    import ray

    done = set(context.out.parts())
    todo = [name for name in source.parts() if name not in done]
    task: Any = ray.remote(_map_one).options(max_retries=3)
    pending = [task.remote(function, source, context.out, name, schema, upstream_schema) for name in todo]
    _wait(pending, context.out.stage)


def exchange_parts(
    context: Context,
    function: PartFunction,
    *,
    source: StageDir,
    key: str,
    buckets: int,
    schema: pa.Schema,
    upstream_schema: pa.Schema,
) -> None:
    """As `map_parts`, but all rows of `source` with the same `key` meet in one of `buckets` new parts."""
    import ray

    done = set(context.out.parts())
    todo = [b for b in range(buckets) if part_name(f"{b:05d}") not in done]
    if not todo:
        return
    split: Any = ray.remote(_split).options(num_returns=buckets, max_retries=3)
    pieces = [split.remote(source, name, key, buckets, upstream_schema) for name in source.parts()]
    columns = [[row] if buckets == 1 else row for row in pieces] or [[upstream_schema.empty_table()] * buckets]
    task: Any = ray.remote(_reduce_bucket).options(max_retries=3)
    pending = [task.remote(function, context.out, b, schema, *(row[b] for row in columns)) for b in todo]
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


def _map_one(
    function: PartFunction, source: StageDir, out: StageDir, name: str, schema: pa.Schema, upstream_schema: pa.Schema
) -> None:
    table, rejects = function(source.read_parts([name], schema=upstream_schema))
    out.commit(name, table, schema=schema, rejects=to_table(rejects))


def _split(source: StageDir, name: str, key: str, buckets: int, schema: pa.Schema) -> Any:
    table = source.read_parts([name], schema=schema)
    owner = pa.array([zlib.crc32(value.encode()) % buckets for value in table.column(key).to_pylist()], pa.int64())
    pieces = [table.filter(pc.equal(owner, b)) for b in range(buckets)]
    return pieces[0] if buckets == 1 else tuple(pieces)


def _reduce_bucket(function: PartFunction, out: StageDir, bucket: int, schema: pa.Schema, *pieces: pa.Table) -> None:
    table, rejects = function(pa.concat_tables(pieces))
    out.commit(part_name(f"{bucket:05d}"), table, schema=schema, rejects=to_table(rejects))
