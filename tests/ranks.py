"""Trainings of tests/training/rank.py in processes of their own, one a rank."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from python_path import python_path
from safetensors.torch import load_file

RANK = Path(__file__).with_name("training") / "rank.py"
KEYS = ("loss", "z0", "grad_norm", "reward_chosen", "reward_rejected", "plain_margin", "tokens")


def run_ranks(home, model, variants, *, ranks=1, fails=False, go_on=False):
    """Train each of `variants` (settings by name) in `ranks` processes with a process group of their own.

    Returns by name (history, trained tensors, gradients of the first step); with `fails`, what each rank said. With
    `go_on` one that fails does not end the others (of one rank), and what it said stands in its place.
    """
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    environment |= {"GO_ON": "1"} if go_on else {}
    environment["PYTHONPATH"] = python_path(RANK.parents[1], RANK.parents[2])
    placed = {  # a checkpoint is named by the variant that left it
        name: {**changes, **({"checkpoint": str(home / changes["checkpoint"])} if "checkpoint" in changes else {})}
        for name, changes in variants.items()
    }
    logs = [home / f"rank-{rank}.log" for rank in range(ranks)]
    running = [
        subprocess.Popen(
            [sys.executable, str(RANK), model, str(home), json.dumps(placed)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    codes = [process.wait(timeout=400) for process in running]
    if fails:
        assert all(codes)
        return [log.read_text() for log in logs]
    assert codes == [0] * ranks, logs[0].read_text()[-3000:]
    failures = {name: home / name / "failed" for name in variants}
    return {name: said.read_text() if said.exists() else _result(home / name) for name, said in failures.items()}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _result(target):
    history = json.loads((target / "state.json").read_text())["history"]
    found = load_file(next((target / "weights").glob("*.safetensors")))
    with np.load(target / "gradients.npz") as gradients:
        return history, {name: values.float().numpy() for name, values in found.items()}, dict(gradients)
