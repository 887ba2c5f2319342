"""The SLURM script and the compose file: read by shellcheck and by structure; the script is run with the commands of
SLURM played by the shell, on a real Ray of two nodes."""

import os
import re
import shutil
import signal
import stat
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml
from dockerfile import stages_of

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "cluster" / "mralign.sbatch"
COMPOSE = ROOT / "cluster" / "compose.yaml"


@pytest.mark.parametrize("script", [SCRIPT, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed: requirements-test.txt")
    done = subprocess.run([shellcheck, "--severity=warning", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_job_is_interrupted_before_its_time_and_goes_back_into_the_queue():
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE))
    assert options["signal"] == "B:TERM@120"
    assert {"requeue", "exclusive"} <= set(options)
    assert options["ntasks-per-node"] == "1"


def test_the_token_of_the_job_stands_in_no_argument():
    commands = [line for line in SCRIPT.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert [line for line in commands if "RAY_AUTH_TOKEN" in line] == [
        "RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')",
        "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0",
    ]


PLAYED = {
    "scontrol": 'if [ "$1" = show ]; then echo node-a; echo node-b; else echo "$@" >> "$PLAYED/scontrol.log"; fi',
    # Options end where the first word without dashes stands; `hostname` would tell another network's address.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\n'
    'if [ "$1" = hostname ]; then echo 127.0.0.1; else exec "$@"; fi',
    "mralign": 'exec python "$PLAYED/driver.py" "$@"',
}
DRIVER = """
import os, sys, time
import ray

ray.init(logging_level="warning")
for _ in range(60):
    if len([node for node in ray.nodes() if node["Alive"]]) == 2:
        break
    time.sleep(0.5)
print("nodes", len([node for node in ray.nodes() if node["Alive"]]), flush=True)
print("arguments", *sys.argv[1:], flush=True)
print("mode", os.environ["RAY_AUTH_MODE"], flush=True)
token = os.environ["RAY_AUTH_TOKEN"]
told = [open(f"/proc/{pid}/cmdline", "rb").read() for pid in os.listdir("/proc") if pid.isdigit()]
print("told", any(token.encode() in line for line in told), flush=True)
del os.environ["RAY_ADDRESS"]
sys.exit(130)
"""


def members(session):
    """The processes of a session that are alive; one that leaves the session is not among them."""
    told = subprocess.run(["ps", "-o", "pid=,stat=", "-s", str(session)], capture_output=True, text=True, check=False)
    lines = [line.split() for line in told.stdout.splitlines()]
    return [int(pid) for pid, state in lines if not state.startswith("Z")]


@pytest.mark.long
@pytest.mark.integration
def test_the_script_brings_up_ray_runs_the_command_and_requeues_the_job(tmp_path):
    """Exit status 130 of the command is that of an interrupted run."""
    for name, body in PLAYED.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    (tmp_path / "driver.py").write_text(DRIVER)
    scripts = sysconfig.get_path("scripts")
    job = 100_000 + os.getpid()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": os.pathsep.join([str(tmp_path), scripts, os.environ["PATH"]]),
        "PLAYED": str(tmp_path),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_ID": str(job),
    }
    script = ["bash", SCRIPT, "--preset", "miniworld"]
    output = tmp_path / "output"
    with output.open("w") as log:
        begun = subprocess.Popen(
            script, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            assert begun.wait(timeout=150) == 130, output.read_text()
            assert not members(begun.pid), "Ray stays behind on a node"
        finally:
            for pid in members(begun.pid):
                os.kill(pid, signal.SIGKILL)
            shutil.rmtree(f"/tmp/ray-{job}", ignore_errors=True)
    assert re.findall(r"^(nodes|arguments|mode|told) (.*)$", output.read_text(), re.MULTILINE) == [
        ("nodes", "2"),
        ("arguments", "align --preset miniworld"),
        ("mode", "token"),
        ("told", "False"),
    ]
    assert (tmp_path / "scontrol.log").read_text() == f"requeue {job}\n"


def test_two_nodes_in_containers_have_tokens_and_the_dashboard_is_this_machines_alone():
    told = yaml.safe_load(COMPOSE.read_text())
    services = told["services"]
    assert set(services) == {"head", "worker"}
    for one in services.values():
        assert one["environment"]["RAY_AUTH_MODE"] == "token"
        (secret,) = one["secrets"]
        assert one["environment"]["RAY_AUTH_TOKEN_PATH"] == f"/run/secrets/{secret}"
        assert told["secrets"][secret] == {"environment": "RAY_AUTH_TOKEN"}
        assert one["cap_drop"] == ["ALL"]
        assert one["image"] == services["head"]["image"]
        volume, _, place = one["volumes"][0].partition(":")
        assert volume in told["volumes"]
        assert any(place in line.text for line in stages_of(ROOT / "cluster" / "Dockerfile")["cpu"])
    assert all(port.startswith("127.0.0.1:") for one in services.values() for port in one.get("ports", ()))
    build = services["head"]["build"]
    assert (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file()
    assert build["target"] in stages_of(ROOT / "cluster" / "Dockerfile")
    port = next(word for word in services["head"]["command"] if word.startswith("--port=")).partition("=")[2]
    assert f"--address=head:{port}" in services["worker"]["command"]
    assert services["worker"]["depends_on"] == {"head": {"condition": "service_healthy"}}


def test_ray_knows_the_options_of_the_containers():
    from ray.scripts.scripts import start

    for one in yaml.safe_load(COMPOSE.read_text())["services"].values():
        ray, word, *options = one["command"]
        assert (ray, word) == ("ray", "start")
        start.make_context("start", options)
