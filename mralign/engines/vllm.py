"""Generations by vLLM actors that Ray Data feeds.

Requests (question, mode, draw, seed) enter; committed parts of schema GENERATIONS leave, a bad row as a reject. Each
actor holds one engine and commits what it wrote before the rows leave it, so that a killed run loses at most the
batches in flight. The mode only changes the prompt: both modes stream through the same engines.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from mralign.config import Decoding, Engine, Model, resolve_path
from mralign.engines.chat import prompt_ids, user_message
from mralign.engines.thinking import split_thinking
from mralign.rejects import Reject, to_table
from mralign.schema import GENERATIONS
from mralign.stage import progress
from mralign.store import StageDir, drop_repeated, open_filesystem, part_name

REQUESTS = pa.schema(
    [GENERATIONS.field(n) for n in ("row_id", "question_id", "dataset", "question", "answers", "mode", "draw", "seed")]
)


def build_requests(questions: pa.Table, *, modes: Sequence[str], draws: int, seed: int) -> pa.Table:
    """One row a (question, mode, draw) of schema REQUESTS; the seed of a row depends on `seed` and its id only."""
    rows = [
        {**{k: q[k] for k in ("question_id", "dataset", "question", "answers")}, "mode": mode, "draw": draw}
        for q in questions.to_pylist()
        for mode in modes
        for draw in range(draws)
    ]
    for row in rows:
        row["row_id"] = f"{row['question_id']}/{row['mode']}/{row['draw']}"
        row["seed"] = _row_seed(seed, row["row_id"])
    return pa.Table.from_pylist(rows, schema=REQUESTS)


def generate(
    requests: pa.Table, *, model: Model, engine: Engine, decoding: Decoding, prompt: str, out: StageDir
) -> dict[str, Any]:
    """Commit a generation for every request that has none yet; return tokens written and rows repeated by retries."""
    import ray

    done = out.read(schema=GENERATIONS, columns=["row_id"]).column("row_id").to_pylist()
    done += out.read_rejects().column("row_id").to_pylist()
    todo = requests.filter(pa.array(~np.isin(requests.column("row_id").to_numpy(), np.array(done, dtype=object))))
    if todo.num_rows:
        blocks = list(_slices(todo, engine.batch_size))
        dataset = ray.data.from_arrow(blocks).map_batches(
            Generator,
            fn_constructor_kwargs={
                "model": model,
                "engine": engine,
                "decoding": decoding,
                "prompt": prompt,
                "out": out,
            },
            batch_size=engine.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=engine.replicas),
            num_cpus=engine.cpus_per_replica,
            num_gpus=engine.gpus_per_replica or None,
            runtime_env={"env_vars": worker_environment(engine)},
        )
        bar = progress(_counts(dataset), total=todo.num_rows, label=out.stage, unit="row")
        for _ in bar:
            pass
    repeated = drop_repeated(out, schema=GENERATIONS)
    lengths = out.read(schema=GENERATIONS, columns=["token_ids"]).column("token_ids")
    tokens = int(pc.sum(pc.list_value_length(lengths)).as_py() or 0)
    return {"completion_tokens": tokens, "rows_repeated_by_retries": repeated}


def worker_environment(engine: Engine) -> dict[str, str]:
    """Environment of a vLLM worker. Without a GPU the engine runs in the actor itself: nothing outlives the actor."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "PYTHONWARNINGS": "ignore"}
    if engine.gpus_per_replica:
        return quiet
    return quiet | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
        "CUDA_VISIBLE_DEVICES": "",
    }


def local_copy(path: str) -> str:
    """A model directory that lies on another file system, copied to this machine; other paths stay as they are."""
    if "://" not in path:
        return path
    filesystem, inner = open_filesystem(path)
    target = tempfile.mkdtemp(prefix="mralign-model-")
    fs.copy_files(inner, target, source_filesystem=filesystem)
    return target


def start_engine(model_path: str, *, model: Model, engine: Engine) -> Any:
    """A `vllm.LLM` for the model directory or hub name."""
    from vllm import LLM

    return LLM(
        model=model_path,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        tensor_parallel_size=engine.tensor_parallel,
        gpu_memory_utilization=engine.gpu_memory_utilization,
        enforce_eager=engine.enforce_eager or not engine.gpus_per_replica,
        enable_prefix_caching=True,
        disable_log_stats=True,
    )


