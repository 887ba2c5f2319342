"""Requests stream through a pool of engines; committed parts of generations leave.

Committed parts of questions enter, by name. Ray Data expands each to its requests, deals them in batches to engine
actors between two bounds, and each actor commits a batch before it lets go of it: a killed run loses at most the
batches in flight. The part of a batch is named after its rows, so a batch that Ray runs again replaces itself. Both
modes stream through the same engines: the mode only changes the prompt.

To Ray Data a batch is one row (`pack`). It insists on a batch size where GPUs are asked for, and fills a batch with the
tail of one block and the head of the next: with bare rows, batches would mix the rows of two parts.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.chat.self_refine import is_turn
from mralign.config import Engine, Http, RunConfig
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.placement import DEALING, Fault, Workers, pool_arguments
from mralign.run.rejects import is_passing
from mralign.run.stage import progress
from mralign.run.store import StageDir, drop_repeated, part_key
from mralign.serving.remote import RemoteGenerator
from mralign.serving.requests import Sampling, build_requests
from mralign.serving.vllm import Generator, engine_faults, worker_environment

_RETRIES = 10  # of a batch whose engine died under it: one that kills every engine must not go on for ever


def generate(questions: StageDir, parts: Sequence[str], *, sampling: Sampling, out: StageDir) -> dict[str, Any]:
    """Commit a generation (or a reject) for every request of the question `parts` that has none yet.

    The parts that leave are named `<question part>-<batch>`. Returns figures: completion_tokens of all rows,
    rows_repeated_by_retries, and of this call the seconds until the first engine was ready and those after it.
    """
    forget_failures(out)
    done = {part: [p for p in out.parts() if p.startswith(f"part-{part_key(part)}-")] for part in parts}
    for names in done.values():
        drop_repeated(out, schema=GENERATIONS, parts=names)  # of a run that was killed before it came to that
    rows = sum(questions.rows(part) for part in parts) * len(sampling.modes) * sampling.draws
    kept = sum(_answered(out, p, turns=sampling.refinement is not None) for names in done.values() for p in names)
    began = time.time()
    said: dict[str, Any] = {"ready": began, "endpoint": {}, "difference": None}
    if kept < rows:
        said = _stream(questions, done, sampling=sampling, out=out, left=rows - kept)
    groups = [[p for p in out.parts() if p.startswith(f"part-{part_key(part)}-")] for part in parts]
    repeated = sum(drop_repeated(out, schema=GENERATIONS, parts=names) for names in groups)
    sampled = (out.read_parts(names, schema=GENERATIONS, columns=["completion_tokens"]) for names in groups)
    tokens = sum(pc.sum(table.column("completion_tokens")).as_py() or 0 for table in sampled)
    return {
        "completion_tokens": tokens,
        "rows_repeated_by_retries": repeated,
        "engine_start_s": round(said["ready"] - began, 2),
        "generating_s": round(time.time() - said["ready"], 2),
        **({"endpoint": said["endpoint"]} if said["endpoint"] else {}),
        **({} if said["difference"] is None else {"served_minus_trained_logp": said["difference"]}),
    }


def _answered(out: StageDir, part: str, *, turns: bool) -> int:
    """How many requests have a row or a reject in a part; the later `turns` of Self-Refine are none of them."""
    if not turns:
        return out.rows(part) + out.reject_rows(part)
    ids = out.read_parts([part], schema=GENERATIONS, columns=["row_id"]).column("row_id").to_pylist()
    ids += out.read_rejects([part], columns=["row_id"]).column("row_id").to_pylist()
    return sum(not is_turn(row_id) for row_id in ids)


def expand(
    batch: pa.Table, *, questions: StageDir, done: dict[str, list[str]], sampling: Sampling, out: StageDir
) -> Iterator[pa.Table]:
    """The requests of the question parts named in `batch` that have no row in the parts `done`, as packed batches.

    `done` is fixed when the run starts: Ray may call this again for a lost block, and must get the same rows.
    """
    for part in batch.column("part").to_pylist():
        table = questions.read_parts([part], schema=QUESTIONS)
        requests = build_requests(table, modes=sampling.modes, draws=sampling.draws, seed=sampling.seed)
        finished = out.read_parts(done[part], schema=GENERATIONS, columns=["row_id"]).column("row_id").to_pylist()
        finished += out.read_rejects(done[part]).column("row_id").to_pylist()
        left = ~np.isin(requests.column("row_id").to_numpy(), np.array(finished, dtype=object))
        todo = requests.filter(pa.array(left))
        part_column = pa.array([part_key(part)] * todo.num_rows, pa.string())
        yield from pack(todo.append_column("question_part", part_column), rows=sampling.engine.batch_size)


def forget_failures(out: StageDir) -> None:
    """Remove the rejects that another try may mend: their rows are asked again. An endpoint that was down, or that
    refused a call (http_400: a wrong name or setting, mended since); neither had a price."""
    for part in out.parts():
        rejects = out.read_rejects([part])
        reasons = rejects.column("reason").to_pylist()
        passing = np.array([is_passing(reason) for reason in reasons], dtype=bool)
        lasting = rejects.filter(pa.array(~passing, pa.bool_()))
        if lasting.num_rows < rejects.num_rows:
            out.commit_rejects(part, lasting)


def _stream(
    questions: StageDir, done: dict[str, list[str]], *, sampling: Sampling, out: StageDir, left: int
) -> dict[str, Any]:
    """Sample what is left; return what `_rows` gathers.

    Raises ValueError, when everything that arrived is committed, if an endpoint's budget is spent or it refuses us, or
    if an engine does not serve what was trained.
    """
    given = {"questions": questions, "done": done, "sampling": sampling, "out": out}
    requests = deal(list(done), read=expand, given=given)
    if sampling.endpoint is not None:
        actor: type = RemoteGenerator
        pool = endpoint_pool(sampling.endpoint, batch_size=sampling.engine.batch_size)
    else:
        actor, pool = Generator, engine_pool(sampling.engine)
    counts = visit(requests, actor, given={"sampling": sampling, "out": out}, pool=pool)
    said: dict[str, Any] = {}
    for _ in progress(_rows(counts, said=said), total=left, label=out.stage, unit="row"):
        pass
    if said["stopped"]:
        raise ValueError(said["stopped"])
    return said


def deal(parts: Sequence[str], *, read: Callable[..., Iterator[pa.Table]], given: Mapping[str, Any]) -> Any:
    """A Ray Data set of packed batches: those that `read(table of part names, **given)` yields, each in its block."""
    import ray

    names = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
    packed = names.map_batches(cast(Any, read), fn_kwargs=dict(given), batch_size=1, batch_format="pyarrow")
    return packed.repartition(target_num_rows_per_block=1)


def visit(batches: Any, actor: type, *, given: Mapping[str, Any], pool: Mapping[str, Any]) -> Any:
    """The packed batches go through a pool of actors, each made by `actor(**given)`; what the actors return leaves,
    packed as well."""
    from ray.util.annotations import RayDeprecationWarning

    with warnings.catch_warnings():
        # Ray 2.60 knows no other way to bound the retries of a batch, and says that a later one will know none at all.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        return batches.map_batches(
            takes_packed(actor),
            fn_constructor_kwargs=dict(given),
            batch_size=1,
            batch_format="pyarrow",
            ray_remote_args_fn=lambda: {"max_task_retries": _RETRIES},
            **pool,
        )


def reports(batches: Any) -> Iterator[pa.Table]:
    """What the last actors returned, as it comes."""
    for block in batches.iter_batches(batch_size=1, batch_format="pyarrow"):
        yield unpack(block)


def takes_packed(actor: type) -> type:
    """`actor`, whose `__call__` maps a table to a table, for packed ones."""

    class Packed(actor):  # type: ignore[misc]
        async def __call__(self, batch: pa.Table) -> pa.Table:
            answer = await super().__call__(unpack(batch))
            (packed,) = pack(answer, rows=answer.num_rows)
            return packed

    Packed.__name__ = actor.__name__  # what Ray calls its processes
    return Packed


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


def engine_workers(engine: Engine, *, what: str = "vLLM engines", setting: str = "engine") -> Workers:
    """What the engines of a section take of the cluster; `setting`: where the section stands."""
    split = engine.tensor_parallel * engine.pipeline_parallel > 1
    return Workers(
        what,
        f"{setting}.gpus_per_replica" + (", tensor_parallel x pipeline_parallel" if split else ""),
        cpus=engine.cpus_per_replica,
        gpus=engine.gpus_per_replica,
        least=engine.min_replicas,
        most=engine.max_replicas,
    )


def stream_workers(config: RunConfig) -> tuple[Workers, ...]:
    """What a stage takes of the cluster that streams requests through the engines of the section `engine`."""
    return engine_workers(config.engine), DEALING


def stream_faults(config: RunConfig) -> list[Fault]:
    """What a node lacks for the engines of the section `engine`."""
    return engine_faults(config.engine)


def engine_pool(engine: Engine) -> dict[str, Any]:
    """Ray Data's arguments for actors that each hold a vLLM engine."""
    import ray

    return {
        "compute": ray.data.ActorPoolStrategy(
            min_size=engine.min_replicas,
            max_size=engine.max_replicas,
            max_concurrent_calls_per_actor=engine.concurrent_batches,
            max_tasks_in_flight_per_actor=2 * engine.concurrent_batches,
        ),
        **pool_arguments(engine_workers(engine)),
        "runtime_env": {"env_vars": worker_environment(engine)},
    }


