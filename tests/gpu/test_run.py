"""The script for a card, where there is none: its steps are started, limited and told. What a card says stays open."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run.sh")
sys.path.insert(0, str(SCRIPT.parent))
from steps import Step, run, run_all  # noqa: E402


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
    rows = {row["step"]: row["said"] for row in found["figures"]}
    assert list(rows) == ["serving", "memory", "profile", "resume", "training", "world", "bench"]
    assert rows["serving"] == {"stages": ["questions", "rollouts"]}
    assert [settings["memory"] for settings in rows["memory"].values()] == ["26GiB", "auto", "40GiB"]
    assert rows["profile"]["gpu"] and rows["profile"]["kernels"] == "liger"
    assert rows["resume"]["dtypes"] == ["float32", "bfloat16"]
    assert "trains: q_proj" in told["world.log"]
    assert "test_in_float32_every_way_is_the_training_of_a_cpu[zero_3]" in told["training.log"]
    sides = ["trl", "ours_in_26_gib", "trl_precomputed", "ours_new_pairs", "ours"]
    assert list(rows["bench"]) == sides
    assert rows["bench"]["ours_in_26_gib"]["memory"] == "26GiB"
    assert found["machine"]["torch"]


def python(code, *, limit=1):
    """A step that runs a line of Python, whatever the mode."""
    command = ("-c", code)
    return Step("step", limit, command, command, command)


def logs(directory):
    (directory / "logs").mkdir()
    return directory / "logs"


def test_a_failed_and_a_slow_step_are_told(tmp_path):
    ways = {
        "ok": "print('{\"a\": 1}')",
        "fails": "print('why'); raise SystemExit(3)",
        "slow": "import time; time.sleep(60)",
    }
    found = {name: run(python(code), mode="card", log=tmp_path / name, limit=2) for name, code in ways.items()}
    assert [row["outcome"] for row in found.values()] == ["ok", "failed (3)", "too slow (over 2 s)"]
    assert found["ok"]["said"] == {"a": 1}
    assert found["fails"]["said"] == {"last lines": ["why"]}
    assert found["slow"]["seconds"] < 30


def test_a_step_for_which_too_little_time_is_left_is_left_out_and_the_next_may_still_fit(tmp_path, capsys):
    wait = "import time; time.sleep(0.5)"
    chosen = [python(wait, limit=3), python("pass", limit=1000), python("pass", limit=2)]
    found = run_all(chosen, mode="card", work=tmp_path, logs=logs(tmp_path), seconds=4)
    assert [row["outcome"] for row in found] == ["ok", "left out (no time)", "ok"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_all_steps_are_tried_where_nobody_counts_the_time(tmp_path):
    chosen = [python("raise SystemExit(1)"), python("pass")]
    found = run_all(chosen, mode="card", work=tmp_path, logs=logs(tmp_path), seconds=None)
    assert [row["outcome"] for row in found] == ["failed (1)", "ok"]


def test_of_a_step_that_failed_the_logs_of_its_run_and_of_its_ray_are_kept(tmp_path):
    work = tmp_path / "work"
    write = f"import os, pathlib; home = pathlib.Path({str(work)!r}, 'run', 'logs'); os.makedirs(home, exist_ok=True); "
    write += "(home / 'worker.err').write_text('why'); (home / 'empty.out').touch(); "
    write += "os.path.lexists(home / 'a.log') or (home / 'a.log').symlink_to('nowhere'); "
    kept = logs(tmp_path) / "step"
    run_all([python(write)], mode="card", work=work, logs=kept.parent, seconds=None)
    assert not kept.exists()
    os.utime(work / "run" / "logs" / "worker.err", (0, 0))
    run_all([python("raise SystemExit(1)")], mode="card", work=work, logs=kept.parent, seconds=None)
    assert not list(kept.iterdir())  # a step before had written it
    run_all([python(write + "raise SystemExit(1)")], mode="card", work=work, logs=kept.parent, seconds=None)
    assert {log.name: log.read_text() for log in kept.iterdir()} == {"run-logs-worker.err": "why"}


def test_the_ray_of_a_step_keeps_its_files_below_the_work(tmp_path):
    code = "import os, json; print(json.dumps(os.environ['RAY_TMPDIR']))"
    (found,) = run_all([python(code)], mode="card", work=tmp_path, logs=logs(tmp_path), seconds=None)
    assert found["said"] == f"{tmp_path}/r"


@pytest.mark.long
def test_the_steps_run_with_tiny_models_on_cpus(tmp_path):
    done, found, told = script("--cpu", logs=tmp_path)
    assert done.returncode == 0, (found, told)
    rows = {row["step"]: row["said"] for row in found["figures"]}
    assert rows["serving"]["rows"] == rows["serving"]["rows_after_kill"] == 64 * 4 * 2
    assert rows["serving"]["kills"]
    assert rows["resume"]["float32"]["resumed"]["bitwise"] and rows["resume"]["bfloat16"]["resumed"]["bitwise"]
    assert rows["bench"]["benchmark"] == "training"
    assert rows["memory"]["ratios"]
    assert sum(rows["profile"]["ratios"].values()) == pytest.approx(1.0)
