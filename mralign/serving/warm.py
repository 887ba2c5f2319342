"""Engines that stay from one stage to the next: each start costs tens of seconds.

What a stage asks (`Sampling`) enters; a pool of a stream leaves whose actors hold no engine, and hand their batches to
engines of the driver. The driver keeps the engines of one model. A stage that asks the same model finds them ready; one
that asks a model with other weights and nothing else different (a trained one) has the weights exchanged in place, and
takes the engines only if they agree with the trainer's log-probabilities. Otherwise new engines are started.

Ray starts a kept engine again if its process dies, and gives it the batches that it had, as in a pool of Ray Data.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from mralign.chat.model_files import load_tokenizer, model_path, tokenizer_path, weight_files
from mralign.config import Model, resolve_path
from mralign.run.digests import digest
from mralign.run.held import Held, give_back, hold, may_hold
from mralign.run.placement import Workers, actor_options
from mralign.run.shared_copies import bytes_of, seen_from_outside
from mralign.run.starts import starting
from mralign.run.stream import RETRIES, Answer, Pool
from mralign.serving.requests import Sampling, renderer_of
from mralign.serving.vllm import Generator, worker_environment

log = logging.getLogger("mralign")


class KeptEngine(Generator):
    """A Ray actor: one engine, for whatever stage asks. Every batch says by which settings it is to be answered, so
    that an engine that was started again serves what the stage wants."""

    def __init__(self, *, sampling: Sampling) -> None:
        with starting(f"the engine of {sampling.model.path}"):
            super().__init__(sampling=sampling)
        self.changing = asyncio.Lock()

    async def take(self, sampling: Sampling) -> tuple[str | None, dict[str, Any]]:
        """Answer by these settings from now on. Returns why this engine cannot, or None; and its figures."""
        async with self.changing:
            if sampling != self.sampling:
                await asyncio.to_thread(self._change_to, sampling)
        return self.fault, self.figures()

    def _change_to(self, sampling: Sampling) -> None:
        path = model_path(sampling.model)
        exchanges = _paths(sampling.model) != _paths(self.sampling.model)
        if exchanges:
            self.engine.exchange_weights(path)
        else:
            self.engine.forget_prefixes()
        self.renderer = renderer_of(sampling, path=path)
        self.ask_by(sampling)
        if exchanges and self.difference is None:
            self.fault = "no example of the training is short enough to show whose weights it has"

    async def answer_for(self, sampling: Sampling, requests: list[dict[str, Any]]) -> list[Answer]:
        """As `Generator.answer`, by these settings."""
        await self.take(sampling)
        return await self.answer(requests)


class EngineClient:
    """An actor of a stream that holds no engine: it hands each batch to the next kept engine that has room for one."""

    def __init__(self, *, engines: list[Any], sampling: Sampling) -> None:
        import ray

        self.engines, self.sampling = engines, sampling
        self.told: dict[str, Any] = {}
        self.offers: list[asyncio.Task[None]] = []
        self.with_room: asyncio.Queue[Any] = asyncio.Queue()
        ray.wait([engine.take.remote(sampling) for engine in engines], num_returns=1)  # ready when the first one is

    async def answer(self, requests: list[dict[str, Any]]) -> Sequence[Answer]:
        """What an engine answers to the requests."""
        if not self.offers:  # only here is there a loop that they can run in
            self.offers = [asyncio.create_task(self._offer(engine)) for engine in self.engines]
        engine = await self.with_room.get()
        try:
            answers: Sequence[Answer] = await engine.answer_for.remote(self.sampling, requests)
        finally:
            self.with_room.put_nowait(engine)
        return answers

    async def _offer(self, engine: Any) -> None:
        """Let the engine have batches once it has started; one that cannot start fails with the batch it is given."""
        try:
            _, told = await engine.take.remote(self.sampling)
            self.told = max(self.told, told, key=lambda one: one.get("served_minus_trained_logp", 0.0))
        finally:
            rooms = -(-self.sampling.engine.concurrent_batches // len(self.engines))  # as many clients share them
            for _ in range(rooms):
                self.with_room.put_nowait(engine)

    def figures(self) -> dict[str, Any]:
        """Those of the engine that is farthest from the trainer."""
        return self.told


@dataclass
class _KeptEngines:
    """The engines of the driver and what they serve."""

    engines: list[Any]
    sampling: Sampling
    files: str  # what changes with the model's files
    held: Held


_kept: _KeptEngines | None = None


def keeps_engines(workers: Workers) -> bool:
    """Whether the engines of a stage are kept: inside `holding`, and where Ray Data is not to scale their number."""
    return may_hold() and workers.least == workers.most


def client_pool(sampling: Sampling, *, workers: Workers) -> Pool:
    """A client for each kept engine. They share the engines, so that none waits for work that another has."""
    import ray

    engines = kept_engines(sampling, workers=workers)
    calls = sampling.engine.concurrent_batches
    arguments = {
        "compute": ray.data.ActorPoolStrategy(
            size=len(engines), max_concurrent_calls_per_actor=calls, max_tasks_in_flight_per_actor=2 * calls
        ),
        "num_cpus": 0,
    }
    return Pool(EngineClient, given={"engines": engines, "sampling": sampling}, arguments=arguments)


def kept_engines(sampling: Sampling, *, workers: Workers) -> list[Any]:
    """The kept engines, where they can serve what is asked; else new ones in their place."""
    global _kept
    files = _files(sampling.model)
    if _kept is not None and _takes(_kept, sampling, files=files):
        _kept.sampling, _kept.files = sampling, files
        return _kept.engines
    if _kept is not None:
        give_back(_kept.held)
    engines = [_start(sampling, workers=workers) for _ in range(workers.most)]
    held = Held(workers, partial(_end, engines), alone=_fills_memory(sampling.model))
    _kept = _KeptEngines(engines, sampling, files, held)
    hold(held)
    return engines


def _start(sampling: Sampling, *, workers: Workers) -> Any:
    import ray

    kind: Any = ray.remote(KeptEngine)
    options = {
        **actor_options(workers),
        "max_restarts": -1,
        "max_task_retries": RETRIES,
        "runtime_env": {"env_vars": worker_environment(sampling.engine)},
    }
    return kind.options(**options).remote(sampling=sampling)


def _end(engines: list[Any]) -> None:
    global _kept
    import ray

    _kept = None
    if ray.is_initialized():  # else they have ended with it
        for engine in engines:
            ray.kill(engine)


def _takes(kept: _KeptEngines, sampling: Sampling, *, files: str) -> bool:
    """Whether the kept engines serve what is asked; where only weights differ, they are exchanged for that."""
    import ray

    if _settings(kept.sampling) != _settings(sampling):
        return False
    if files == kept.files:
        return True
    if not sampling.probe or not _differ_in_weights_only(kept.sampling.model, sampling.model):
        return False
    try:
        taken = ray.get([engine.take.remote(sampling) for engine in kept.engines])
    except ray.exceptions.RayError as error:
        log.info("an engine could not exchange its weights, a new one is started: %s", error)
        return False
    faults = [fault for fault, _ in taken if fault]
    for fault in faults:
        log.info("an engine with exchanged weights is given up, a new one is started: %s", fault)
    return not faults


def _settings(sampling: Sampling) -> tuple[Any, ...]:
    """What an engine is started with, apart from the model's files."""
    return sampling.engine, sampling.model.dtype, sampling.model.trust_remote_code


