"""vLLM engines: one in an actor, fed from many batches at once.

Batches of requests enter; rows of schema GENERATIONS leave, a bad row as a reject. An engine belongs to a
thread (engine_thread.py) to which requests are added as they come, so those of several batches decode together and the
tail of one batch does not idle.

Both alternatives were tried (`tests/benchmarks/rollouts.py --others`, two cores, the embedded model, one run): over
raw `LLM.generate`, a bare AsyncLLM gave .87, `ray.data.llm` .63, and this engine without Ray .95, its whole stage .69,
since then .80 (SmolLM2-135M: 1.00). AsyncLLM always runs its core in a child process: 15 s more to start on a CPU, and
the child outlives a kill -9 of its actor. `ray.data.llm` asks for a processor a mode, and its rows are committed by a
later operator, not by the actor.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mralign.chat.model_files import adapter_paths, model_path
from mralign.chat.prompts import Prompt
from mralign.config import Decoding, Engine, Model
from mralign.rows import Generation, Request
from mralign.run.disk import own_temporary_directory
from mralign.run.placement import NodeFault
from mralign.run.rejects import Reject
from mralign.run.stream import Answer, answers_of
from mralign.serving.adapter import save_merged, served_beside
from mralign.serving.draws_as_needed import settle_question
from mralign.serving.engine_thread import EngineThread, Watch
from mralign.serving.orphans import start_guard
from mralign.serving.probe import fault, mean_difference, read_probe
from mralign.serving.requests import Sampling, renderer_of, request_of
from mralign.serving.start_faults import printed, start_fault


def worker_environment(engine: Engine) -> dict[str, str]:
    """Environment of a vLLM worker. Without a GPU the engine runs in the actor itself: nothing outlives the actor. With
    one, Ray says in CUDA_VISIBLE_DEVICES which GPUs are this worker's."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "PYTHONWARNINGS": "ignore"}
    if engine.gpus_per_replica:
        return quiet
    return quiet | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
        "CUDA_VISIBLE_DEVICES": "",
    }


def engine_faults(engines: Iterable[Engine]) -> list[NodeFault]:
    """What keeps vLLM from serving these engines on the machine of this process, each fault once."""
    found = []
    for engine in engines:
        if find_spec("vllm") is None:
            text = "its engines are vLLM's, which is not installed"
            found.append(NodeFault(f"{text}: in a checkout, pip install '.[gpu]'"))
        elif engine.gpus_per_replica and _cpu_build():
            given = f"an engine takes {engine.gpus_per_replica:g} GPU"
            text = f"{given}, but vLLM there is the CPU build and leaves it idle"
            found.append(NodeFault(f"{text}: in a checkout, pip install '.[gpu]'", fatal=False))
    return list(dict.fromkeys(found))


def _cpu_build() -> bool:
    """Whether the installed vLLM computes on CPUs, told by its package: importing it takes many seconds."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def own_format(path: str) -> dict[str, Any]:
    """vLLM's arguments by which it reads a model as transformers does, whatever else lies in its directory: files of
    Mistral's own format (tekken.json, params.json, consolidated.safetensors) would be preferred to it."""
    formats = {"tokenizer_mode": "hf", "config_format": "hf"}
    consolidated = Path(path).is_dir() and any(Path(path).glob("consolidated*.safetensors"))
    return formats | ({"load_format": "hf"} if consolidated else {})


def start_engine(path: str, *, model: Model, engine: Engine) -> EngineThread:
    """The engine of a model directory or hub name, with its adapter if it has one."""
    from vllm import EngineArgs, LLMEngine
    from vllm.config import StructuredOutputsConfig
    from vllm.platforms import current_platform

    lora: Any = None
    on_cpu = current_platform.is_cpu()  # what vLLM computes on, whatever the engine was given
    options = _whole_prefill(engine) if on_cpu else {}
    for adapter in adapter_paths(model):
        if not on_cpu and served_beside(adapter):
            lora, options = _lora(adapter)
        else:  # vLLM serves no adapters on a CPU, and only LoRA on linear layers elsewhere
            target = own_temporary_directory("merged")
            save_merged(path, adapters=[adapter], target=Path(target), model=model)
            path = target
    arguments = EngineArgs(
        model=path,
        **own_format(path),
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        tensor_parallel_size=engine.tensor_parallel,
        pipeline_parallel_size=engine.pipeline_parallel,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        enforce_eager=engine.enforce_eager or on_cpu,
        enable_prefix_caching=True,
        # A weak model can write white space between the tokens of a JSON object until its tokens are spent.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        disable_log_stats=True,
        **options,
    )
    if os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") != "0":
        start_guard()
    before = printed()
    try:
        started = LLMEngine.from_engine_args(arguments)
    except Exception as error:
        found = start_fault(error, path=path, since=before)
        if found is error:
            raise
        raise found from error
    return EngineThread(started, lora=lora)


