"""Every stage that serves by vLLM, on one GPU: what came back, what a kill cost, and whether the memory is free again.

A directory to work in enters; a random chat model of the body of Qwen3-0.6B is written (28 layers of width 1024, but a
vocabulary of bytes: it says nothing that makes sense). One line of JSON leaves. --cpu takes a tiny model, and Ray's
logical GPU stands for the card.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import pyarrow as pa  # noqa: E402
from quiet_ray import quiet_ray  # noqa: E402
from tiny_chat import save_chat_model  # noqa: E402

from mralign.annotation.stage import ANNOTATION_STAGE  # noqa: E402
from mralign.config import parse  # noqa: E402
from mralign.plan import pipeline  # noqa: E402
from mralign.rows.schema import ANNOTATIONS, CANDIDATES, GENERATIONS  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.stage import Context  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402

WORLD = "pkg://mralign.miniworld/data/questions/train.jsonl"
QUESTIONS, DRAWS = 64, 2
QWEN3_600M = {
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
}


def config_of(work, model, *, dtype, name):
    """A configuration whose engines take one GPU each."""
    said = {"path": model, "dtype": dtype, "family": "prompted"}
    engine = {"gpus_per_replica": 1, "max_model_len": 4096, "max_num_seqs": 64, "batch_size": 16}
    annotator = {"engine": "vllm", "mode": {}, "model": said, "serving": engine, "decoding": {"max_tokens": 400}}
    return parse(
        {
            "run": {"dir": f"{work}/{name}"},
            "model": said,
            "questions": {"train": [{"name": "world", "path": WORLD, "limit": QUESTIONS}]},
            "engine": engine,
            "rollouts": {"n": DRAWS, "order": "all", "decoding": {"max_tokens": 64}},
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
    """Rollouts whose engine's actor is killed while they run; the rows, and how many actors were killed."""
    kills, over = [], threading.Event()

    def kill_one():
        out = Path(config.run.dir) / "rollouts"
        while not over.wait(0.05) and not kills:
            if any(out.glob("*/*.parquet")):
                kills.extend(kill_engine_actor())

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        return rollouts(config), len(kills)
    finally:
        over.set()
        killer.join()


def kill_engine_actor():
    """Ends the actor that holds an engine, by its process; the numbers of what was ended."""
    from ray.util.state import list_actors

    alive = [actor for actor in list_actors(filters=[("state", "=", "ALIVE")]) if "MapWorker" in actor.class_name]
    for actor in alive:
        os.kill(actor.pid, signal.SIGKILL)
    return [actor.pid for actor in alive]


def annotated(config, work):
    """Annotation with a schema, of five made-up thoughts: rows kept and reasons of those that were not."""
    source = StageDir(f"{work}/candidates", stage="candidates", fingerprint="c")
    rows = [candidate(number) for number in range(5)]
    source.commit(part_name("0"), pa.Table.from_pylist(rows, schema=CANDIDATES), schema=CANDIDATES)
    out = StageDir(f"{work}/annotation", stage="annotation", fingerprint="a")
    ANNOTATION_STAGE.run(Context(config, out, {"candidates": source}))
    reasons = sorted(out.read_rejects().column("reason").to_pylist())
    return {"kept": out.read(schema=ANNOTATIONS).num_rows, "rejects": reasons}


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
    given = {"dtype": "float32" if cpu else "bfloat16"}
    found = {"memory_before_gib": memory_in_use()}
    with tempfile.TemporaryDirectory(prefix="mralign-gpu-", dir="/tmp") as home, quiet_ray(home, gpus=1):
        began = time.monotonic()
        plain = rollouts(config_of(work, model, name="plain", **given))
        found |= {"rollouts_s": round(time.monotonic() - began, 1), "rows": len(plain)}
        assert len(plain) == QUESTIONS * DRAWS * 2, len(plain)
        rows, kills = killed(config_of(work, model, name="killed", **given))
        assert sorted(row["row_id"] for row in rows) == sorted(row["row_id"] for row in plain)
        found |= {"rows_after_kill": len(rows), "actors_killed": kills}
        found["annotation"] = annotated(config_of(work, model, name="annotation", **given), work)
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
