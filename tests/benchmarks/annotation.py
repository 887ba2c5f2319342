"""Tokens per second of the annotation stage over `vllm.LLM.generate` on the same prompts, schemas and engine settings.

    python tests/benchmarks/annotation.py [--quick] [--trajectories 50] [--repeats 3] [--http] [--model DIRECTORY]

SmolLM2-135M is both annotators and the adjudicator. The stage is all of it: Ray Data, instructions, rendering, parsing,
the repair round, consensus, adjudication, the kept replies, commits; the start of the engine is left out on both sides.
Raw is ONE call of `LLM.generate` with every prompt that the stage came to ask, those of the repairs and of the
adjudicator included, which the stage can only ask when the first replies are there. The two take turns, each time with
a new engine and an empty run directory. `--http` adds the same pass through `vllm serve` on loopback, not a ratio.

The thoughts are real ones where the development data lie beside the checkout, else made up; the last line says which.
"""

import argparse
import asyncio
import json
import logging
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jsonschema  # noqa: E402
import pyarrow as pa  # noqa: E402
import ray  # noqa: E402
from python_path import python_path  # noqa: E402

from mralign.annotation.ask import Opinions, annotators_at  # noqa: E402
from mralign.annotation.decide import annotate_row  # noqa: E402
from mralign.annotation.resolved import resolve_annotation  # noqa: E402
from mralign.annotation.stage import ANNOTATION_STAGE  # noqa: E402
from mralign.asking.chats import EngineChat  # noqa: E402
from mralign.config import parse  # noqa: E402
from mralign.rollouts import segments as segment_spans  # noqa: E402
from mralign.rows.schema import CANDIDATES  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.stage import Context  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402
from mralign.serving.requests import row_seed  # noqa: E402
from mralign.serving.vllm import worker_environment  # noqa: E402

TRACES = ROOT.parent / "shared" / "data" / "traces" / "qwen3-8b_simpleqa.jsonl"


def trajectories(limit):
    """Candidates of 5 to 14 segments: the first real thoughts of that length, or made-up ones."""
    rows = list(real(limit)) if TRACES.exists() else list(invented(limit))
    return pa.Table.from_pylist(rows, schema=CANDIDATES)


def real(limit):
    found = 0
    for line in TRACES.open():
        row = json.loads(line)
        text = row["thought"] + row["response"].replace("<|im_end|>", "")
        if "</think>" in text and found < limit:
            made = candidate(row["id"], row["problem"], row["answer"], text)
            if 4 < len(made["segment_start"]) < 15:
                found += 1
                yield made


def invented(limit):
    dice = random.Random(0)
    parts = (
        "Let me think about what is asked.",
        "I recall that",
        "Wait, maybe",
        "So the answer is",
        "Compared with that,",
    )
    for n in range(limit):
        pieces = [f"{dice.choice(parts)} {' '.join(dice.choices(WORDS, k=40))}." for _ in range(dice.randint(5, 14))]
        yield candidate(n, f"What is number {n}?", "none", "<think>\n" + "\n\n".join(pieces) + "\n</think>\n\nnone")


WORDS = ("river", "year", "city", "name", "born", "in", "the", "of", "a", "was", "first", "book", "king", "north")


def candidate(number, question, answer, text):
    start, end = text.find("<think>") + len("<think>"), text.find("</think>")
    spans = segment_spans(text, start=start, end=end)
    return {
        "row_id": f"bench/{number}/on/0",
        "question_id": f"bench/{number}",
        "dataset": "bench",
        "question": question,
        "answers": [answer],
        "polarity": 1,
        "prompt_token_ids": [],
        "token_ids": [],
        "text": text,
        "thought_start": start,
        "thought_end": end,
        "segment_start": [first for first, _ in spans],
        "segment_end": [last for _, last in spans],
        "em_thought": True,
        "em_answer": True,
    }


def configuration(model, run, *, quick, base_url=None):
    def who(name, temperature):
        asked = {"temperature": temperature, "top_p": 1.0, "max_tokens": 256 if quick else 1024}
        if base_url is None:
            return {"name": name, "engine": "vllm", "decoding": asked}
        http = {"base_url": base_url, "model": "smollm2", "concurrency": 32}
        return {"name": name, "engine": "http", "http": http, "decoding": asked}

    return parse(
        {
            "run": {"dir": str(run), "reject_limit": 1.0},
            "questions": {"train": [{"name": "bench", "path": "bench"}]},
            "model": {"path": model, "family": "prompted", "dtype": "bfloat16"},
            "engine": {"max_model_len": 8192, "max_num_seqs": 32, "batch_size": 16},
            "annotation": {"annotators": [who("first", 0.0), who("second", 0.3)], "adjudicator": who("third", 0.0)},
        }
    )


