"""The vLLM engine as an actor holds it: adapters, refused requests, and what is left of it after kill -9."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from python_path import python_path

from mralign.serving.probe import fault

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SCRIPT = Path(__file__).with_name("engine_process.py")
MODEL = Path(__file__).parents[2] / "mralign" / "miniworld" / "data" / "model"


def start(*arguments, stdout=subprocess.PIPE):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path(Path(__file__).parents[2])}
    return subprocess.Popen([sys.executable, str(SCRIPT), *arguments], env=environment, stdout=stdout, text=True)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter that changes what the embedded model says, and the adapted model in transformers."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False))
    path = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(path)
    return path, model.eval()


@torch.no_grad()
def greedy(model, prompt, *, tokens):
    """Token ids and log-probabilities of the greedy completion, by the plain forward pass."""
    ids, logps = list(prompt), []
    for _ in range(tokens):
        logp_V = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        ids.append(int(logp_V.argmax()))
        logps.append(float(logp_V.max()))
    return ids[len(prompt) :], logps


def given(model, prompt, completion):
    """Log-probabilities of a given completion, by the plain forward pass."""
    logp_SV = model(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    return [float(logp_SV[len(prompt) - 1 + place, token]) for place, token in enumerate(completion)]


def test_an_adapter_is_served_and_a_refused_request_harms_no_other(adapter):
    path, model = adapter
    process = start("adapter", str(path))
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    first, second, refused, probed, seeded, last = lines
    for found, prompt in ((first, [5, 9, 12, 20]), (second, [7, 7, 30])):
        ids, logps = greedy(model, prompt, tokens=len(found["ids"]))
        assert found["ids"] == ids
        assert found["logps"] == pytest.approx(logps, abs=1e-3)
        with model.disable_adapter():
            assert greedy(model, prompt, tokens=len(ids))[1] != pytest.approx(logps, abs=1e-3)
    assert "256" in refused["error"]
    with torch.no_grad():
        trained = given(model, [5, 9, 12], [20, 7, 7, 30])
        with model.disable_adapter():
            before = given(model, [5, 9, 12], [20, 7, 7, 30])
    assert probed["probe"] == pytest.approx(trained, abs=1e-3)
    served, row = [np.array(probed["probe"])], {"logps": trained, "before": before}
    assert fault(served, [row], dtype="float32") is None
    without = [np.array(before)]  # what an engine would tell that was given no adapter
    assert "serves the model from before the training" in fault(without, [row], dtype="float32")
    assert len(seeded["seeded"]) == 16
    assert last == {"unfinished": False}


@pytest.mark.long
def test_why_an_engine_did_not_start_is_told_though_only_its_own_process_knows(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with (tmp_path / "worker.out").open("w") as out:  # as Ray gives an actor
        assert start("torn", str(model), stdout=out).wait(timeout=180) == 0
    lines = (tmp_path / "worker.out").read_text().splitlines()
    (found,) = (json.loads(line)["error"] for line in lines if line.startswith("{"))
    assert found.startswith(f"MachineFault: vLLM's engine of {model} did not start: "), found
    assert "SafetensorError" in found


def test_no_engine_outlives_an_owner_that_is_killed():
    process = start("hold")
    children = next(json.loads(line)["children"] for line in process.stdout if line.startswith("{"))
    assert len(children) == 1
    assert all(psutil.pid_exists(pid) for pid in children)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 30
    while any(psutil.pid_exists(pid) for pid in children):
        assert time.monotonic() < end, f"{children} still run"
        time.sleep(0.2)
