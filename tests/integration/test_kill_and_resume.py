"""kill -9 of the driver, then SIGTERM, then the same command: the result is the one an undisturbed run gives."""

import json
import shutil
import signal
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from align_process import ROOT, SMALL, finish, kill, start, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def stage_dir(run, stage):
    (found,) = (place for place in (run / stage).iterdir() if place.is_dir())
    return found


def rows(directory):
    return [row for part in sorted(directory.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def manifest(run, stage):
    return json.loads((stage_dir(run, stage) / "manifest.json").read_text())


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"

    first = start(run, *SMALL, log=log)
    wait_for(lambda: list(run.glob("rollouts/*/part-*")), process=first, log=log)
    kill(first)
    rollouts = stage_dir(run, "rollouts")
    assert not (rollouts / "manifest.json").exists()
    early = {part.name: part.stat().st_mtime_ns for part in rollouts.glob("part-*")}
    assert 0 < len(early) < 6  # 150 questions x 2 modes x 3 draws in batches of 150

    second = start(run, *SMALL, log=log)
    registered = "training/*/ray_train/checkpoint_manager_snapshot.json"  # Ray Train writes it with each checkpoint
    wait_for(lambda: list(run.glob(registered)), process=second, log=log)
    second.send_signal(signal.SIGTERM)  # what `ray job stop` sends
    assert second.wait(timeout=60) == 130
    assert "goes on from" in log.read_text()
    assert "interrupted: what was committed is kept; run the same command to go on" in log.read_text()
    assert not (stage_dir(run, "training") / "manifest.json").exists()
    late = {str(part): part.stat().st_mtime_ns for part in run.glob("*/*/part-*")}

    third = start(run, *SMALL, log=log)
    finish(third, log=log)

    assert {name: (rollouts / name).stat().st_mtime_ns for name in early} == early  # finished parts were not redone
    kept = {name: Path(name).stat().st_mtime_ns for name in late}
    assert kept == late
    ids = [row["row_id"] for row in rows(rollouts)]
    assert len(ids) == len(set(ids)) == 150 * 2 * 3
    history = [json.loads(line) for line in (stage_dir(run, "training") / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, history[-1]["of"] + 1))
    assert "training goes on after step" in log.read_text()

    undisturbed = tmp_path / "undisturbed"
    finish(start(undisturbed, *SMALL, "--until", "weights", log=tmp_path / "log2"), log=tmp_path / "log2")
    for stage in ("questions", "rollouts", "candidates", "annotation", "counts", "matrices", "weights"):
        a, b = manifest(run, stage), manifest(undisturbed, stage)
        assert (stage, a["rows_in"], a["rows_out"], a["rejects"]) == (stage, b["rows_in"], b["rows_out"], b["rejects"])
    same = [sorted(row["row_id"] for row in rows(stage_dir(d, "candidates"))) for d in (run, undisturbed)]
    assert same[0] == same[1]

    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert set(metrics) == {"base_think_off", "base_think_on", "mralign"}
    found = {name: metrics[name]["miniworld"] for name in metrics}
    assert all(figures["n"] == 40 for figures in found.values())
    assert found["base_think_off"]["mis"] is None
    assert 0 <= found["base_think_on"]["mis_ci"][0] <= found["base_think_on"]["mis"] <= 1
    assert (run / "report" / "index.html").read_text().count("<svg") >= 4

    again = tmp_path / "log3"
    finish(start(run, *SMALL, log=again), log=again, timeout=60)
    text = again.read_text()
    assert text.count("skipped") == 16
    assert "Started a local Ray" not in text
    assert "mralign" in text

    # An engine that serves the old model is found out before it is asked anything.
    served = manifest(run, "responses")["figures"]["served_minus_trained_logp"]
    assert 0 < served < 1e-3
    shutil.copy(ROOT / "mralign/miniworld/data/model/model.safetensors", stage_dir(run, "training") / "model")
    shutil.rmtree(stage_dir(run, "responses"))
    shutil.rmtree(run / "responses_by_content")
    wrong = start(run, *SMALL, log=again)
    assert wrong.wait(timeout=240) == 2
    assert "the engine serves the model from before the training" in again.read_text()
    assert not list(run.glob("responses_by_content/*/part-*"))
