"""The same road as a job, to its candidates: `ray job submit --working-dir .` to a head that this test starts."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from align_process import ROOT, SMALL, environment

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@pytest.fixture
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


def test_the_road_as_a_job(head, tmp_path):
    ray, address = head
    run = tmp_path / "run"
    command = [ray, "job", "submit", "--address", address, "--working-dir", ".", "--", "python", "jobs/align.py"]
    submitted = subprocess.run(
        [*command, "--until", "candidates", f"run.dir={run}", *SMALL],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=480,
        check=False,
    )
    assert submitted.returncode == 0, submitted.stdout[-6000:] + submitted.stderr[-3000:]
    assert "succeeded" in submitted.stdout
    assert "stages done: questions, rollouts, candidates" in submitted.stdout
    assert list(run.glob("candidates/*/manifest.json"))
    assert str(run / "report" / "index.html") in submitted.stdout
