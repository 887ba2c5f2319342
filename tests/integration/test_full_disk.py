"""A disk that fills up under a training: one sentence, no half checkpoint; with room again, the undisturbed result."""

import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from align_process import environment
from safetensors.numpy import load_file
from training_runs import PROGRAM, history, save_model_with_tokenizer

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

RUNS = {"one": {"zero_stage": 2, "workers": 1}, "two": {"zero_stage": 2, "workers": 2, "max_failures": 1}}


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(place)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def run(home, model, runs):
    return subprocess.run(
        [sys.executable, str(PROGRAM), str(home), model, json.dumps(runs)],
        env={**environment(), "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def fill_after(training, *, steps, place):
    """Fill the disk, but for 1 MiB, once so many steps have been noted."""

    def watch():
        metrics = training / "metrics.jsonl"
        while not (metrics.exists() and len(metrics.read_text().splitlines()) >= steps):
            time.sleep(0.02)
        left = 24 * 2**20 - sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
        (place / "filler").write_bytes(b"x" * (left - 2**20))

    threading.Thread(target=watch, daemon=True).start()


def checkpoints(training):
    snapshot = json.loads((training / "ray_train" / "checkpoint_manager_snapshot.json").read_text())
    known = {result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]}
    return {path.name for path in (training / "ray_train").glob("checkpoint_*") if path.is_dir()}, known


@pytest.mark.parametrize("name", RUNS)
def test_a_disk_that_fills_up_costs_no_step(tmp_path, small_disk, name):
    model = save_model_with_tokenizer(tmp_path / "model")
    training = small_disk / "training" / name
    temporary = set(Path("/tmp").glob("mralign-checkpoint-*"))
    fill_after(training, steps=4, place=small_disk)
    first = run(small_disk, model, {name: RUNS[name]})
    assert re.search(rf"{name} stopped: no space left .* on the disk of {training}; make room", first.stdout), (
        first.stderr
    )
    assert "Traceback" not in first.stdout
    there, known = checkpoints(training)
    assert there == known and 1 <= len(there) <= 2
    assert set(Path("/tmp").glob("mralign-checkpoint-*")) <= temporary
    assert not list(small_disk.rglob("_tmp-*"))

    (small_disk / "filler").unlink()
    run(small_disk, model, {name: RUNS[name], "undisturbed": RUNS[name]})
    assert (training / "manifest.json").exists()
    there, known = checkpoints(training)
    assert there == known and len(there) <= 2
    places = training, small_disk / "training" / "undisturbed"
    found, expected = (load_file(place / "adapter" / "adapter_model.safetensors") for place in places)
    for parameter, values in expected.items():
        assert np.array_equal(found[parameter], values), parameter
    rows = [[(row["step"], row["loss"]) for row in history(place)] for place in places]
    assert rows[0] == rows[1] and len(rows[0]) == 16
