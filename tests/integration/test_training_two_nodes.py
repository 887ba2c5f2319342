"""Ray Train over two nodes with one CPU each, so one worker on each: the training of two workers on one node."""

import json
import logging
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from align_process import environment
from safetensors.numpy import load_file
from training_runs import PROGRAM, history, save_model_with_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

RUNS = {"zero_3": {"zero_stage": 3, "workers": 2, "epochs": 3}}


def run(home, path, **variables):
    variables = {**environment(), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", **variables}
    command = [sys.executable, str(PROGRAM), str(home), path, json.dumps(RUNS)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return home / "training" / "zero_3"


@pytest.fixture
def two_nodes():
    """The address of a cluster of two nodes, one CPU each."""
    from ray.cluster_utils import Cluster

    directory = tempfile.mkdtemp(prefix="mralign-ray-", dir="/tmp")  # Ray's sockets need a short path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "temp_dir": directory})
        try:
            cluster.add_node(**node)
            cluster.wait_for_nodes()
            yield cluster.address
        finally:
            cluster.shutdown()
    shutil.rmtree(directory, ignore_errors=True)


def nodes_of_workers(address):
    """The nodes on which Ray Train's workers have run."""
    import ray

    ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    actors = ray._private.state.actors().values()
    found = {actor["Address"]["NodeID"] for actor in actors if "RayTrainWorker" in actor["ActorClassName"]}
    ray.shutdown()
    return found


def test_two_nodes_train_what_one_node_trains(tmp_path, two_nodes):
    model = save_model_with_tokenizer(tmp_path / "model")
    alone = run(tmp_path / "alone", model)
    spread = run(tmp_path / "spread", model, RAY_ADDRESS=two_nodes)
    assert len(nodes_of_workers(two_nodes)) == 2
    for row, wanted in zip(history(spread), history(alone), strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=1e-6)
    found, expected = (load_file(place / "adapter" / "adapter_model.safetensors") for place in (spread, alone))
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-6)
