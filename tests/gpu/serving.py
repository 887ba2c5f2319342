"""Every stage that serves by vLLM, on one GPU: what came back, what a kill cost, and whether the memory is free again.

A directory to work in enters; a random chat model of the body of Qwen3-0.6B is written (28 layers of width 1024, but a
vocabulary of bytes: it says nothing that makes sense), and a random adapter for it. One line of JSON leaves. --cpu
takes a tiny model, and Ray's logical GPU stands for the card; there vLLM serves no adapter, which is merged first.
"""

import argparse
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
from quiet_ray import quiet_ray  # noqa: E402
from tiny_chat import save_chat_model  # noqa: E402

from mralign.annotation.stage import ANNOTATION_STAGE  # noqa: E402
from mralign.config import parse  # noqa: E402
from mralign.plan import pipeline  # noqa: E402
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, GENERATIONS  # noqa: E402
from mralign.run.held import holding  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402
from mralign.serving.adapter import served_beside  # noqa: E402
from mralign.serving.probe import TOLERANCE, mean_difference  # noqa: E402
from mralign.serving.requests import sampling_of_evaluation  # noqa: E402
from mralign.serving.streaming import generate  # noqa: E402

WORLD = "pkg://mralign.miniworld/data/questions/train.jsonl"
QUESTIONS, DRAWS, TOKENS = 64, 4, 128
LONGEST_WAIT_S = 60
REPLY = re.compile(r'\{"')
QWEN3_600M = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
}


def config_of(work, model, *, dtype, name):
    """A configuration whose engines take one GPU each. Nothing is compiled for them: that would take longer than the
    rest."""
    said = {"path": model, "dtype": dtype, "family": "prompted"}
    engine = {"gpus_per_replica": 1, "max_model_len": 4096, "max_num_seqs": 64, "batch_size": 16}
    engine |= {"enforce_eager": True}
    annotator = {"engine": "vllm", "mode": {}, "model": said, "serving": engine, "decoding": {"max_tokens": 400}}
    return parse(
        {
            "run": {"dir": f"{work}/{name}", "reject_limit": 1},  # it is a random model
            "model": said,
            "questions": {"train": [{"name": "world", "path": WORLD, "limit": QUESTIONS}]},
            "engine": engine,
            "rollouts": {"n": DRAWS, "order": "all", "decoding": {"max_tokens": TOKENS}},
            "evaluation": {"draws": 1, "decoding": {"max_tokens": TOKENS}},
            "annotation": {
                "annotators": [annotator | {"name": "Ann"}, annotator | {"name": "Ben"}],
                "adjudicator": annotator | {"name": "Jo"},
            },
        }
    )


def rollouts(config):
    """The rows that are there in the end."""
    planned = pipeline.run(config, pipeline.plan(config, until="rollouts"), start_ray=lambda: None)
    out = pipeline.find(planned, "rollouts").out
    return out.read(schema=GENERATIONS, columns=["row_id", "token_ids"]).to_pylist()


def killed(config):
    """Rollouts whose engine's actor is killed while they run: the rows, and of each kill how long what the actor had
    started was still there."""
    kills, over = [], threading.Event()

    def kill_one():
        out = Path(config.run.dir) / "rollouts"
        while not over.wait(0.05) and not kills:
            if any(out.glob("*/*.parquet")):
                kills.extend(kill_engine(actor) for actor in engine_actors())

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        return rollouts(config), kills
    finally:
        over.set()
        killer.join()


def engine_actors():
    """The processes below this one in which Ray runs an actor that holds an engine."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "KeptEngine" in "".join(process.cmdline()[:1]):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_engine(actor):
    """Ends an engine's actor by its process; seconds until its own processes, vLLM's among them, have ended. Nobody but
    the guard (mralign/serving/orphans.py) ends those."""
    left = actor.children(recursive=True)
    os.kill(actor.pid, signal.SIGKILL)
    began = time.monotonic()
    _, alive = psutil.wait_procs(left, timeout=LONGEST_WAIT_S)
    assert not alive, f"{[process.name() for process in alive]} outlived the actor that started them"
    return {"processes": len(left), "gone_after_s": round(time.monotonic() - began, 2)}


def save_adapter(model, directory):
    """Write a random adapter of `model`, and beside it what the two say together of a few bytes, by transformers on the
    CPU in float32, as a training leaves it: `directory`/probe.json. Returns by how much the adapter changes that."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(directory / "adapter")
    rows = []
    for ids in torch.randint(0, 250, (4, 48)):
        with adapted.disable_adapter():
            before = completion_logps(adapted, ids)
        said = {"logps": completion_logps(adapted, ids), "before": before, "dtype": "float32"}
        rows.append({"prompt_ids": ids[:16].tolist(), "completion_ids": ids[16:].tolist(), **said})
    (directory / "probe.json").write_text(json.dumps(rows))
    return mean_difference([np.array(row["before"]) for row in rows], [row["logps"] for row in rows])


def completion_logps(model, ids):
    """log p of the tokens after the sixteenth."""
    import torch

    with torch.no_grad():
        logps = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return logps[15:-1].gather(1, ids[16:, None])[:, 0].tolist()