def sampling_parameters(
    decoding: Decoding,
    *,
    max_tokens: int,
    seed: int,
    schema: dict[str, Any] | None = None,
    any_object: bool = False,
    keep_special: bool = False,
) -> Any:
    """vLLM's SamplingParams; `schema` holds the completion to a JSON schema, or to any JSON object.

    `keep_special`: the text holds special tokens, but for the one that ends it.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    held: dict[str, Any] = {}
    if schema is not None:
        held = {"json_object": True} if any_object else {"json": schema}
    return SamplingParams(
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        top_k=decoding.top_k,
        max_tokens=max_tokens,
        seed=seed,
        skip_special_tokens=not keep_special,
        output_kind=RequestOutputKind.FINAL_ONLY,
        structured_outputs=StructuredOutputsParams(**held) if held else None,
    )


def _whole_prefill(engine: Engine) -> dict[str, Any]:
    """On a CPU a prompt is never prefilled in pieces: vLLM 0.32 winds a seeded sampler back after a piece, which the
    generator of a CPU cannot do ("CPU Generator does not use offset"), and the engine dies of it."""
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, engine.max_model_len)}


def _lora(adapter: str) -> tuple[Any, dict[str, Any]]:
    import json

    from vllm.lora.request import LoRARequest

    rank = json.loads((Path(adapter) / "adapter_config.json").read_text())["r"]
    return LoRARequest("policy", 1, adapter), {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}


@dataclass(frozen=True)
class Completed:
    """What came of some requests. `took` by row_id: tokens of the prompt, and of those the ones that the engine had in
    its prefix cache."""

    rows: list[Generation]
    rejects: list[Reject]
    took: dict[str, dict[str, int]]


class Generator:
    """An actor of a stream (run/stream.py): one engine, several batches of requests at once."""

    def __init__(self, *, sampling: Sampling) -> None:
        path = model_path(sampling.model)
        self.renderer = renderer_of(sampling, path=path)
        self.engine = start_engine(path, model=sampling.model, engine=sampling.engine)
        self.ask_by(sampling)

    def ask_by(self, sampling: Sampling) -> None:
        """Answer by these settings from now on. The renderer is theirs already, and so are the engine's weights."""
        self.sampling = sampling
        self.difference, self.fault = self._probed(sampling) if sampling.probe else (None, None)

    def _probed(self, sampling: Sampling) -> tuple[float | None, str | None]:
        """The engine's mean difference from the trainer on the probe, and what is wrong with it, if anything is."""
        rows = read_probe(sampling.probe, longest=sampling.engine.max_model_len)
        if not rows:
            return None, None
        served = [self.engine.logps(prompt_ids=r["prompt_ids"], completion_ids=r["completion_ids"]) for r in rows]
        difference = mean_difference(served, [row["logps"] for row in rows])
        return difference, fault(served, rows, dtype=sampling.model.dtype)

    async def answer(self, requests: list[dict[str, Any]]) -> list[Answer]:
        """The generations of the requests; an engine that does not serve what was trained samples nothing."""
        if self.fault is not None:
            return [Answer(stopped=self.fault)] * len(requests)
        asked = [Request(**request) for request in requests]
        if self.sampling.order is not None:
            return list(await asyncio.gather(*(self._settle(first) for first in asked)))
        done = await self.complete(asked)
        for turn in self.sampling.refinement.turns if self.sampling.refinement else ():
            more = await self.complete(self.renderer.next_turn(turn, rows=done.rows))
            done = Completed(done.rows + more.rows, done.rejects + more.rejects, done.took | more.took)
        came, belongs_to = [vars(row) for row in done.rows], request_of(self.sampling)
        answers = answers_of(requests, rows=came, rejects=done.rejects, request_of=belongs_to)
        took: dict[str, Counter[str]] = defaultdict(Counter)
        for row_id, tokens in done.took.items():
            took[belongs_to(row_id)].update(tokens)
        return [replace(one, took=took[row["row_id"]]) for one, row in zip(answers, requests, strict=True)]

    async def _settle(self, first: Request) -> Answer:
        """The draws of one question that are needed."""
        assert self.sampling.order is not None
        took: Counter[str] = Counter()
        ask = partial(self._draw, took=took)
        answer = await settle_question(first, order=self.sampling.order, seed=self.sampling.seed, ask=ask)
        return replace(answer, took={**answer.took, **took})

    async def _draw(self, request: Request, limit: int | None, *, took: Counter[str]) -> Generation | Reject:
        done = await self.complete([request], limit=limit)
        took.update(done.took.get(request.row_id, {}))
        return done.rows[0] if done.rows else done.rejects[0]

    def figures(self) -> dict[str, Any]:
        """The engine's difference from the trainer, where there is a probe."""
        return {} if self.difference is None else {"served_minus_trained_logp": self.difference}

    async def complete(self, requests: Sequence[Request], *, limit: int | None = None) -> Completed:
        """Generations of the requests, each of at most `limit` tokens, and a reject for each that could not be asked or
        answered."""
        prompts, work = await asyncio.to_thread(self._prepare, requests, limit)
        watches = [] if limit is None else self._watches(requests, prompts)
        outputs = await asyncio.wrap_future(self.engine.submit(work, watches=watches))
        return await asyncio.to_thread(self._judge, requests, prompts, outputs)

    def _watches(self, requests: Sequence[Request], prompts: Sequence[Prompt | Reject]) -> list[Watch | None]:
        """What ends a completion before its limit: nothing that would follow could matter."""
        asked = zip(requests, prompts, strict=True)
        return [partial(self._is_enough, request, prompt) for request, prompt in asked if isinstance(prompt, Prompt)]

    def _is_enough(self, request: Request, prompt: Prompt, text: str, token_ids: Sequence[int]) -> bool:
        order = self.sampling.order
        if order is None or not order.may_be_enough(text, tokens=len(token_ids)):
            return False
        ids = list(token_ids)
        return (
            order.why_cut(self.renderer.row(request, prompt, text=text, token_ids=ids, finish_reason="length"))
            is not None
        )

    def _prepare(
        self, requests: Sequence[Request], limit: int | None
    ) -> tuple[list[Prompt | Reject], list[tuple[list[int], Any]]]:
        prompts = [self.renderer.prepare(request) for request in requests]
        asked = [(r, p) for r, p in zip(requests, prompts, strict=True) if isinstance(p, Prompt)]
        work = [(list(prompt.token_ids), self._parameters(request, prompt, limit)) for request, prompt in asked]
        return prompts, work

    def _parameters(self, request: Request, prompt: Prompt, limit: int | None) -> Any:
        decoding, room = self.sampling.decoding, self.renderer.max_tokens(prompt, limit=limit)
        keep = self.renderer.special_tags
        return sampling_parameters(decoding, max_tokens=room, seed=request.seed, keep_special=keep)

    def _judge(self, requests: Sequence[Request], prompts: list[Prompt | Reject], outputs: list[Any]) -> Completed:
        done, left = Completed([], [], {}), iter(outputs)
        for request, prompt in zip(requests, prompts, strict=True):
            if isinstance(prompt, Reject):
                done.rejects.append(prompt)
                continue
            output = next(left)
            if isinstance(output, BaseException):
                fault = Reject(
                    request.row_id, "engine_error", f"{output!r:.500}", request.question, dataset=request.dataset
                )
                done.rejects.append(fault)
                continue
            said = output.outputs[0]
            ids, finish = list(said.token_ids), said.finish_reason
            done.rows.append(self.renderer.row(request, prompt, text=said.text, token_ids=ids, finish_reason=finish))
            prefix = output.num_cached_tokens or 0
            done.took[request.row_id] = {"prompt_tokens": len(prompt.token_ids), "prefix_tokens": prefix}
        return done
