"""The road as a job, undisturbed; then kill -9 of a driver, SIGTERM, and the command once more: nothing changed."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from align_process import ROOT, SMALL, drawn, finish, kill, manifest, rows, stage_dir, start, wait_for
from ray_head import head
from report.page_words import page_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """The road to the candidates as a job, `ray job submit --working-dir .`, undisturbed: the run and what it said."""
    run = tmp_path_factory.mktemp("job") / "run"
    asked = ["jobs/align.py", "--until", "candidates", f"run.dir={run}", *SMALL]
    with head() as there:
        code, said = there.job("submit", "--working-dir", ".", "--", "python", *asked)
    assert code == 0, said[-6000:]
    return run, said


def test_the_road_as_a_job(submitted):
    run, said = submitted
    assert "succeeded" in said
    assert "stages done: questions, rollouts, candidates" in said
    assert list(run.glob("candidates/*/manifest.json"))


def test_a_killed_run_goes_on_where_it_was(submitted, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"

    first = start(run, *SMALL, log=log)
    wait_for(lambda: list(run.glob("rollouts/*/part-*")), process=first, log=log)
    kill(first)
    rollouts = stage_dir(run, "rollouts")
    assert not (rollouts / "manifest.json").exists()
    early = drawn(rollouts)
    assert 0 < len(early) < 900 and len(early) % 150 == 0  # 150 questions x 2 modes x 3 draws in batches of 150

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

    assert early.items() <= drawn(rollouts).items()  # finished rows were not redone
    kept = {name: Path(name).stat().st_mtime_ns for name in late}
    assert kept == late
    ids = [row["row_id"] for row in rows(rollouts)]
    assert len(ids) == len(set(ids)) == 150 * 2 * 3
    history = [json.loads(line) for line in (stage_dir(run, "training") / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history] == list(range(1, history[-1]["of"] + 1))
    assert "training goes on after step" in log.read_text()

    undisturbed, _ = submitted
    for stage in ("questions", "rollouts", "candidates"):
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
    page = page_data((run / "report" / "index.html").read_text())["runs"][0]
    shelves = page["index"]["names"]["shelf"]
    found = [shelves[code] for code in page["index"]["columns"]["shelf"]]
    assert found.count("evaluation") >= 2 * 40  # every held-out question, with thinking and without
    assert found.count("training") == manifest(run, "candidates")["rows_out"]

    finish(start(run, *SMALL, log=tmp_path / "again"), log=tmp_path / "again", timeout=60)
    again = (tmp_path / "again").read_text()
    assert again.count("skipped") == 17
    assert "mralign" in again
    assert 0 < manifest(run, "responses")["figures"]["served_minus_trained_logp"] < 1e-3


@pytest.mark.long
def test_an_engine_that_serves_the_model_from_before_the_training_is_found_out(tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    finish(start(run, *SMALL, log=log), log=log)
    shutil.copy(ROOT / "mralign/miniworld/data/model/model.safetensors", stage_dir(run, "training") / "model")
    shutil.rmtree(stage_dir(run, "responses"))
    shutil.rmtree(run / "responses_by_content")
    wrong = start(run, *SMALL, log=log)
    assert wrong.wait(timeout=240) == 2
    assert "the engine serves the model from before the training" in log.read_text()
    assert not list(run.glob("responses_by_content/*/part-*"))
