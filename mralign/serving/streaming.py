"""Questions stream through a pool of engines, or through an endpoint; committed parts of generations leave.

Each question part becomes its requests, and run/stream.py does the rest: both modes stream through the same engines, as
the mode only changes the prompt. What the pools of engines and of endpoints take of the cluster is said here, for every
stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import Engine, Http, RunConfig, Search
from mralign.rows import Mode
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.events import MoneySpent
from mralign.run.placement import DEALING, NodeFault, Workers, pool_arguments
from mralign.run.store import StageDir, ahead
from mralign.run.stream import Pool, Streamed, stream
from mralign.serving.remote import RemoteGenerator
from mralign.serving.requests import Sampling, build_requests, request_of
from mralign.serving.vllm import Generator, engine_faults, worker_environment
from mralign.serving.warm import client_pool, keeps_engines, kept_engines


def generate(questions: StageDir, parts: Sequence[str], *, sampling: Sampling, out: StageDir) -> dict[str, Any]:
    """Commit a generation (or a reject) for every request of the question `parts` that has none yet.

    Returns figures: completion_tokens of all rows, rows_repeated_by_retries, of this call the prompt tokens and those
    of them that were in the engines' prefix caches, the seconds until the first engine was ready and those after it,
    and what the actors told. Raises ValueError, when everything that arrived is committed, if an endpoint's budget is
    spent or it refuses us, or if an engine does not serve what was trained.
    """
    a_question = 1 if sampling.order else len(sampling.modes) * sampling.draws
    done = stream(
        {part: count * a_question for part, count in questions.counts(parts).items()},
        requests=partial(_requests_of, questions=questions, sampling=sampling),
        pools=[_pool(sampling)],
        out=out,
        schema=GENERATIONS,
        batch=sampling.engine.batch_size,
        request_of=request_of(sampling),
        money=partial(_spent, endpoint=sampling.endpoint) if sampling.endpoint is not None else None,
    )
    column = ["completion_tokens"]
    sampled = ahead(lambda part: out.read_parts([part], schema=GENERATIONS, columns=column), out.parts())
    prompt_tokens = done.took.get("prompt_tokens", 0)
    cached = {"prompt_tokens": prompt_tokens, "prefix_tokens": done.took.get("prefix_tokens", 0)}
    figures = {
        **(cached if prompt_tokens else {}),  # engines of ours count them; an endpoint's stand in its own figures
        "completion_tokens": sum(pc.sum(table.column("completion_tokens")).as_py() or 0 for table in sampled),
        "rows_repeated_by_retries": done.repeated,
        "engine_start_s": done.engine_start_s,
        "generating_s": done.working_s,
    }
    for told in sorted(done.figures, key=lambda told: told.get("served_minus_trained_logp", 0.0)):
        figures.update(told)  # of several engines, what the one says that is farthest from the trainer
    return figures


def _spent(done: Streamed, *, endpoint: Http) -> list[MoneySpent]:
    """What its purse says the endpoint has cost; nothing where it has no price."""
    if not endpoint.priced:
        return []
    purses = [told["endpoint"] for told in done.figures if "endpoint" in told]
    spent, before = (sum(float(purse[name]) for purse in purses) for name in ("spent", "spent_before"))
    return [MoneySpent(spent=spent, before=before, currency=endpoint.currency)]


def _requests_of(part: str, *, questions: StageDir, sampling: Sampling) -> pa.Table:
    """The requests of one part of questions."""
    table = questions.read_parts([part], schema=QUESTIONS)
    if sampling.order is not None:  # the first draw stands for all of its question
        return build_requests(table, modes=[Mode.OFF], draws=1, seed=sampling.seed)
    return build_requests(table, modes=sampling.modes, draws=sampling.draws, seed=sampling.seed)


def _pool(sampling: Sampling) -> Pool:
    if sampling.endpoint is not None:
        arguments = pool_of(sampling.engine, endpoint=sampling.endpoint)
        return Pool(RemoteGenerator, given={"sampling": sampling}, arguments=arguments)
    workers = engine_workers(sampling.engine)
    if keeps_engines(workers):
        return client_pool(sampling, workers=workers)
    return Pool(Generator, given={"sampling": sampling}, arguments=pool_of(sampling.engine, endpoint=None))


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


def start_engines(sampling: Sampling) -> None:
    """Start the engines that `generate` will ask by this sampling, where it keeps them."""
    workers = engine_workers(sampling.engine)
    if sampling.endpoint is None and keeps_engines(workers):
        kept_engines(sampling, workers=workers)


def stream_workers(config: RunConfig) -> tuple[Workers, ...]:
    """What a stage takes of the cluster that streams requests through the engines of the section `engine`."""
    return engine_workers(config.engine), DEALING


def stream_faults(config: RunConfig) -> list[NodeFault]:
    """What a node lacks for the engines of the section `engine`."""
    return engine_faults([config.engine])


def pool_of(engine: Engine, *, endpoint: Http | None) -> dict[str, Any]:
    """Ray Data's arguments for the actors of an endpoint, or without one for those of engines of our own."""
    return engine_pool(engine) if endpoint is None else endpoint_pool(endpoint, batch_size=engine.batch_size)


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


def endpoint_pool(endpoint: Http | Search, *, batch_size: int) -> dict[str, Any]:
    """Ray Data's arguments for an endpoint: one actor, whatever the cluster. It alone counts the money.

    It waits on the network and takes no CPU: three of them must not fill a laptop and wait for each other.
    """
    import ray

    gathered = endpoint.batch_requests if isinstance(endpoint, Http) and endpoint.batch else 0
    calls = 2 * -(-max(endpoint.concurrency, gathered) // batch_size) + 1
    return {
        "compute": ray.data.ActorPoolStrategy(
            size=1, max_concurrent_calls_per_actor=calls, max_tasks_in_flight_per_actor=2 * calls
        ),
        "num_cpus": 0,
    }
