"""The one executor: requests stream through pools of actors, and the last pool commits what came of them.

Parts of rows enter by name, with a function that turns a part into its requests (a table with a stable `row_id`). Ray
Data deals the requests in batches to the actors of one pool after the other. The actor of the last pool commits a batch
(rows, rejects, and what each request took) before it lets go of it, so a killed run loses at most the batches in
flight, and the same command asks only for what is missing. The part of a batch is named `<upstream part>-<digest of its
row_ids>`: a batch that Ray runs again replaces itself. At the end the batches of an upstream part become one part.

An actor is a class with one method, which answers the requests of one batch in their order:

    class Labelling:
        def __init__(self, *, annotator: Annotator) -> None:
            self.chat = open_chat_of(annotator)  # what takes long to start

        async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
            return await asyncio.gather(*map(self._label, rows))

        async def _label(self, row: dict[str, Any]) -> Answer:
            try:
                said = await label(self.chat, row)
            except Stopped as reason:  # no money is left: the request stays undone, and all actors stop
                return Answer(stopped=str(reason))
            if isinstance(said, Reject):
                return Answer(rejects=[said])
            return Answer(rows=[{"row_id": row["row_id"], "labels": said.labels}], took=said.tokens)

    parts = {part: candidates.rows(part) for part in candidates.parts()}  # how many requests each one makes
    pool = Pool(Labelling, given={"annotator": annotator}, arguments=endpoint_pool(http, batch_size=16))
    done = stream(parts, requests=partial(read_candidates, candidates), pools=[pool], out=out, schema=LABELS, batch=16)

In front of the last pool an actor returns `Answer(state=...)`, a JSON value that the next pool finds in `row["state"]`.
An actor may have a method `figures()`, a JSON object of what it has done so far: `Streamed.figures` holds the latest of
each actor of the last pool.

To Ray Data a batch is one row (`pack`). It insists on a batch size where GPUs are asked for, and fills a batch with the
tail of one block and the head of the next: with bare rows, batches would mix the rows of two parts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import time
import uuid
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain, count
from typing import Any, Protocol, cast

import pyarrow as pa
import pyarrow.compute as pc

from mralign.run import metrics
from mralign.run.events import MoneySpent, WorkAdvanced, WorkBegan, tell
from mralign.run.finished import Ids, add_tallies, settle, settle_and_merge
from mralign.run.part_merging import pieces_of, tally_name
from mralign.run.part_names import part_key, part_name
from mralign.run.rejects import Reject, to_table
from mralign.run.starts import starting
from mralign.run.store import StageDir, ahead

_HALT = "halted.txt"  # written by the actor that learns that nothing may be asked any more, read by the others
_CARRIED = ("_part", "_state", "_stopped")  # columns of a batch that are not the request's
WAITING_BYTES = 2**28  # of batches between pools: small ones lie in the driver's memory
RETRIES = 10  # of a batch whose actor died under it: one that kills every actor must not go on for ever


@dataclass(frozen=True)
class Answer:
    """What came of one request at one pool.

    The last pool gives `rows` of the output's schema and `rejects`, at least one of either, and in `took` numbers by
    name (or by name and name) of what the request took. A pool in front of it gives `state`. Any pool may give
    `stopped`: why nothing may be asked any more. Such a request stays undone.
    """

    rows: Sequence[Mapping[str, Any]] = ()
    rejects: Sequence[Reject] = ()
    took: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None
    stopped: str = ""


class Actor(Protocol):
    """What a pool is made of."""

    async def answer(self, rows: list[dict[str, Any]]) -> Sequence[Answer]:
        """One answer for each row, in their order; several batches may be answered at the same time."""
        ...


@dataclass(frozen=True)
class Pool:
    """Equal actors, each made by `actor(**given)`; `arguments` are those of Ray Data's `map_batches`."""

    actor: Callable[..., Actor]
    given: Mapping[str, Any]
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Streamed:
    """What a stream reports when everything is committed. All is of this call alone."""

    engine_start_s: float = 0.0  # until the first actor of the last pool was ready
    working_s: float = 0.0  # seconds since then
    took: Mapping[str, Any] = field(default_factory=dict)  # the sum of what the requests took
    figures: Sequence[Mapping[str, Any]] = ()  # the latest of each actor of the last pool
    repeated: int = 0  # requests that were answered twice, because a batch was cut otherwise after a failure


