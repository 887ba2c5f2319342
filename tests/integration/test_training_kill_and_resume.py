"""kill -9 of a training worker, then of the driver: the adapter is the undisturbed run's, to the last bit."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from align_process import environment, finish, kill, members, wait_for
from safetensors.numpy import load_file
from training_runs import PROGRAM, history, save_model_with_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

RUNS = {"zero_2": {"zero_stage": 2, "workers": 1}, "zero_3": {"zero_stage": 3, "workers": 2}}
BROKEN = {"broken": {"workers": 2, "learning_rate": 1e30}}
AGAIN = {f"{name}_undisturbed": training for name, training in RUNS.items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model_with_tokenizer(tmp_path_factory.mktemp("model"))


def start(home, model, *, log):
    with log.open("a") as stream:
        return subprocess.Popen(
            [sys.executable, str(PROGRAM), str(home), model, json.dumps(RUNS | AGAIN | BROKEN)],
            env={**environment(), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def steps(training):
    """How many steps the last checkpoint has seen."""
    metrics = training / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def workers(process):
    return [pid for pid, name in members(process.pid).items() if "RayTrainWorker" in name]


def test_a_killed_worker_and_a_killed_driver_change_no_bit(tmp_path, model):
    home, log = tmp_path / "run" / "training", tmp_path / "log"
    first = start(home.parent, model, log=log)
    wait_for(lambda: steps(home / "zero_2") >= 4, process=first, log=log)
    (worker,) = workers(first)
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: steps(home / "zero_3") >= 4, process=first, log=log)
    assert (home / "zero_2" / "manifest.json").exists()
    kill(first)
    assert not (home / "zero_3" / "manifest.json").exists()
    finish(start(home.parent, model, log=log), log=log)
    assert log.read_text().count("training goes on after step") == 2  # once after the worker, once after the driver

    # What another try cannot mend ends with its reason, at once, and leaves no model.
    assert re.search(r"broken stopped: at step 2 the .* is not finite; examples: q\d/on/\d, q", log.read_text())
    assert not (home / "broken" / "model").exists()

    for name in RUNS:
        found, expected = home / name, home / f"{name}_undisturbed"
        weights = [load_file(place / "adapter" / "adapter_model.safetensors") for place in (found, expected)]
        for parameter, values in weights[1].items():
            assert np.array_equal(weights[0][parameter], values), (name, parameter)
        for row, wanted in zip(history(found), history(expected), strict=True):
            assert [row[k] for k in ("step", "loss", "z0")] == [wanted[k] for k in ("step", "loss", "z0")]
        assert len(history(found)) == history(found)[-1]["of"] == 16
        assert len(list((found / "model").glob("*.safetensors"))) == 1
        assert json.loads((found / "manifest.json").read_text())["figures"]["workers_changed"] == []
    assert log.read_text().count("of them to score") == 1  # the reference is made once for all
