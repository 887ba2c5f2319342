"""Tokens per second of the rollout stage over `vllm.LLM.generate` on the same prompts, seeds and engine settings.

    python tests/benchmarks/rollouts.py [--quick] [--model miniworld|smollm2|DIRECTORY] [--repeats 3] [--others]

The stage is everything `mralign.serving.streaming.generate` does: Ray Data, rendering, parsing, committing; only the
start of the engine is left out, on both sides. Raw is one call of `LLM.generate` in an actor of its own. The two take
turns, each time with a new engine; the ratio is that of the medians. `--others` measures what we did not keep as well:
an actor on vLLM's AsyncLLM in place of our engine, and `ray.data.llm`'s processor.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pyarrow as pa  # noqa: E402
import ray  # noqa: E402
from quiet_ray import quiet_ray  # noqa: E402

from mralign.config import Decoding, Engine, Model  # noqa: E402
from mralign.rows import Request, from_table  # noqa: E402
from mralign.rows.schema import GENERATIONS, QUESTIONS  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402
from mralign.serving.requests import Renderer, Sampling, build_requests, family_of  # noqa: E402
from mralign.serving.streaming import generate  # noqa: E402
from mralign.serving.vllm import worker_environment  # noqa: E402

MINIWORLD = ROOT / "mralign" / "miniworld" / "data"


def world(name, *, quick, work):
    """Questions and what is asked of the model."""
    lines = (MINIWORLD / "questions" / "train.jsonl").read_text().splitlines()
    if name == "miniworld":
        engine = Engine(max_model_len=256, max_num_seqs=128, batch_size=64)
        decoding = Decoding(temperature=0.7, top_p=1.0, max_tokens=200)
        model = Model(path=str(MINIWORLD / "model"), dtype="float32")
        lines = lines[: 300 if quick else 1200]
    else:
        if name == "smollm2":
            from smollm2 import save_smollm2

            name = str(save_smollm2(work / "smollm2"))
        model = Model(path=name, family="prompted", dtype="bfloat16")
        engine = Engine(max_model_len=512, max_num_seqs=32, batch_size=16)
        decoding = Decoding(temperature=0.7, top_p=1.0, max_tokens=32 if quick else 64)
        lines = lines[: 16 if quick else 64]
    rows = [json.loads(line) for line in lines]
    table = pa.Table.from_pylist(
        [
            {
                "question_id": f"bench/{n}",
                "dataset": "bench",
                "split": "train",
                "extra": "{}",
                "question": row["question"],
                "answers": ["x"],
            }
            for n, row in enumerate(rows)
        ],
        schema=QUESTIONS,
    )
    return table, Sampling(
        model=model, engine=engine, decoding=decoding, draws=3 if "miniworld" in str(model.path) else 1
    )


class Direct:
    """One engine, one call for all prompts; `kind` is raw (LLM.generate) or async (AsyncLLM)."""

    def measure(self, sampling, requests, kind):
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(sampling.model.path)
        family = family_of(sampling.model, path=sampling.model.path)
        renderer = Renderer(sampling, tokenizer=tokenizer, family=family)
        prompts = [renderer.prepare(row) for row in requests]
        work = [
            ({"prompt_token_ids": list(p.token_ids)}, renderer.max_tokens(p), row.seed)
            for p, row in zip(prompts, requests, strict=True)
        ]
        return asyncio.run(asynchronous(sampling, work)) if kind == "async" else self.raw(sampling, work)

    def raw(self, sampling, work):
        from vllm import LLM

        began = time.perf_counter()
        llm = LLM(**arguments(sampling))
        start = time.perf_counter() - began
        began = time.perf_counter()
        outputs = llm.generate([w[0] for w in work], [parameters(sampling, *w[1:]) for w in work], use_tqdm=False)
        seconds = time.perf_counter() - began
        return sum(len(o.outputs[0].token_ids) for o in outputs), seconds, start


async def asynchronous(sampling, work):
    from vllm import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    began = time.perf_counter()
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments(sampling)))
    start = time.perf_counter() - began

    async def one(number, prompt, room, seed):
        async for output in engine.generate(prompt, parameters(sampling, room, seed), str(number)):
            last = output
        return len(last.outputs[0].token_ids)

    began = time.perf_counter()
    tokens = await asyncio.gather(*(one(n, *w) for n, w in enumerate(work)))
    seconds = time.perf_counter() - began
    engine.shutdown()
    return sum(tokens), seconds, start


def arguments(sampling):
    return {
        "model": sampling.model.path,
        "dtype": sampling.model.dtype,
        "max_model_len": sampling.engine.max_model_len,
        "max_num_seqs": sampling.engine.max_num_seqs,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
    }


def parameters(sampling, room, seed):
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.decoding.temperature,
        top_p=sampling.decoding.top_p,
        top_k=sampling.decoding.top_k,
        max_tokens=room,
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def measure_direct(sampling, requests, kind):
    environment = worker_environment(sampling.engine)
    if kind == "async":  # AsyncLLM always runs its engine in a process of its own
        environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    actor = ray.remote(Direct).options(num_cpus=1, runtime_env={"env_vars": environment}).remote()
    found = ray.get(actor.measure.remote(sampling, requests, kind))
    ray.kill(actor)
    return found


def measure_stage(sampling, table, work, number):
    questions = StageDir(str(work / "questions"), stage="questions")
    if not questions.parts():
        questions.commit(part_name("train-00-00000"), table, schema=QUESTIONS)
    out = StageDir(str(work / f"rollouts-{number}"), stage="rollouts")
    figures = generate(questions, questions.parts(), sampling=sampling, out=out)
    assert out.read(schema=GENERATIONS, columns=["row_id"]).num_rows == table.num_rows * 2 * sampling.draws
    return figures["completion_tokens"], figures["generating_s"], figures["engine_start_s"]


def measure_processor(sampling, requests):
    """`ray.data.llm` on the same rendered prompts: tokens, seconds and engine start are not told apart by it, so the
    time runs from the first finished row to the last, and so do the tokens."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    environment = worker_environment(sampling.engine)
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING")
    options = arguments(sampling)
    config = vLLMEngineProcessorConfig(
        model_source=options.pop("model"),
        engine_kwargs=options,
        concurrency=1,
        batch_size=sampling.engine.batch_size,
        max_concurrent_batches=sampling.engine.concurrent_batches,
        placement_group_config={"bundles": [{"CPU": 1}]},
        accelerator_type=None,
        log_engine_metrics=False,
        runtime_env={"env_vars": environment},
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sampling.model.path)
    renderer = Renderer(sampling, tokenizer=tokenizer, family=family_of(sampling.model, path=sampling.model.path))
    prompts = [renderer.prepare(row) for row in requests]
    decoding = sampling.decoding
    rows = [
        {
            "ids": list(p.token_ids),
            "text": p.text,
            "params": {"temperature": decoding.temperature, "max_tokens": renderer.max_tokens(p), "seed": row.seed},
        }
        for p, row in zip(prompts, requests, strict=True)
    ]
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "prompt": row["text"],
            "tokenized_prompt": row["ids"],
            "sampling_params": row["params"],
        },
        postprocess=lambda row: {"tokens": len(row["generated_tokens"]), "ended": time.time()},
    )
    began = time.time()
    done = processor(ray.data.from_items(rows)).take_all()
    ended = sorted(row["ended"] for row in done)
    late = [row["tokens"] for row in done if row["ended"] > ended[0]]
    return sum(late), ended[-1] - ended[0], ended[0] - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--model", default="miniworld")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--others", action="store_true", help="AsyncLLM and ray.data.llm as well")
    args = parser.parse_args()
    repeats = args.repeats or (1 if args.quick else 3)
    with tempfile.TemporaryDirectory(prefix="mralign-bench-", dir="/tmp") as directory:
        found = run(args, repeats=repeats, work=Path(directory))
    report(args.model, found)