def stream(
    parts: Mapping[str, int],
    *,
    requests: Callable[[str], pa.Table],
    pools: Sequence[Pool],
    out: StageDir,
    schema: pa.Schema,
    batch: int,
    id_column: str = "row_id",
    request_of: Callable[[str], str] = str,
    announce: Callable[[int], object] | None = None,
    money: Callable[[Streamed], Sequence[MoneySpent]] | None = None,
) -> Streamed:
    """Commit an answer for every request of `parts` that has none yet.

    `parts` tells how many requests each upstream part makes, `requests(part)` makes them; it runs in a remote task and
    must make the same ones every time. `batch` requests are asked and committed together. `id_column` names the column
    of `schema` that holds the row_id. Where one request has several rows or rejects of their own row_ids, `request_of`
    maps those to that of the request, and that one to itself.
    `announce` hears how many requests are left before any actor starts; `money` tells of what was taken so far what it
    has cost.

    A request with a reject that another try may mend (`rejects.is_passing`) counts as one without an answer. Raises
    ValueError with the reason when an actor was told to stop; what had arrived by then is committed.
    """
    out.quiet()
    if not out.was_empty and _HALT in out.sizes():
        out.delete_file(_HALT)
    ids = Ids(schema, id_column, request_of)
    known = settle(out, parts, ids=ids, forget=True)
    out.loud()
    left = sum(parts.values()) - len(known)
    done = Streamed()
    if left > 0:
        tell(WorkBegan(unit="rows", total=sum(parts.values()), done=len(known)))
        if announce is not None:
            announce(left)
        todo = {part: known.of[part] for part, size in parts.items() if len(known.of[part]) < size}
        reports = _run(todo, requests=requests, pools=pools, out=out, schema=schema, batch=batch)
        done = _follow(reports, total=sum(parts.values()), kept=len(known), money=money)
    repeated = _merge(out, parts, ids=ids)
    out.quiet()
    return replace(done, repeated=known.repeated + repeated)


def _merge(out: StageDir, parts: Iterable[str], *, ids: Ids) -> int:
    """Merge the parts that answer each upstream part, by a remote task; how many requests were answered twice."""
    import ray

    task: Any = ray.remote(cast(Any, settle_and_merge)).options(max_retries=3)
    return sum(ray.get([task.remote(out, pieces, ids=ids) for pieces in pieces_of(out, parts)]))


def answers_of(
    requests: Sequence[Mapping[str, Any]],
    *,
    rows: Iterable[Mapping[str, Any]],
    rejects: Iterable[Reject],
    request_of: Callable[[str], str] = str,
) -> list[Answer]:
    """One answer for each request, from rows and rejects in any order; `request_of` as in `stream`."""
    rows_of: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        rows_of[request_of(row["row_id"])].append(row)
    rejects_of: dict[str, list[Reject]] = defaultdict(list)
    for reject in rejects:
        rejects_of[request_of(reject.row_id)].append(reject)
    row_ids = [request["row_id"] for request in requests]
    return [Answer(rows_of[row_id], rejects_of[row_id]) for row_id in row_ids]


def batch_key(row_ids: Sequence[str]) -> str:
    """Sixteen hex digits that name the batch of these rows, in whatever order they come."""
    return hashlib.sha256("\n".join(sorted(row_ids)).encode()).hexdigest()[:16]


def pack(table: pa.Table, *, rows: int) -> Iterator[pa.Table]:
    """The table as tables of one row, each of which holds up to `rows` rows as an Arrow stream."""
    for start in range(0, table.num_rows, rows):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, rows))
        yield pa.table({"batch": pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})


def unpack(batch: pa.Table) -> pa.Table:
    """The table that a table of one row holds."""
    (stream,) = batch.column("batch")
    return pa.ipc.open_stream(stream.as_buffer()).read_all()


def _read_halt(out: StageDir) -> str:
    """Why nothing may be asked any more, as an actor wrote it; empty if all may go on."""
    return out.find_text(_HALT) or ""


@dataclass(frozen=True)
class _Report:
    """What the last pool tells the driver of one batch."""

    rows: int  # requests that are finished
    rejects: int  # rows that were put aside
    ready: float  # when the actor had started (seconds since the epoch)
    took: dict[str, Any]
    stopped: str
    actor: str
    number: int  # of the batch at its actor; reports may overtake each other
    figures: dict[str, Any]