def endpoint_pool(endpoint: Http, *, batch_size: int) -> dict[str, Any]:
    """Ray Data's arguments for an endpoint: one actor, whatever the cluster. It alone counts the money.

    It waits on the network and takes no CPU: three of them must not fill a laptop and wait for each other.
    """
    import ray

    calls = 2 * -(-endpoint.concurrency // batch_size) + 1
    return {
        "compute": ray.data.ActorPoolStrategy(
            size=1, max_concurrent_calls_per_actor=calls, max_tasks_in_flight_per_actor=2 * calls
        ),
        "num_cpus": 0,
    }


def _rows(counts: Any, *, said: dict[str, Any]) -> Iterator[int]:
    """One item a row; `said` gets the earliest `ready` (seconds since the epoch), the last `stopped`, the endpoint's
    largest figures, and the engines' largest `difference` from the trainer."""
    said.update(ready=float("inf"), stopped="", endpoint={}, difference=None)
    for report in reports(counts):
        for row in report.to_pylist():
            said["ready"] = min(said["ready"], row["ready"])
            said["stopped"] = row.get("stopped") or said["stopped"]
            if row.get("difference") is not None:
                said["difference"] = max(row["difference"], said["difference"] or 0.0)
            figures = json.loads(row.get("endpoint") or "{}")
            if figures.get("requests", 0) >= said["endpoint"].get("requests", 0):
                said["endpoint"] = figures
            yield from range(row["rows"])