class Generator:
    """A Ray Data actor: one engine, one batch of requests after the other."""

    def __init__(
        self, *, model: Model, engine: Engine, decoding: Decoding, out: StageDir, prompt: str = "{question}"
    ) -> None:
        self.llm = start_engine(local_copy(resolve_path(model.path)), model=model, engine=engine)
        self.prompt = prompt
        self.tokenizer = self.llm.get_tokenizer()
        self.model, self.engine, self.decoding, self.out = model, engine, decoding, out

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows, rejects = self.complete(batch.to_pylist())
        key = hashlib.sha256("\n".join(sorted(batch.column("row_id").to_pylist())).encode()).hexdigest()[:16]
        table = pa.Table.from_pylist(rows, schema=GENERATIONS)
        self.out.commit(part_name(key), table, schema=GENERATIONS, rejects=to_table(rejects))
        return pa.table({"rows": pa.array([batch.num_rows], pa.int64())})

    def complete(self, requests: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Reject]]:
        """Generations of the requests that fit the engine, and rejects for those that do not."""
        texts = [user_message(self.prompt, row["question"]) for row in requests]
        prompts = [prompt_ids(self.tokenizer, t, mode=row["mode"]) for t, row in zip(texts, requests, strict=True)]
        room = [self.engine.max_model_len - len(prompt) for prompt in prompts]
        fits = [i for i, left in enumerate(room) if left > 0]
        rejects = [
            Reject(
                r["row_id"], "prompt_too_long", f"{len(prompts[i])} tokens, model length {self.engine.max_model_len}"
            )
            for i, r in enumerate(requests)
            if room[i] <= 0
        ]
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompts[i]} for i in fits],
            [self._sampling(requests[i]["seed"], room[i]) for i in fits],
            use_tqdm=False,
        )
        rows = [self._row(requests[i], prompts[i], o.outputs[0]) for i, o in zip(fits, outputs, strict=True)]
        return rows, rejects

    def _sampling(self, seed: int, room: int) -> Any:
        from vllm import SamplingParams

        decoding = self.decoding
        return SamplingParams(
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            max_tokens=min(decoding.max_tokens, room),
            seed=seed,
        )

    def _row(self, request: dict[str, Any], prompt: list[int], output: Any) -> dict[str, Any]:
        row = {
            **request,
            "prompt_token_ids": prompt,
            "token_ids": list(output.token_ids),
            "text": output.text,
            "finish_reason": output.finish_reason,
        }
        return row | judged_text(row, tokenizer=self.tokenizer, opened=self.model.think_opened_by_prompt)


class Exchanger(Generator):
    """A generator whose weights can be exchanged in place: many checkpoints of one architecture, one engine.

    `load` overwrites the served directory and reloads. Exact for untied embeddings only (a tied head stays stale), so
    compare `difference` with the trainer's log-probabilities after every load.
    """

    def __init__(self, model: Model, *, served: str, engine: Engine, decoding: Decoding) -> None:
        shutil.copytree(resolve_path(model.path), served, dirs_exist_ok=True)
        self.served = Path(served)
        copied = model.model_copy(update={"path": served})
        super().__init__(model=copied, engine=engine, decoding=decoding, out=StageDir(served))

    def load(self, directory: str) -> None:
        """Serve the weights of the model in `directory` (one model.safetensors)."""
        shutil.copy(Path(resolve_path(directory)) / "model.safetensors", self.served / "model.safetensors")
        self.llm.collective_rpc("reload_weights")
        self.llm.reset_prefix_cache()

    def difference(self, *, prompt_ids: list[int], completion_ids: list[int], logps: list[float]) -> float:
        """Largest absolute difference between the engine's and the given log-probabilities of the completion."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)
        request = {"prompt_token_ids": prompt_ids + completion_ids}
        output = self.llm.generate([request], params, use_tqdm=False)[0]
        scored = output.prompt_logprobs[len(prompt_ids) :]
        served = [entry[token].logprob for entry, token in zip(scored, completion_ids, strict=True)]
        return float(np.abs(np.array(served) - np.array(logps)).max())


def judged_text(row: dict[str, Any], *, tokenizer: Any, opened: bool) -> dict[str, Any]:
    """The columns of GENERATIONS that follow from `text`: where the thought lies, the answer, why it is invalid."""
    split = split_thinking(row["text"], mode=row["mode"], opened=opened, finish_reason=row["finish_reason"])
    thought = row["text"][split.thought_start : split.thought_end] if split.thought_start >= 0 else ""
    return {
        "thought_start": split.thought_start,
        "thought_end": split.thought_end,
        "answer": split.answer,
        "thought_tokens": len(tokenizer(thought, add_special_tokens=False)["input_ids"]) if thought else 0,
        "invalid": split.invalid,
    }


def _row_seed(seed: int, row_id: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{row_id}".encode()).digest()[:4], "big") >> 1


def _slices(table: pa.Table, size: int) -> Iterator[pa.Table]:
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size)


def _counts(dataset: Any) -> Iterator[int]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        for rows in batch.column("rows").to_pylist():
            yield from range(rows)
