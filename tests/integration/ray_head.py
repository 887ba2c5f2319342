"""A Ray head with ports and a directory of its own, in the foreground so that it can be ended by pid; on demand with an
autoscaler that starts nodes on this machine."""

import contextlib
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
from dataclasses import dataclass
from pathlib import Path

import psutil
from align_process import ROOT, environment

_HEAD_ID = "f" * 51 + "00000"  # Ray's provider of nodes on one machine counts on from this one


@dataclass(frozen=True)
class Head:
    """A head that runs: where it is, and the environment of commands that are sent to it."""

    dashboard: str  # URL
    address: str  # HOST:PORT, as RAY_ADDRESS
    directory: Path
    environment: dict[str, str]

    def ray(self, *arguments, timeout=480):
        """Exit status of `ray ARGUMENTS`, and what it printed."""
        done = subprocess.run(
            [ray_command(), *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def job(self, command, *arguments):
        """`ray job COMMAND ...`."""
        return self.ray("job", command, "--address", self.dashboard, *arguments)

    def log_of(self, job):
        """What a job has printed, without the lines that `ray job logs` puts before it."""
        return (self.directory / "session_latest" / "logs" / f"job-driver-{job}.log").read_text()


def ray_command():
    return str(Path(sys.executable).with_name("ray"))


def free_ports(count):
    listeners = [socket.socket() for _ in range(count)]
    for listener in listeners:
        listener.bind(("127.0.0.1", 0))
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


@contextmanager
def head(*, cpus=6, token="", scaling=None):
    """`token`: the token that everybody must bring; empty for none. `scaling`: what `scaling_of` gives."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # Ray's sockets need a short path
    port, dashboard, client, agent = free_ports(4)
    command = [ray_command(), "start", "--head", "--block", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
    command += [f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--temp-dir={directory}"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    given = {**environment(), "PATH": path} | ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {})
    started_with = given
    if scaling is not None:
        file = directory / "scaling.yaml"
        file.write_text(json.dumps(scaling | {"provider": scaling["provider"] | {"gcs_address": f"127.0.0.1:{port}"}}))
        command.append(f"--autoscaling-config={file}")
        started_with = given | _OF_AUTOSCALER
    log = directory / "head.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, env=started_with, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        end = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", directory, given)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        for one in of_directory(directory):  # nodes that the autoscaler has started
            one.kill()
        shutil.rmtree(directory, ignore_errors=True)


_OF_AUTOSCALER = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
}


def scaling_of(worker, *, most, idle_s=6):
    """The file of an autoscaler that starts up to `most` nodes of these resources, as processes of this machine, and
    ends one that was idle for `idle_s`."""
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "head_node_id": _HEAD_ID,
        "launch_multiple": True,
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "grows",
        "max_workers": most,
        "idle_timeout_minutes": idle_s / 60,
        "upscaling_speed": 1.0,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0, "node_config": {}},
            "worker": {"resources": worker, "min_workers": 0, "max_workers": most, "node_config": {}},
        },
        **{f"{name}_commands": [] for name in commands},
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
    }


def of_directory(directory):
    """The processes whose command line names a head's directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and str(directory) in " ".join(process.cmdline()):
                found.append(process)
    return found


def raylet_of(name, *, directory):
    """The raylet of a node on which a worker of that name lives; None if there is none yet."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if name in " ".join(process.cmdline()) and parent and str(directory) in " ".join(parent.cmdline()):
                return parent
    return None
