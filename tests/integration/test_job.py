"""The road as a job, undisturbed; then kill -9 of a driver, SIGTERM, and the command once more: nothing changed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from align_process import ROOT, SMALL, environment, finish, kill, start, wait_for
from report.page_words import page_data

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@contextmanager
def head():
    """A Ray head with ports and a directory of its own, started in the foreground so that it can be ended by pid."""
    ray = str(Path(sys.executable).with_name("ray"))
    directory = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    port, dashboard, client, agent = free_ports(4)
    command = [ray, "start", "--head", "--block", "--num-cpus=6", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={directory}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    log = Path(directory, "head.log")
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            env={**environment(), "PATH": path},
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield ray, f"http://127.0.0.1:{dashboard}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(directory, ignore_errors=True)


def stage_dir(run, stage):
    (found,) = (place for place in (run / stage).iterdir() if place.is_dir())
    return found


def rows(directory):
    return [row for part in sorted(directory.glob("part-*.parquet")) for row in pq.read_table(part).to_pylist()]


def drawn(directory):
    """The tokens of each generation, whichever part it stands in: batches become one part in the end."""
    return {row["row_id"]: row["token_ids"] for row in rows(directory)}


def manifest(run, stage):
    return json.loads((stage_dir(run, stage) / "manifest.json").read_text())


@pytest.fixture(scope="module")
def submitted(tmp_path_factory):
    """The road to the candidates as a job, `ray job submit --working-dir .`, undisturbed: the run and what it said."""
    run = tmp_path_factory.mktemp("job") / "run"
    asked = ["jobs/align.py", "--until", "candidates", f"run.dir={run}", *SMALL]
    with head() as (ray, address):
        done = subprocess.run(
            [ray, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", *asked],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=480,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    return run, done.stdout


def ray_job(ray, command, address, *arguments):
    """`ray job COMMAND ...`, and what it printed."""
    done = subprocess.run(
        [ray, "job", command, "--address", address, *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


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
    of_ray_data = ("_StatsActor", "_AutoscalingCoordinatorActor", "ActorLocationTracker")  # they outlive their job
    idle = tuple(f"ray::{name}" for name in ("IDLE", *services, *of_ray_data))
    busy = {pid: command for pid, command in found.items() if command.startswith(("ray::", "VLLM"))}
    ours = {pid: command for pid, command in busy.items() if not command.startswith(idle)}
    driver = {pid: command for pid, command in found.items() if "python jobs/align.py" in command}
    return driver | ours


def lease(run):
    (held,) = (json.loads(file.read_text()) for file in (run / "lease").iterdir())
    return held


@pytest.mark.long
def test_a_job_that_ray_stops_leaves_nothing_behind_and_the_next_goes_on(tmp_path, monkeypatch):
    """`ray job stop` gives a driver three seconds between SIGTERM and SIGKILL."""
    run, mark = tmp_path / "run", f"MRALIGN_TEST={tmp_path}"
    monkeypatch.setenv(*mark.split("="))
    job = ["--working-dir", ".", "--", "python", "jobs/align.py", "--until", "candidates", f"run.dir={run}", *SMALL]
    with head() as (ray, address):
        code, said = ray_job(ray, "submit", address, "--no-wait", "--submission-id", "first", *job)
        assert code == 0, said
        end = time.monotonic() + 300
        while not list(run.glob("rollouts/*/part-*")):
            assert time.monotonic() < end, ray_job(ray, "logs", address, "first")[1][-6000:]
            time.sleep(0.1)
        assert lease(run)["state"] == "held"
        assert working_below(mark)
        code, said = ray_job(ray, "stop", address, "first")
        assert code == 0, said
        assert "STOPPED" in ray_job(ray, "status", address, "first")[1].upper()
        assert "interrupted: what was committed is kept" in ray_job(ray, "logs", address, "first")[1]
        assert lease(run)["state"] == "free"
        end = time.monotonic() + 30
        while left := working_below(mark):
            assert time.monotonic() < end, left
            time.sleep(0.2)
        assert not (stage_dir(run, "rollouts") / "manifest.json").exists()
        early = drawn(stage_dir(run, "rollouts"))

        code, said = ray_job(ray, "submit", address, "--submission-id", "second", *job)
        assert code == 0, said[-6000:]
        assert "goes on from" in said
    assert early.items() <= drawn(stage_dir(run, "rollouts")).items()
    ids = [row["row_id"] for row in rows(stage_dir(run, "rollouts"))]
    assert len(ids) == len(set(ids)) == 150 * 2 * 3


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
    after_training = "] responses_base: starts"
    wait_for(lambda: after_training in log.read_text(), process=third, log=log)
    third.send_signal(signal.SIGINT)  # Ray Train would have put a handler of its own in place of ours
    assert third.wait(timeout=60) == 130

    fourth = start(run, *SMALL, log=log)
    finish(fourth, log=log)

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

    check_again(run, log=tmp_path / "log3")


def check_again(run, *, log):
    """A finished run is skipped whole, and an engine that serves the old model is found out before it is asked."""
    finish(start(run, *SMALL, log=log), log=log, timeout=60)
    text = log.read_text()
    assert text.count("skipped") == 17
    assert "mralign" in text

    served = manifest(run, "responses")["figures"]["served_minus_trained_logp"]
    assert 0 < served < 1e-3
    shutil.copy(ROOT / "mralign/miniworld/data/model/model.safetensors", stage_dir(run, "training") / "model")
    shutil.rmtree(stage_dir(run, "responses"))
    shutil.rmtree(run / "responses_by_content")
    wrong = start(run, *SMALL, log=log)
    assert wrong.wait(timeout=240) == 2
    assert "the engine serves the model from before the training" in log.read_text()
    assert not list(run.glob("responses_by_content/*/part-*"))