def _run(
    todo: Mapping[str, pa.Array],
    *,
    requests: Callable[[str], pa.Table],
    pools: Sequence[Pool],
    out: StageDir,
    schema: pa.Schema,
    batch: int,
) -> Iterator[_Report]:
    """The reports of the last pool as they come; `todo`: part -> row_ids of its requests that are finished."""
    import ray
    from ray.util.annotations import RayDeprecationWarning

    finished_type = pa.list_(pa.string())
    blocks = [pa.table({"part": [part], "finished": pa.array([ids], finished_type)}) for part, ids in todo.items()]
    dealt: Any = ray.data.from_arrow(blocks).map_batches(
        cast(Any, _deal),
        fn_kwargs={"requests": requests, "rows": batch},
        batch_size=1,
        batch_format="pyarrow",
    )
    data = dealt.repartition(target_num_rows_per_block=1)
    options = data.context.execution_options
    options.resource_limits = options.resource_limits.copy(object_store_memory=WAITING_BYTES)
    for number, pool in enumerate(pools, 1):
        given = {"actor": pool.actor, "given": dict(pool.given), "out": out}
        given["schema"] = schema if number == len(pools) else None
        with warnings.catch_warnings():
            # Ray 2.60 knows no other way to bound the retries of a batch, and says that a later one will know none.
            warnings.simplefilter("ignore", RayDeprecationWarning)
            data = data.map_batches(
                _worker_class(pool),
                fn_constructor_kwargs=given,
                batch_size=1,
                batch_format="pyarrow",
                ray_remote_args_fn=lambda: {"max_task_retries": RETRIES},
                **pool.arguments,
            )
    for block in data.iter_batches(batch_size=1, batch_format="pyarrow"):
        for text in block.column("report").to_pylist():
            yield _Report(**json.loads(text))


def _deal(table: pa.Table, *, requests: Callable[[str], pa.Table], rows: int) -> Iterator[pa.Table]:
    """The unfinished requests of the parts in `table` as packed batches.

    What is finished was read when the run started: Ray may call this again for a lost block, and must get the same.
    """
    for part, finished in zip(table.column("part").to_pylist(), table.column("finished"), strict=True):
        asked = requests(part)
        known = pc.is_in(asked.column("row_id"), value_set=finished.values)
        left = asked.filter(pc.invert(known))
        for name, text in zip(_CARRIED, (part_key(part), "null", ""), strict=True):
            left = left.append_column(name, pa.array([text] * left.num_rows, pa.string()))
        yield from pack(left, rows=rows)


def _worker_class(pool: Pool) -> type:
    """`_Worker` under the name of the pool's actor, by which Ray calls its processes."""
    return type(getattr(pool.actor, "__name__", "Actor"), (_Worker,), {})