def measure_stage(config, source, run):
    """Completion tokens, seconds and the figures of one pass."""
    out = StageDir(str(run / "annotation"), stage="annotation", fingerprint="bench")
    outcome = ANNOTATION_STAGE.run(Context(config, out, {"candidates": source}))
    tokens = sum(a.get("completion_tokens", 0) for a in outcome.figures["annotators"].values())
    return tokens, outcome.figures["annotating_s"], outcome, out


class Recorder(EngineChat):
    """A chat without an engine: it finds what a pass has kept, and notes what was asked, rendered, and replied."""

    def __init__(self, annotator, *, tokenizer):
        super().__init__(annotator, engine=None, tokenizer=tokenizer)
        self.exchanges = []

    async def reply(self, request):
        reply = await super().reply(request)
        seed = row_seed(self.annotator.seed, request.key_id)
        self.exchanges.append((self.annotator.decoding, seed, self.render(request), request.schema, reply))
        return reply


def replay(config, source):
    """Every exchange of a pass that was made with `config`, repairs and adjudications included."""
    from transformers import AutoTokenizer

    tokenizer, resolved = AutoTokenizer.from_pretrained(config.model.path), resolve_annotation(config)
    chats = {role: Recorder(annotator, tokenizer=tokenizer) for role, annotator in resolved.chats.items()}

    class Recorded:
        def chat(self, annotator):
            return next(chat for chat in chats.values() if chat.annotator is annotator)

    annotators = annotators_at(resolved, engine=Recorded())
    for row in source.read(schema=CANDIDATES).to_pylist():
        asyncio.run(annotate_row(row, resolved=resolved, opinions=Opinions(), annotators=annotators))
    return [exchange for chat in chats.values() for exchange in chat.exchanges]


def schema_valid(exchanges):
    """How many replies fit the schema of their request, and how many there are."""
    valid = 0
    for _, _, _, schema, reply in exchanges:
        try:
            jsonschema.validate(json.loads(reply.text), schema)
            valid += 1
        except (ValueError, jsonschema.ValidationError):
            continue
    return valid, len(exchanges)


class Raw:
    """One engine, one call for all prompts."""

    def measure(self, model, engine, work):
        from vllm import LLM
        from vllm.config import StructuredOutputsConfig

        from mralign.serving.vllm import sampling_parameters

        llm = LLM(
            model=model,
            dtype="bfloat16",
            max_model_len=engine.max_model_len,
            max_num_seqs=engine.max_num_seqs,
            enforce_eager=True,
            enable_prefix_caching=True,
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(2048, engine.max_model_len),
            structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
        )
        prompts = [{"prompt_token_ids": ids} for ids, _, _, _ in work]
        params = [
            sampling_parameters(decoding, max_tokens=decoding.max_tokens, seed=seed, schema=schema)
            for _, decoding, seed, schema in work
        ]
        began = time.perf_counter()
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - began
        cached = sum(o.num_cached_tokens or 0 for o in outputs) / sum(len(o.prompt_token_ids) for o in outputs)
        return sum(len(o.outputs[0].token_ids) for o in outputs), seconds, cached


def measure_raw(config, exchanges):
    environment = worker_environment(config.engine)
    actor = ray.remote(Raw).options(num_cpus=1, runtime_env={"env_vars": environment}).remote()
    work = [(ids, decoding, seed, schema) for decoding, seed, ids, schema, _ in exchanges]
    found = ray.get(actor.measure.remote(config.model.path, config.engine, work))
    ray.kill(actor)
    return found


