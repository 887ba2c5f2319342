"""Files of rollouts through the stage that imports them, its driver killed with kill -9 at both of its steps."""

import json

import pyarrow.parquet as pq
import pytest
from align_process import ROOT, finish, kill, start, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

SIZE = 15_000
MODEL = ROOT / "mralign" / "miniworld" / "data" / "model"
TEXTS = {"on": "<think>\nso totibar\n\nso pemidir\n</think>\n\npemidir", "off": "pemidir"}


def write(home):
    """The files of both modes, thinking off in another order; how to import them."""
    settings = ["--until", "rollouts", f"model.path={MODEL}", "model.dtype=float32", "rollouts.n=1"]
    for mode, text in TEXTS.items():
        path = home / f"{mode}.jsonl"
        with path.open("w") as file:
            for number in range(SIZE):
                one = number if mode == "on" else number * 7919 % SIZE
                row = {"id": one, "question": f"name {one}", "answer": "pemidir", "response": text}
                file.write(json.dumps(row) + "\n")
        settings.append(f"rollouts.import_{mode}={path}")
    return settings


def test_after_each_kill_the_run_goes_on_and_ends_with_every_row_once(tmp_path):
    settings, run, log = write(tmp_path), tmp_path / "run", tmp_path / "log"
    reading = start(run, *settings, log=log)
    wait_for(lambda: list(run.glob("rollouts/*/raw/on-*.parquet")), process=reading, log=log)
    kill(reading)
    assert not list(run.glob("rollouts/*/part-*"))
    writing = start(run, *settings, log=log)
    wait_for(lambda: list(run.glob("rollouts/*/part-*")), process=writing, log=log)
    kill(writing)
    early = {path: path.stat().st_mtime_ns for path in run.glob("rollouts/*/part-*")}
    assert 0 < len(early) < 8
    finish(start(run, *settings, log=log), log=log)
    assert {path: path.stat().st_mtime_ns for path in early} == early
    rows = [row for path in run.glob("rollouts/*/part-*") for row in pq.read_table(path).to_pylist()]
    assert sorted((row["row_id"], row["text"]) for row in rows) == sorted(
        (f"imported/{number}/{mode}/0", text) for mode, text in TEXTS.items() for number in range(SIZE)
    )
    (manifest,) = run.glob("rollouts/*/manifest.json")
    assert json.loads(manifest.read_text())["rows_out"] == 2 * SIZE
    assert not list(run.glob("rollouts/*/raw"))