class _Worker:
    """A Ray Data actor: what makes an `Actor` one step of the stream. `schema`: that of the output, at the last."""

    def __init__(
        self, *, actor: Callable[..., Actor], given: Mapping[str, Any], out: StageDir, schema: pa.Schema | None
    ) -> None:
        with starting(f"an actor of this stage ({type(self).__name__})"):
            self.actor, self.out, self.schema = actor(**given), out, schema
        self.ready, self.name, self.batches, self.halted = time.time(), uuid.uuid4().hex, count(1), ""

    async def __call__(self, block: pa.Table) -> pa.Table:
        """Not the last pool: the batch with its new state. The last: its answers are committed, a report leaves."""
        batch = unpack(block)
        answers = await self._answers(batch)
        reason = next((answer.stopped for answer in answers if answer.stopped), "")
        if reason and not self.halted:
            self.halted = reason
            await asyncio.to_thread(self.out.write_text, _HALT, reason)
        if self.schema is None:
            return _with_answers(batch, answers)
        report = await asyncio.to_thread(self._commit, batch, answers)
        return pa.table({"report": [json.dumps(asdict(report))]})

    async def _answers(self, batch: pa.Table) -> list[Answer]:
        """One answer a row; a row that was stopped at an earlier pool is not asked, nor any after a halt."""
        if not self.halted:  # at another actor: nothing more is paid for that would be of no use
            self.halted = await asyncio.to_thread(_read_halt, self.out)
        stopped = [text or self.halted for text in batch.column("_stopped").to_pylist()]
        states = batch.column("_state").to_pylist()
        rows = batch.drop_columns(list(_CARRIED)).to_pylist()
        asked = []
        for row, state, text in zip(rows, states, stopped, strict=True):
            if not text:
                asked.append(row if state == "null" else {**row, "state": json.loads(state)})
        came = iter(await self.actor.answer(asked) if asked else ())
        return [Answer(stopped=text) if text else next(came) for text in stopped]

    def _commit(self, batch: pa.Table, answers: Sequence[Answer]) -> _Report:
        row_ids = batch.column("row_id").to_pylist()
        finished = {row_id: answer for row_id, answer in zip(row_ids, answers, strict=True) if not answer.stopped}
        tallies = {row_id: answer.took for row_id, answer in finished.items()}
        if finished:
            part = part_name(f"{batch.column('_part')[0]}-{batch_key(row_ids)}")
            self._write(part, finished, tallies=tallies if any(tallies.values()) else {})
        took = add_tallies(tallies.values())
        number = next(self.batches)
        figures: dict[str, Any] = getattr(self.actor, "figures", dict)()
        put_aside = list(chain.from_iterable(answer.rejects for answer in finished.values()))
        rejects = len(put_aside)
        metrics.committed(
            self.out.stage,
            rows=len(finished),
            reasons=[reject.reason for reject in put_aside],
            tokens=metrics.tokens_of([took, *(row for answer in finished.values() for row in answer.rows)]),
        )
        return _Report(len(finished), rejects, self.ready, took, self.halted, self.name, number, figures)

    def _write(self, part: str, finished: Mapping[str, Answer], *, tallies: Mapping[str, Any]) -> None:
        """Commit the rows and rejects of requests; rejects and tallies side by side, then the part."""
        rows: list[Any] = []
        rejects: list[Reject] = []
        for row_id, answer in finished.items():
            assert answer.rows or answer.rejects, f"nothing came of {row_id}: it would be asked for ever"
            rows += answer.rows
            rejects += answer.rejects
        assert self.schema is not None
        before: list[Callable[[], object]] = [partial(self.out.commit_rejects, part, to_table(rejects))]
        if tallies:
            before.append(partial(self.out.write_text, tally_name(part), json.dumps(tallies)))
        for _ in ahead(lambda write: write(), before):
            pass
        self.out.commit(part, pa.Table.from_pylist(rows, schema=self.schema), schema=self.schema)


def _with_answers(batch: pa.Table, answers: Sequence[Answer]) -> pa.Table:
    """A packed batch for the next pool."""
    states = pa.array([json.dumps(answer.state) for answer in answers], pa.string())
    stopped = pa.array([answer.stopped for answer in answers], pa.string())
    kept = batch.drop_columns(["_state", "_stopped"])
    (packed,) = pack(kept.append_column("_state", states).append_column("_stopped", stopped), rows=len(answers))
    return packed


def _follow(
    reports: Iterator[_Report], *, total: int, kept: int, money: Callable[[Streamed], Sequence[MoneySpent]] | None
) -> Streamed:
    """Drive the stream and tell how far it is; `kept` of `total` requests were answered before."""
    began, clock, stopped = time.time(), time.monotonic(), ""
    done, rejects = kept, 0
    streamed = Streamed()
    latest: dict[str, _Report] = {}
    ready = math.inf
    for report in reports:
        ready, stopped = min(ready, report.ready), stopped or report.stopped
        done, rejects = done + report.rows, rejects + report.rejects
        latest[report.actor] = max(report, latest.get(report.actor, report), key=lambda one: one.number)
        figures = [one.figures for one in latest.values()]
        streamed = Streamed(took=add_tallies([streamed.took, report.took]), figures=figures)
        _, worked = _split(time.monotonic() - clock, ready=ready - began)
        tell(WorkAdvanced(done=done, worked_s=worked, rejects=rejects))
        for spent in money(streamed) if money is not None else ():
            tell(spent)
    if stopped:
        raise ValueError(stopped)
    start, worked = _split(time.monotonic() - clock, ready=ready - began)
    return replace(streamed, engine_start_s=round(start, 2), working_s=round(worked, 2))


def _split(passed: float, *, ready: float) -> tuple[float, float]:
    """Seconds until the first actor was ready, and those since. `ready` is by two clocks that may have been set."""
    start = min(max(ready, 0.0), passed)
    return start, passed - start