def serve(model, log):
    """vLLM's own server of the model on a free port of 127.0.0.1, and its address when it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
    command += ["--max-model-len", "8192", "--max-num-seqs", "32", "--enforce-eager", "--no-enable-chunked-prefill"]
    command += ["--max-num-batched-tokens", "8192", "--enable-prompt-tokens-details"]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "CUDA_VISIBLE_DEVICES": "", "VLLM_NO_USAGE_STATS": "1"}
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=environment)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{url}/models", timeout=2).read()
            return process, url
        except OSError:
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.5)
    process.terminate()
    raise TimeoutError(f"vllm serve did not answer; see {log}")


def describe(title, outcome, out):
    """What a pass came to, for people."""
    figures = outcome.figures
    rejects = Counter(out.read_rejects().column("reason").to_pylist())
    print(f"\n{title}: {outcome.rows_out} of {outcome.rows_in} trajectories annotated, put aside {dict(rejects)}")
    for name, found in figures["annotators"].items():
        share = found["prefix_tokens"] / max(found["prompt_tokens"], 1)
        print(
            f"  {name}: {found['requests']} requests, repair rate {found['repair_rate']:.2f}, reject rate "
            f"{found['reject_rate']:.2f}, {found['prompt_tokens']:,} + {found['completion_tokens']:,} tokens, "
            f"prefix cache {share:.2f}"
        )
    print(f"  steps {figures['steps']}, adjudicated {figures['adjudicated']:.2f}, labels {figures['labels']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--trajectories", type=int)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--model", help="a chat model's directory; SmolLM2-135M where left out")
    args = parser.parse_args()
    count, repeats = args.trajectories or (8 if args.quick else 50), args.repeats or (1 if args.quick else 3)
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger("mralign").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory(prefix="mralign-bench-") as name:
        work = Path(name)
        model = args.model
        if model is None:
            from smollm2 import save_smollm2

            model = str(save_smollm2(work / "smollm2"))
        source = StageDir(str(work / "candidates"), stage="candidates", fingerprint="bench")
        source.commit(part_name("train-00-00000"), trajectories(count), schema=CANDIDATES)
        paths = {"PYTHONPATH": python_path(ROOT, ROOT / "tests")}
        ray.init(num_cpus=6, include_dashboard=False, logging_level=logging.ERROR, runtime_env={"env_vars": paths})
        ray.data.DataContext.get_current().enable_progress_bars = False
        run_all(args, work, model=model, source=source, repeats=repeats)
        ray.shutdown()


def run_all(args, work, *, model, source, repeats):
    stage, raw, prefix = [], [], []
    for number in range(repeats):
        run = work / f"run-{number}"
        config = configuration(model, run, quick=args.quick)
        tokens, seconds, outcome, out = measure_stage(config, source, run)
        exchanges = replay(config, source)
        stage.append(tokens / seconds)
        raw_tokens, raw_seconds, raw_prefix = measure_raw(config, exchanges)
        raw.append(raw_tokens / raw_seconds)
        print(f"repeat {number}: stage {tokens} tokens in {seconds:.1f} s, raw {raw_tokens} in {raw_seconds:.1f} s")
        prefix.append((shares(outcome), raw_prefix))
    describe("vLLM in the stage", outcome, out)
    valid, total = schema_valid(exchanges)
    print(f"  schema-valid replies: {valid} of {total}")
    figures = {"trajectories": outcome.rows_in, "schema_valid": valid / total, "annotated": outcome.rows_out}
    if args.http:
        figures |= through_http(args, work, model=model, source=source)
    ratio = statistics.median(stage) / statistics.median(raw)
    hit, raw_hit = (statistics.median(values) for values in zip(*prefix, strict=True))
    print(f"\nstage {statistics.median(stage):.0f} tokens/s over raw {statistics.median(raw):.0f}: {ratio:.3f}")
    print(f"prompt tokens found in the prefix cache: stage {hit:.3f}, raw {raw_hit:.3f}")
    figures |= {"prefix_hit": hit, "prefix_hit_raw": raw_hit, "real_thoughts": TRACES.exists(), "repeats": repeats}
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    result = {"benchmark": "annotation", "ratios": {"stage_over_raw": ratio}, "figures": figures, "machine": machine}
    print(json.dumps(result))


def shares(outcome):
    found = [a for a in outcome.figures["annotators"].values() if a.get("prompt_tokens")]
    return sum(a["prefix_tokens"] for a in found) / sum(a["prompt_tokens"] for a in found)


def through_http(args, work, *, model, source):
    process, url = serve(model, work / "server.log")
    try:
        config = configuration(model, work / "run-http", quick=args.quick, base_url=url)
        tokens, seconds, outcome, out = measure_stage(config, source, work / "run-http")
    finally:
        process.terminate()
        process.wait()
    describe(f"vllm serve over HTTP ({tokens} tokens in {seconds:.1f} s)", outcome, out)
    return {"http_annotated": outcome.rows_out, "http_prefix_hit": shares(outcome)}


if __name__ == "__main__":
    main()
