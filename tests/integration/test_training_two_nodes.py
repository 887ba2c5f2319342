"""Ray Train over two nodes with one CPU each, so one worker on each: the training of two workers on one node, and what
becomes of it when a node is lost for good, is replaced, or comes later."""

import json
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
from align_process import environment, finish, kill, wait_for
from safetensors.numpy import load_file
from training_runs import PROGRAM, history, save_model_with_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

RUN = {"zero_stage": 3, "workers": 2, "epochs": 3}
LONGER = {**RUN, "epochs": 20}  # 40 steps
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
FAST = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model_with_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture
def two_nodes():
    """A cluster of two nodes, one CPU each; the first is the driver's."""
    from ray.cluster_utils import Cluster

    directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "temp_dir": directory})
        try:
            cluster.add_node(**NODE)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def start(home, model, training, *, log, **variables):
    """A training as a program of its own: the process, and where the training lies."""
    with log.open("a") as stream:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), str(home), model, json.dumps({"it": training})],
            env={**environment(), **FAST, **variables},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, home / "training" / "it"


def run(home, model, training, **variables):
    log = home.with_suffix(".log")
    process, place = start(home, model, training, log=log, **variables)
    finish(process, log=log)
    return place


def steps(training):
    metrics = training / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def nodes_of_workers(address):
    """The nodes on which Ray Train's workers have run."""
    import ray

    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    actors = ray._private.state.actors().values()
    found = {actor["Address"]["NodeID"] for actor in actors if "RayTrainWorker" in actor["ActorClassName"]}
    ray.shutdown()
    return found


def the_same(found, expected, *, rel, abs_):
    for row, wanted in zip(history(found), history(expected), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=rel)
    one, other = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (found, expected))
    for name, values in other.items():
        np.testing.assert_allclose(one[name], values, rtol=0, atol=abs_)


def figures(training):
    return json.loads((training / "manifest.json").read_text())["figures"]


def test_two_nodes_train_what_one_node_trains(tmp_path, model, two_nodes):
    alone = run(tmp_path / "alone", model, RUN)
    spread = run(tmp_path / "spread", model, RUN, RAY_ADDRESS=two_nodes.address)
    assert len(nodes_of_workers(two_nodes.address)) == 2
    the_same(spread, alone, rel=1e-6, abs_=1e-6)


def lose_a_node(cluster, training, *, process, log):
    """kill -9 of the node beside the driver's, once the training has a checkpoint; its id as messages show it."""
    wait_for(lambda: steps(training) >= 4, process=process, log=log)
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    return node.node_id[:8]


def test_a_lost_node_is_waited_for_by_default(tmp_path, model, two_nodes):
    """What is made is the undisturbed training, as two nodes make it."""
    alone = run(tmp_path / "alone", model, LONGER)
    log = tmp_path / "log"
    process, training = start(tmp_path / "run", model, LONGER, log=log, RAY_ADDRESS=two_nodes.address)
    node = lose_a_node(two_nodes, training, process=process, log=log)
    wait_for(lambda: "training lost the node" in log.read_text(), process=process, log=log)
    two_nodes.add_node(**NODE)
    finish(process, log=log)
    said = log.read_text()
    lost = r"training lost the node \S+ \(\S+, (\w{8})\) with 1 of its 2 workers and has 1 worker left"
    goes_on = r"it goes on from step (\d+), or the checkpoint before it"
    waits = f"{goes_on} as soon as there is room: 2 CPU are needed at the same time"
    found = re.search(f"{lost}; {waits}", said)
    assert found[1] == node
    resumed = int(re.search(r"training goes on after step (\d+) with 2 workers\n", said)[1])
    assert 0 < resumed <= int(found[2])
    assert figures(training)["workers_changed"] == []
    the_same(training, alone, rel=1e-6, abs_=1e-6)


def test_with_fewer_workers_allowed_it_goes_on_without_the_node_and_later_with_another(tmp_path, model, two_nodes):
    """Up to rounding: the loss of every step, which Adam's usual epsilon magnifies."""
    elastic = {**LONGER, "min_workers": 1}
    alone = run(tmp_path / "alone", model, LONGER)
    log = tmp_path / "log"
    process, training = start(tmp_path / "run", model, elastic, log=log, RAY_ADDRESS=two_nodes.address)
    lose_a_node(two_nodes, training, process=process, log=log)
    fewer = r"training goes on after step (\d+) with 1 worker, 2 before"
    wait_for(lambda: re.search(fewer, log.read_text()), process=process, log=log)
    lost_at = int(re.search(fewer, log.read_text())[1])
    wait_for(lambda: steps(training) > lost_at, process=process, log=log)
    kill(process)
    two_nodes.add_node(**NODE)
    time.sleep(25)  # Ray Train counts the nodes every 20 s
    again = tmp_path / "again.log"
    process, _ = start(tmp_path / "run", model, elastic, log=again, RAY_ADDRESS=two_nodes.address)
    finish(process, log=again)
    found_at = int(re.search(r"training goes on after step (\d+) with 2 workers, 1 before", again.read_text())[1])
    assert figures(training)["workers_changed"] == [[lost_at, 2, 1], [found_at, 1, 2]]
    assert figures(training)["workers"] == 2
    for row, wanted in zip(history(training), history(alone), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-3)
