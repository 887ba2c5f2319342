"""The contract of a stage, and how stages spread over a cluster.

A room's `stage.py` exports `Stage` values: a name, what of the configuration it reads, what it stands on, and `run`,
which reads committed parts of its upstream and commits its own. `map_parts` turns each upstream part into one part by a
remote task; `map_groups` does so with several parts that belong together. Both skip what is committed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig, counted, named
from mralign.run import events
from mralign.run.ahead import Asker, Flow
from mralign.run.forecast import Cost
from mralign.run.placement import NodeFault, Workers
from mralign.run.rejects import Reject, to_table
from mralign.run.store import StageDir

log = logging.getLogger("mralign")

PartFunction = Callable[[pa.Table], tuple[pa.Table, list[Reject]]]


@dataclass(frozen=True)
class Context:
    """What a running stage is given."""

    config: RunConfig
    out: StageDir
    upstream: Mapping[str, StageDir]
    asked_ahead: Mapping[str, Any] = field(default_factory=dict)  # what was taken for it before it began (run/ahead.py)


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
    words: str = ""  # what it does, as the screen says it: "sampling answers"
    # The sections and fields that it reads, by dotted name; every field of them counts for the fingerprint that is not
    # marked where it is declared (config/section.py). A function where values must be resolved first.
    reads: Sequence[str] | Callable[[RunConfig], Mapping[str, Any]] = ()
    ignores: Sequence[str] = ()  # fields of those sections that belong to other stages
    # What of our own code counts besides `version`, by name: instructions, sources of objectives.
    code: Callable[[RunConfig], Mapping[str, Any]] = lambda config: {}
    upstream: tuple[str, ...] = ()
    # Of an upstream stage that says what its portions hold (`figures["content"]`), the one that is read: its content
    # counts for the fingerprint once it is known, in place of all that the upstream stage was made from.
    portions: Callable[[RunConfig], Mapping[str, str]] = lambda config: {}
    inputs: Callable[[RunConfig], Mapping[str, str]] = lambda config: {}  # name -> path of outside files
    check: Callable[[RunConfig], None] = lambda config: None  # ValueError for what can be refused before anything runs
    # What the machine that starts the run lacks for it: keys, room. A plan tells, a run is refused.
    lacks: Callable[[RunConfig], Sequence[str]] = lambda config: ()
    # Whom a stage that has work will ask, and how much, for the plan: when all that it stands on is finished, ...
    forecast: Callable[[Context], Sequence[Cost]] | None = None
    # ... and before, by the expected number of questions of each data set that the stage reads.
    expects: Callable[[RunConfig, Mapping[str, int]], Sequence[Cost]] | None = None
    # How its rows follow from parts of an upstream stage that is still under way.
    flow: Callable[[RunConfig], Flow] | None = None
    # Who can be asked for rows that flow to it before it begins; None of that: nobody, with these settings.
    ahead: Callable[[RunConfig], Asker | None] | None = None
    # What a stage that has work can say of itself, for the plan, before anything has run.
    tell: Callable[[RunConfig], Sequence[str]] | None = None
    # The workers that it needs at the same time, besides short tasks of one CPU; none: it takes any cluster.
    workers: Callable[[RunConfig], Sequence[Workers]] = lambda config: ()
    # Starts what takes it long to start, such as engines; called while an earlier stage runs that has no workers.
    begin_early: Callable[[RunConfig], None] | None = None
    # What the machine of this process lacks for its workers; asked where they will run.
    faults: Callable[[RunConfig], Sequence[NodeFault]] = lambda config: ()
    version: int = 1

    def settings(self, config: RunConfig) -> dict[str, Any]:
        """Everything of the configuration and of our code that its result depends on, as JSON by dotted name."""
        read = self.reads(config) if callable(self.reads) else named(config, *self.reads)
        code = {f"code.{name}": _digest(value) for name, value in self.code(config).items()}
        return counted(read, ignores=self.ignores) | code


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Faults(ValueError):
    """What keeps a run from starting, each fault in a sentence of its own."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = list(dict.fromkeys(faults))
        lines = (f"  {number}. {fault}" for number, fault in enumerate(self.faults, 1))
        many = f"{len(self.faults)} things keep this run from starting:\n" + "\n".join(lines)
        super().__init__(many if len(self.faults) > 1 else "".join(self.faults))


