"""`jobs/compare.py`: the metrics of a checkpoint, and (long) the whole command on a small world."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from align_process import ROOT, environment

from mralign.comparison.stage import metrics_by_mode
from mralign.config import parse

DATA = ROOT / "mralign" / "miniworld" / "data"


def test_metrics_are_those_of_each_mode():
    row = {"question_id": "q", "dataset": "d", "answers": ["Paris"], "invalid": None, "completion_tokens": 3}
    thought = {"text": "<think>Paris</think>", "thought_start": 7, "thought_end": 12, "thought_tokens": 1}
    none = {"text": "", "thought_start": -1, "thought_end": -1, "thought_tokens": 0}
    rows = [
        row | thought | {"row_id": "q/on/0", "mode": "on", "answer": "Paris"},
        row | thought | {"row_id": "q/on/1", "mode": "on", "answer": "Rome"},
        row | none | {"row_id": "q/off/0", "mode": "off", "answer": "Rome"},
    ]
    evaluation = parse({"questions": {"test": [{"name": "a", "path": "a"}]}}).evaluation
    found = metrics_by_mode(rows, modes=["off", "on"], settings=evaluation)
    assert {mode: (m["acc"], m["mis"]) for mode, m in found.items()} == {"off": (0.0, None), "on": (0.5, 0.5)}


def test_what_is_wrong_ends_the_command_in_a_sentence(tmp_path):
    world = tmp_path / "world-0"
    shutil.copytree(DATA, world)
    (world / "questions" / "dev.jsonl").unlink()
    command = [sys.executable, "jobs/compare.py", "--worlds", "0", "--worlds-dir", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "stopped: questions.dev, source 'miniworld': question file" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.long
def test_the_command_on_one_small_world(tmp_path):
    world = tmp_path / "worlds" / "world-0"
    shutil.copytree(DATA, world)
    for split, kept in (("train", 80), ("dev", 20), ("test", 20)):
        lines = (world / "questions" / f"{split}.jsonl").read_text().splitlines(keepends=True)
        (world / "questions" / f"{split}.jsonl").write_text("".join(lines[:kept]))
    arguments = [
        "--worlds",
        "0",
        "--worlds-dir",
        world.parent,
        "--out",
        tmp_path / "out",
        "--methods",
        "sft,mralign",
    ]
    arguments += ["--rates", "1e-3", "--epochs", "1", "--trainers", "1"]
    command = [sys.executable, "jobs/compare.py", *map(str, arguments)]
    first = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=580)
    assert first.returncode == 0, first.stderr[-5000:]
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines() if line]
    dev = {row["method"]: row for row in rows if row["split"] == "dev"}
    test = {row["method"]: row for row in rows if row["split"] == "test"}
    assert set(dev) == {"sft", "mralign"}
    assert set(test) == {"sft", "mralign", "base_think_on", "base_think_off"}
    assert all(row["probe_difference"] < 1e-2 for row in dev.values())
    assert all(row["metrics"]["n"] == 20 for row in rows)
    shown = dict(re.findall(r"^(\w+) +(\d\.\d{3}) ", first.stdout, re.MULTILINE))
    assert shown == {name: f"{row['metrics']['acc']:.3f}" for name, row in test.items()}
    again = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-5000:]
    assert again.stdout == first.stdout
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == len(rows) + 1  # nothing twice
