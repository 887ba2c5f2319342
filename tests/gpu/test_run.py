"""The script for a card, where there is none: its steps are started, limited and told. What a card says stays open."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.sh")
sys.path.insert(0, str(SCRIPT.parent))
from steps import Step, run  # noqa: E402


def script(*arguments, logs):
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments, "--logs", str(logs)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    told = {path.name: path.read_text()[-3000:] for path in logs.iterdir()}
    return done, json.loads(done.stdout.splitlines()[-1]), told


def test_every_step_takes_what_it_is_given(tmp_path):
    done, found, told = script("--dry", logs=tmp_path)
    assert done.returncode == 0, told
    rows = {row["step"]: row for row in found["figures"]}
    assert list(rows) == ["serving", "world", "training", "bench", "memory", "profile"]
    assert rows["serving"]["said"] == {"stages": ["questions", "rollouts"]}
    assert "trains: q_proj" in told["world.log"]
    assert "test_in_float32_every_way_is_the_training_of_a_cpu[zero_3]" in told["training.log"]
    assert found["machine"]["torch"]


def test_a_failed_and_a_slow_step_are_told(tmp_path):
    ways = {"ok": "print('{\"a\": 1}')", "fails": "raise SystemExit(3)", "slow": "import time; time.sleep(60)"}
    found = {}
    for name, code in ways.items():
        command = ("-c", code)
        step = Step(name, 1, command, command, command)
        found[name] = run(step, mode="card", log=tmp_path / name, limit=2)
    assert [row["outcome"] for row in found.values()] == ["ok", "failed (3)", "too slow (over 2 s)"]
    assert found["ok"]["said"] == {"a": 1}
    assert found["slow"]["seconds"] < 30


@pytest.mark.long
def test_the_steps_run_with_tiny_models_on_cpus(tmp_path):
    done, found, told = script("--cpu", logs=tmp_path)
    assert done.returncode == 0, (found, told)
    rows = {row["step"]: row["said"] for row in found["figures"]}
    assert rows["serving"]["rows"] == rows["serving"]["rows_after_kill"] == 64 * 2 * 2
    assert rows["serving"]["actors_killed"] >= 1
    assert rows["bench"]["benchmark"] == "training"
    assert rows["memory"]["ratios"]
    assert sum(rows["profile"]["ratios"].values()) == pytest.approx(1.0)
