"""`ray job submit`, `ray job stop` and the same job again, on a head that asks for a token and on one that does not."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from align_process import SMALL, check_readable, drawn, rows, stage_dir
from ray_head import head

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TOKEN = "0123456789abcdef" * 4


def job(run, *arguments):
    """What is submitted: the checkout and its command, as cluster/README.md gives them."""
    command = ["--working-dir", ".", "--", "python", "jobs/align.py", "--preset", "miniworld"]
    return [*command, *arguments, f"run.dir={run}", *SMALL]


def working_below(variable):
    """Command line by process id of what has that environment variable, without idle workers and services of Ray."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_text().replace("\0", " ")
            if variable.encode() in (place / "environ").read_bytes():
                found[int(place.name)] = command
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it has ended, or is another user's
            continue
    services = ("JobSupervisor", "DashboardAgent", "RuntimeEnvAgent")
    # These outlive their job.
    of_ray_data = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker", "_UsageCollectionActor")
    idle = tuple(f"ray::{name}" for name in ("IDLE", *services, *of_ray_data))
    busy = {pid: command for pid, command in found.items() if command.startswith(("ray::", "VLLM"))}
    ours = {pid: command for pid, command in busy.items() if not command.startswith(idle)}
    driver = {pid: command for pid, command in found.items() if "python jobs/align.py" in command}
    return driver | ours


def lease(run):
    (held,) = (json.loads(file.read_text()) for file in (run / "lease").iterdir())
    return held


@pytest.mark.long
def test_a_head_that_asks_for_a_token(tmp_path):
    with head(token=TOKEN) as there:
        code, said = there.job("submit", "--submission-id", "first", *job(tmp_path / "run", "--until", "questions"))
        assert code == 0, said[-6000:]
        check_readable(there.log_of("first"))
        assert (stage_dir(tmp_path / "run", "questions") / "manifest.json").is_file()
        assert TOKEN not in there.log_of("first")
        assert not [
            file for file in (tmp_path / "run").rglob("*") if file.is_file() and TOKEN.encode() in file.read_bytes()
        ]

        code, said = there.job("submit", "--submission-id", "relative", *job("runs/here", "--until", "questions"))
        assert code != 0
        assert "stopped: run.dir=runs/here is relative, but a submitted job runs in a temporary directory" in said

        stranger = replace(there, environment=there.environment | {"RAY_AUTH_TOKEN": TOKEN[::-1]})
        code, said = stranger.job("submit", "--submission-id", "third", *job(tmp_path / "run", "--until", "questions"))
        assert code != 0
        assert "third" not in there.job("list")[1]


@pytest.mark.long
@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_job_that_ray_stops_leaves_nothing_behind_and_the_next_goes_on(tmp_path, monkeypatch, token):
    """`ray job stop` gives a driver three seconds between SIGTERM and SIGKILL."""
    run, mark = tmp_path / "run", f"MRALIGN_TEST={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    draws = 12  # so many that the job is still at work when the command that stops it has started
    asked = job(run, "--until", "candidates", f"rollouts.n={draws}")
    with head(token=token) as there:
        code, said = there.job("submit", "--no-wait", "--submission-id", "first", *asked)
        assert code == 0, said
        end = time.monotonic() + 300
        while not list(run.glob("rollouts/*/part-*")):
            assert time.monotonic() < end, there.log_of("first")[-6000:]
            time.sleep(0.1)
        assert lease(run)["state"] == "held"
        assert working_below(mark)
        code, said = there.job("stop", "first")
        assert code == 0, said
        assert "STOPPED" in there.job("status", "first")[1].upper()
        log = there.log_of("first")
        assert "interrupted: what was committed is kept" in log
        check_readable(log)
        assert lease(run)["state"] == "free"
        end = time.monotonic() + 30
        while left := working_below(mark):
            assert time.monotonic() < end, left
            time.sleep(0.2)
        assert not (stage_dir(run, "rollouts") / "manifest.json").exists()
        early = drawn(stage_dir(run, "rollouts"))

        code, said = there.job("submit", "--submission-id", "second", *asked)
        assert code == 0, said[-6000:]
        assert "goes on from" in said
        check_readable(there.log_of("second"))
    assert early.items() <= drawn(stage_dir(run, "rollouts")).items()
    ids = [row["row_id"] for row in rows(stage_dir(run, "rollouts"))]
    assert len(ids) == len(set(ids)) == 150 * 2 * draws