def _paths(model: Model) -> tuple[str, str | None]:
    return model.path, model.adapter


def _files(model: Model) -> str:
    """What changes with the files of a model. Those in a store are not read for it."""
    return " ".join(_files_at(resolve_path(path)) for path in _paths(model) if path)


def _files_at(path: str) -> str:
    listed = seen_from_outside(path) if "://" in path else None
    return listed or digest(path)


def _fills_memory(model: Model) -> bool:
    """Whether this model's weights are large (or of unknown size) beside the memory of this machine: an idle engine
    would then take what a training needs."""
    path = resolve_path(model.path)
    if "://" in path:
        size = bytes_of(path, wanted=lambda name: name.endswith(".safetensors"))
    else:
        size = sum(file.stat().st_size for file in weight_files(path))
    return not size or size > psutil.virtual_memory().total / 32


# Keys of a config.json that do not change what the model computes in the dtype that it is served in.
_NO_MATTER = {"_name_or_path", "transformers_version", "torch_dtype", "dtype"}


def _differ_in_weights_only(old: Model, new: Model) -> bool:
    """Whether two models have one architecture and one tokenizer, and a head of their own: vLLM does not exchange one
    that is tied to the embeddings."""
    first, second = (_described(model) for model in (old, new))
    return first == second and not first["tied"]


def _described(model: Model) -> dict[str, Any]:
    from transformers import AutoConfig

    path = tokenizer_path(model)
    config = AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code)
    tokenizer = load_tokenizer(path, model=model, dated=False)
    values = {key: value for key, value in config.to_dict().items() if key not in _NO_MATTER}
    return {
        "config": values,
        "tied": config.get_text_config().tie_word_embeddings,
        "vocabulary": tokenizer.get_vocab(),
        "end": tokenizer.eos_token_id,
        "generation": _text(Path(path) / "generation_config.json"),
    }


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.is_file() else ""
