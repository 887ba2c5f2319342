"""`jobs/compare.py`: what is wrong ends it in a sentence, and (long) the whole command on a small world."""

import re
import shutil
import subprocess
import sys
from itertools import product

import pytest
from align_process import ROOT, environment

from mralign.comparison.run_rows import read_rows

DATA = ROOT / "mralign" / "miniworld" / "data"


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
    rows = read_rows(tmp_path / "out" / "runs.csv")
    found = {(row.method, row.split): row for row in rows}
    assert set(found) == {("base", "test"), *product(("sft", "mralign"), ("dev", "test"))}
    assert all(row.steps for row in rows if row.method != "base")
    shown = dict(re.findall(r"^(\w+) +(\d\.\d{3}) ", first.stdout.partition("Mis on test")[0], re.MULTILINE))
    assert shown == {name: f"{row.acc:.3f}" for (name, split), row in found.items() if split == "test"}
    again = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr[-5000:]
    assert again.stdout == first.stdout
    assert read_rows(tmp_path / "out" / "runs.csv") == rows  # nothing twice
