"""A cluster of three nodes on this machine, on which the rollout stage runs; on demand an engine and a node are lost.

    python rollout_cluster.py QUESTIONS OUT none|faults|faults-kept

The head runs no engine. `faults`: after two committed parts one engine gets kill -9, and once that has been replaced or
two more parts stand, the node of another engine is removed. `faults-kept`: the engines are those that a driver keeps
from stage to stage. Prints one JSON line at the end.
"""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from mralign.config import Decoding, Engine, Model
from mralign.run.held import holding
from mralign.run.store import StageDir
from mralign.serving.requests import Sampling
from mralign.serving.streaming import generate

SAMPLING = Sampling(
    model=Model(dtype="float32"),
    engine=Engine(max_model_len=256, max_num_seqs=32, batch_size=32, min_replicas=2, max_replicas=2),
    decoding=Decoding(temperature=0.7, top_p=1.0, max_tokens=200),
    draws=3,
)


def engines():
    """Processes of engine actors by node: the raylet is the parent of its workers."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name = "".join(process.cmdline()[:1])
            if "MapBatches(Generator)" in name or "KeptEngine" in name:
                found.setdefault(process.ppid(), []).append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(condition):
    end = time.monotonic() + 240
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def rows(out):
    return sum(out.counts().values())


def break_things(cluster, nodes, out, done):
    """Kill one engine, then remove the node of another."""
    wait_for(lambda: len(out.parts()) >= 2)  # batches; at the end they become one part a part of questions
    victim = next(pid for pids in engines().values() for pid in pids)
    os.kill(victim, signal.SIGKILL)
    parts, done["killed_at_rows"] = len(out.parts()), rows(out)
    wait_for(lambda: len(out.parts()) >= parts + 2)
    raylets = {entry.process.pid: node for node in nodes for entry in node.all_processes["raylet"]}
    busy = next(raylets[parent] for parent in engines() if parent in raylets)
    cluster.remove_node(busy, allow_graceful=False)
    done["removed_at_rows"] = rows(out)


def main(questions, target, mode):
    questions, out = StageDir(questions, stage="questions"), StageDir(target, stage="rollouts")
    with tempfile.TemporaryDirectory(prefix="mralign-ray-", dir="/tmp") as directory:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": directory, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
        nodes = [cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20) for _ in range(2)]
        environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}}
        ray.init(cluster.address, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)
        ray.data.DataContext.get_current().enable_progress_bars = False
        done = {}
        if mode.startswith("faults"):
            threading.Thread(target=break_things, args=(cluster, nodes, out, done), daemon=True).start()
        with holding() if mode == "faults-kept" else nullcontext():
            figures = generate(questions, questions.parts(), sampling=SAMPLING, out=out)
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps({**figures, **done, "rows": rows(out)}))


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2])]
    main(*sys.argv[1:])