def with_adapter(config, work):
    """Answers of the model with the adapter, which the engine must serve to be asked at all: rows, and how far what it
    says of the probe is from what transformers says."""
    moved = save_adapter(config.model.path, work)
    allowed = TOLERANCE[config.model.dtype]
    assert moved > 2 * allowed, f"the adapter changes too little ({moved}) for the guard to see"
    adapter = str(work / "adapter")
    assert served_beside(adapter)
    planned = pipeline.run(config, pipeline.plan(config, until="questions"), start_ray=lambda: None)
    questions = pipeline.find(planned, "questions").out
    model = config.model.model_copy(update={"adapter": adapter})
    sampling = sampling_of_evaluation(config, model=model, methods=["think_on"], probe=str(work))
    out = StageDir(f"{work}/responses", stage="responses", fingerprint="r")
    figures = generate(questions, questions.parts("train"), sampling=sampling, out=out)
    rows = out.read(schema=GENERATIONS, columns=["row_id"]).num_rows
    assert rows == QUESTIONS, rows
    away = figures["served_minus_trained_logp"]
    return {"rows": rows, "moved": round(moved, 4), "away": round(away, 5), "allowed": allowed}


def annotated(config, work):
    """Annotation with a schema, of five made-up thoughts: rows kept and reasons of those that were not."""
    source = StageDir(f"{work}/candidates", stage="candidates", fingerprint="c")
    rows = [candidate(number) for number in range(5)]
    source.commit(part_name("0"), pa.Table.from_pylist(rows, schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(f"{work}/annotation", stage="annotation", fingerprint="a")
    # By the pipeline, which takes the GPU from the engine that is still held.
    planned = pipeline.Planned(ANNOTATION_STAGE, out, {"candidates": source}, {}, {}, None)
    pipeline.run(config, [planned], start_ray=lambda: None)
    kept, rejects = out.read(schema=ANNOTATIONS).num_rows, out.read_rejects().to_pylist()
    assert kept + len(rejects) == len(rows), (kept, rejects)
    reasons = sorted(row["reason"] for row in rejects)
    assert {"engine_error", "prompt_too_long"}.isdisjoint(reasons), rejects
    # It knows no language, so its labels are of no use. That they come as an object is the schema's doing alone.
    assert all(REPLY.search(row["raw"]) for row in rejects), rejects
    return {"kept": kept, "rejects": reasons}


def candidate(number):
    text = "one\n\ntwo\n\nthree</think>x"
    return {
        "row_id": f"{number}/on/0",
        "question_id": str(number),
        "dataset": "made",
        "question": f"What is {number}0?",
        "answers": ["x"],
        "polarity": 1,
        "text": text,
        "segment_start": [0, 5, 10],
        "segment_end": [3, 8, 15],
    }


def memory_in_use():
    """GiB of the card that are taken; None without one. The context of the question itself is among them."""
    import torch

    if not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return round((total - free) / 2**30, 2)


def measure(work, *, cpu):
    sizes = {} if cpu else QWEN3_600M
    model = save_chat_model(work / "model", **sizes)
    dtype = "float32" if cpu else "bfloat16"
    found = {"memory_before_gib": memory_in_use()}

    def config(name):
        return config_of(work, model, dtype=dtype, name=name)

    def timed(name, do, *given):
        began = time.monotonic()
        result = do(*given)
        found[f"{name}_s"] = round(time.monotonic() - began, 1)
        print(f"{name}: {found[f'{name}_s']} s", flush=True)
        return result

    with quiet_ray(work, gpus=1), holding():
        plain = timed("rollouts", rollouts, config("plain"))
        found["rows"] = len(plain)
        assert len(plain) == QUESTIONS * DRAWS * 2, len(plain)
        rows, kills = timed("killed", killed, config("killed"))
        found |= {"rows_after_kill": len(rows), "kills": kills}
        assert kills, "no engine was killed"
        assert sorted(row["row_id"] for row in rows) == sorted(row["row_id"] for row in plain)
        said = {row["row_id"]: row["token_ids"] for row in plain}
        found["same_tokens"] = round(sum(said[row["row_id"]] == row["token_ids"] for row in rows) / len(rows), 3)
        found["adapter"] = timed("adapter", with_adapter, config("adapter"), work)
        found["annotation"] = timed("annotation", annotated, config("annotation"), work)
    time.sleep(3)
    found["memory_after_gib"] = memory_in_use()
    if found["memory_before_gib"] is not None:
        assert found["memory_after_gib"] - found["memory_before_gib"] < 1, found
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--dry", action="store_true", help="write the tiny model and plan; start nothing")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.cpu:
        os.environ.update(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if args.dry:
        config = config_of(args.work, save_chat_model(args.work / "model"), dtype="float32", name="dry")
        planned = pipeline.plan(config, until="rollouts")
        print(json.dumps({"stages": [item.stage.name for item in planned]}))
        return
    print(json.dumps(measure(args.work, cpu=args.cpu)))


if __name__ == "__main__":
    main()
