"""A vLLM engine in a process of its own, for what the tests ask of it: one JSON line a fact.

python engine_process.py adapter ADAPTER   # serve the embedded model with a LoRA adapter
python engine_process.py hold              # an engine with a child process; print its id and wait
python engine_process.py torn MODEL        # a model whose weights cannot be read, by a child process: what is raised
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]

import psutil  # noqa: E402

from mralign.config import Engine, Model, resolve_path  # noqa: E402
from mralign.serving.vllm import start_engine, worker_environment  # noqa: E402

ENGINE = Engine(max_model_len=256, max_num_seqs=16)
MODEL = Model(dtype="float32")


def adapter(path):
    from vllm import SamplingParams

    os.environ.update(worker_environment(ENGINE))
    model = MODEL.model_copy(update={"adapter": path})
    thread = start_engine(resolve_path(model.path), model=model, engine=ENGINE)
    greedy = SamplingParams(temperature=0.0, max_tokens=5, logprobs=0)
    prompts = [[5, 9, 12, 20], [7, 7, 30], list(range(300))]  # the last is longer than the model
    for output in thread.submit([(prompt, greedy) for prompt in prompts]).result():
        if isinstance(output, Exception):
            print(json.dumps({"error": str(output)}), flush=True)
            continue
        done = output.outputs[0]
        logps = [step[token].logprob for step, token in zip(done.logprobs, done.token_ids, strict=True)]
        print(json.dumps({"ids": list(done.token_ids), "logps": logps}), flush=True)
    probe = thread.logps(prompt_ids=[5, 9, 12], completion_ids=[20, 7, 7, 30])
    print(json.dumps({"probe": probe.tolist()}), flush=True)
    # More prompt tokens than a step takes, each with a seed: this killed the engine where prompts went in pieces.
    seeded = [SamplingParams(temperature=1.0, seed=n, max_tokens=3) for n in range(16)]
    many = thread.submit([([5 + n] * 200, params) for n, params in enumerate(seeded)]).result()
    print(json.dumps({"seeded": [len(output.outputs[0].token_ids) for output in many]}), flush=True)
    print(json.dumps({"unfinished": thread.call(lambda engine: engine.has_unfinished_requests())}), flush=True)
    os._exit(0)  # the engine's thread does not end by itself


def hold():
    os.environ.update({**worker_environment(ENGINE), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    start_engine(resolve_path(MODEL.path), model=MODEL, engine=ENGINE)
    children = psutil.Process().children(recursive=True)
    print(json.dumps({"children": [child.pid for child in children if "EngineCore" in child.cmdline()[0]]}), flush=True)
    time.sleep(600)


def torn(path):
    os.environ.update({**worker_environment(ENGINE), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"})
    try:
        start_engine(path, model=MODEL, engine=ENGINE)
    except Exception as error:
        print("\n" + json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)


if __name__ == "__main__":
    {"adapter": adapter, "hold": hold, "torn": torn}[sys.argv[1]](*sys.argv[2:])