def faults_of(error: ValueError) -> list[str]:
    """Each fault that an exception tells of."""
    return error.faults if isinstance(error, Faults) else [str(error)]


def all_checks(checks: Iterable[Callable[[], object]]) -> None:
    """Make every check; raise one ValueError with what all of them refuse."""
    faults: list[str] = []
    for check in checks:
        try:
            check()
        except ValueError as error:
            faults += faults_of(error)
        except OSError as error:  # a file that cannot be read
            faults.append(f"{error}; correct the path, or the right to read it")
    if faults:
        raise Faults(faults)


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

    context.out.loud()
    done = set() if context.out.was_empty else set(context.out.parts())
    task: Any = ray.remote(_map_group).options(max_retries=3)
    todo = {name: parts for name, parts in groups.items() if name not in done}
    tasks = (
        task.remote(function, source, context.out, name, parts, schema, upstream_schema) for name, parts in todo.items()
    )
    kept = len(groups) - len(todo)
    events.tell(events.WorkBegan(total=len(groups), done=kept))
    began, rejects = time.monotonic(), 0
    for finished, made in enumerate(_finished(tasks), kept + 1):
        context.out.know_rows(made.part, rows=made.rows, size=made.size)
        rejects += made.rejects
        events.tell(events.WorkAdvanced(done=finished, worked_s=time.monotonic() - began, rejects=rejects))
    context.out.quiet()


@dataclass(frozen=True)
class _Made:
    """A part that a task has committed: its rows and bytes, and how many rows were rejected."""

    part: str
    rows: int
    size: int
    rejects: int


def run_tasks(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> list[Any]:
    """`function(*a)` for each a of `arguments` in a remote task; the results as they come, in no order."""
    import ray

    task: Any = ray.remote(function).options(max_retries=3)
    return list(_finished(task.remote(*a) for a in arguments))


def reduce_tasks(
    function: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    *,
    into: Callable[..., Any],
    given: tuple[Any, ...] = (),
) -> Any:
    """`into(*given, *results)` of the results of `function(*a)`, in the order of `arguments`, each in a remote task.

    The driver holds one result at a time, and what comes of all of them.
    """
    import ray

    task: Any = ray.remote(function).options(max_retries=3)
    last: Any = ray.remote(into).options(max_retries=3)
    submitted: list[Any] = []

    def submissions() -> Iterator[Any]:
        for a in arguments:
            submitted.append(task.remote(*a))
            yield submitted[-1]

    for _ in _finished(submissions()):  # the first that failed is told at once
        pass
    return ray.get(last.remote(*given, *submitted))


def _finished(tasks: Iterator[Any]) -> Iterator[Any]:
    """The results of `tasks` as they come; each is submitted, by drawing it, when there is room for it.

    After a failure nothing more is submitted, and what runs is left to end by itself. It is not cancelled: the core of
    Ray 2.60 ends the driver's whole process if a task completes while it is being cancelled ("Tried to complete task
    that was not pending").
    """
    import ray

    running: list[Any] = []
    while True:
        room = 2 * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
        running += islice(tasks, max(0, room))
        if not running:
            return
        ready, running = ray.wait(running, num_returns=1)
        yield ray.get(ready[0])


def _map_group(
    function: PartFunction,
    source: StageDir,
    out: StageDir,
    name: str,
    parts: Sequence[str],
    schema: pa.Schema,
    upstream_schema: pa.Schema,
) -> _Made:
    """Commit one part. Whether an attempt before this one has left rejects is asked while the part is made."""
    with ThreadPoolExecutor(1) as beside:
        left = beside.submit(out.holds, f"rejects/{name}")
        table, rejects = function(source.read_parts(parts, schema=upstream_schema))
        if rejects or left.result():
            out.commit_rejects(name, to_table(rejects))
    size = out.commit(name, table, schema=schema)
    return _Made(name, table.num_rows, size, len(rejects))