def run(args, *, repeats, work):
    with quiet_ray(work):
        table, sampling = world(args.model, quick=args.quick, work=work)
        asked = build_requests(table, modes=sampling.modes, draws=sampling.draws, seed=0)
        requests = from_table(asked, Request)
        found = {"raw": [], "stage": []}
        for number in range(repeats):
            found["raw"].append(measure_direct(sampling, requests, "raw"))
            found["stage"].append(measure_stage(sampling, table, work, number))
            if args.others:
                found.setdefault("async_llm", []).append(measure_direct(sampling, requests, "async"))
                found.setdefault("ray_data_llm", []).append(measure_processor(sampling, requests))
    return found


def report(model, found):
    speed = {name: statistics.median(tokens / seconds for tokens, seconds, _ in runs) for name, runs in found.items()}
    start = {name: statistics.median(run[2] for run in runs) for name, runs in found.items()}
    print(f"{'':>14} {'tokens/s':>10} {'over raw':>9} {'start, s':>9}")
    for name in found:
        print(f"{name:>14} {speed[name]:>10.0f} {speed[name] / speed['raw']:>9.3f} {start[name]:>9.1f}")
    print(
        json.dumps(
            {
                "benchmark": "rollouts",
                "ratios": {f"{model}_{name}_over_raw": speed[name] / speed["raw"] for name in found if name != "raw"},
                "figures": {"tokens_per_s": speed, "engine_start_s": start, "runs": found},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()
