"""Trackers for real: TensorBoard's files are read back by a reader of our own; Weights & Biases and MLflow, where they
are installed, work offline and on loopback."""

import json
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from python_path import python_path
from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from mralign.config import RunConfig, Training
from mralign.run.disk import DiskFull
from mralign.run.store import StageDir
from mralign.training.trackers import Trackers

MISSING = "the extra `trackers` is not installed"
CONFIG = RunConfig(
    questions={"train": [{"name": "q", "path": "/private/questions.jsonl"}]},
    http={"base_url": "http://secret.example/v1"},
    training=Training(epochs=7),
).model_dump(mode="json")


def stage(home, fingerprint="0123456789abcdef"):
    return StageDir(f"{home}/training/{fingerprint}", stage="training", fingerprint=fingerprint)


def opened(home, name, *, active=True, config=CONFIG):
    return Trackers.open(Training(trackers=(name,)), out=stage(home), config=config, active=active)


def row(step, **figures):
    return {"step": step, "of": 40, "loss": 1 / step, "learning_rate": 1e-3 * step, **figures}


def checksum(data):
    value = crc32c(data) & 0xFFFFFFFF
    return ((((value >> 15) | (value << 17)) & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    """The events of a file: length, its checksum, data, its checksum, again and again."""
    data = path.read_bytes()
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        body, data_after = data[12 : 12 + size], data[16 + size :]
        assert struct.unpack("<I", data[8:12]) == (checksum(data[:8]),)
        assert struct.unpack("<I", data[12 + size : 16 + size]) == (checksum(body),)
        yield Event.FromString(body)
        data = data_after


def curves(home):
    """{tag: [(step, value)]} of all event files, in the order in which TensorBoard reads them."""
    found = {}
    for path in sorted(Path(stage(home).path("tensorboard")).iterdir()):
        assert "tfevents" in path.name
        first, *events = records(path)
        assert first.file_version == "brain.Event:2"
        for event in events:
            assert abs(event.wall_time - time.time()) < 600
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_rows_come_back_from_tensorboards_files(tmp_path):
    trackers = opened(tmp_path, "tensorboard")
    for step in range(1, 26):
        trackers.log(row(step, z0=0.25))
    trackers.close()
    found = curves(tmp_path)
    assert set(found) == {"training/loss", "training/learning_rate", "training/z0"}
    assert [step for step, _ in found["training/loss"]] == list(range(1, 26))
    assert [value for _, value in found["training/loss"]] == pytest.approx([1 / step for step in range(1, 26)])
    assert [value for _, value in found["training/z0"]] == [0.25] * 25


def test_a_rank_that_is_not_the_first_opens_nothing(tmp_path):
    trackers = opened(tmp_path, "tensorboard", active=False)
    trackers.log(row(1))
    trackers.flush()
    trackers.close()
    assert trackers.opened == []
    assert list(tmp_path.iterdir()) == []


def in_a_process(code, *, without=()):
    """Run `code`, which may import this file, in a process of its own."""
    here = Path(__file__).parent
    path = python_path(here, here.parent, here.parents[1])
    return subprocess.run(
        [sys.executable, "-c", f"import os, signal, time\nimport test_trackers as here\n{code}"],
        env={name: value for name, value in os.environ.items() if name not in without} | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_what_was_logged_before_a_checkpoint_outlives_a_killed_process(tmp_path):
    """A kill costs the rows since the last checkpoint; the run that goes on from there makes them again, once."""
    code = f"""
trackers = here.opened({str(tmp_path)!r}, "tensorboard")
for step in range(1, 9):
    trackers.log(here.row(step))
    if step in (3, 6):
        trackers.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert in_a_process(code).returncode == -signal.SIGKILL
    assert [step for step, _ in curves(tmp_path)["training/loss"]] == list(range(1, 7))

    resumed = opened(tmp_path, "tensorboard")  # the checkpoint of step 6 was not reported any more: from 3 on
    for step in range(4, 11):
        resumed.log(row(step))
    resumed.close()
    found = curves(tmp_path)["training/loss"]
    assert found == [(step, pytest.approx(1 / step)) for step in range(1, 11)]


def test_a_checkpoint_without_new_rows_leaves_no_file(tmp_path):
    trackers = opened(tmp_path, "tensorboard")
    trackers.flush()
    trackers.log(row(1))
    trackers.flush()
    trackers.flush()
    trackers.close()
    assert [path.name for path in Path(stage(tmp_path).path("tensorboard")).iterdir()] == [
        "events.out.tfevents.0000000001"
    ]


def test_a_row_with_figures_that_are_no_numbers_is_logged(tmp_path):
    trackers = opened(tmp_path, "tensorboard")
    trackers.log(row(1, grad_norm=float("nan"), z0=float("inf")))
    trackers.close()
    ((_, norm),) = curves(tmp_path)["training/grad_norm"]
    assert norm != norm
    assert curves(tmp_path)["training/z0"] == [(1, float("inf"))]


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    library = pytest.importorskip("wandb", reason=MISSING)
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return library


def wandb_records(home):
    """What W&B has written for its server, a list a run directory, the oldest first."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(home.glob("wandb/offline-run-*/run-*.wandb"), key=lambda p: p.stat().st_mtime):
        data, record = path.read_bytes()[7:], b""  # LevelDB's log: blocks of 32 KiB of (checksum, length, type) + data
        records, place = [], 7
        while data:
            left = 32768 - place % 32768
            if left < 7:
                data, place = data[left:], place + left
                continue
            _, size, kind = struct.unpack("<IHB", data[:7])
            record += data[7 : 7 + size]
            data, place = data[7 + size :], place + 7 + size
            if kind in (1, 4):  # whole, or its last piece
                records.append(Record.FromString(record))
                record = b""
        found.append(records)
    return found


def test_wandb_has_the_rows_and_goes_on_in_the_same_run(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for steps in (range(1, 4), range(3, 6)):
        trackers = opened(tmp_path, "wandb")
        for step in steps:
            trackers.log(row(step))
        trackers.flush()
        trackers.close()
        time.sleep(1.1)  # its directories are named by the second
    first, second = wandb_records(tmp_path)
    assert logged(first) == {step: pytest.approx(1 / step) for step in (1, 2, 3)}
    assert logged(second) == {step: pytest.approx(1 / step) for step in (3, 4, 5)}
    for records in (first, second):
        (run, *_) = [record.run for record in records if record.HasField("run")]
        assert (run.project, run.run_id) == ("mine", "0123456789abcdef")
        told = {item.key: item.value_json for item in run.config.update}
        assert {"model", "transitions", "weights", "examples", "training"} <= set(told)
        assert '"epochs":7' in told["training"].replace(" ", "")
        assert "private" not in str(told)
        assert "secret" not in str(told)


def logged(records):
    found = {}
    for record in records:
        if record.HasField("history"):
            items = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
            found[record.history.step.num or items["_step"]] = items["loss"]
    return found


def test_wandb_that_dies_does_not_end_the_training(tmp_path, wandb):
    code = f"""
trackers = here.opened({str(tmp_path)!r}, "wandb")
trackers.log(here.row(1))
for pid in here.children("wandb-core"):
    os.kill(pid, signal.SIGKILL)
time.sleep(1)
for step in (2, 3, 4):
    trackers.log(here.row(step))
trackers.close()
print("trained to the end")
"""
    done = in_a_process(code, without=("WANDB_SERVICE",))  # else it uses the service of this process
    assert (done.returncode, done.stdout.split("\n")[-2:]) == (0, ["trained to the end", ""]), done.stderr
    assert done.stderr.count("training goes on without wandb (metrics.jsonl has all rows): ") == 1


def children(name):
    """Processes of that name that this process has started."""
    found = [child.pid for child in psutil.Process().children() if child.name() == name]
    assert found
    return found


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    library = pytest.importorskip("mlflow", reason=MISSING)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield library
    library.set_tracking_uri(None)


def mlflow_run(mlflow, experiment="mralign"):
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run


def test_mlflow_has_the_rows_and_goes_on_in_the_same_run(tmp_path, mlflow):
    trackers = opened(tmp_path, "mlflow")
    for step in range(1, 5):
        trackers.log(row(step))
        if step == 2:
            trackers.flush()  # a checkpoint; the process is killed after step 4
    client, run = mlflow_run(mlflow)
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [(1, 1.0), (2, 0.5)]
    assert run.info.status == "RUNNING"

    changed = {**CONFIG, "training": {**CONFIG["training"], "workers": 8}}
    resumed = opened(tmp_path, "mlflow", config=changed)
    for step in range(3, 6):
        resumed.log(row(step))
    resumed.close()
    client, run = mlflow_run(mlflow)
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {step: 1 / step for step in range(1, 6)}
    assert len(client.get_metric_history(run.info.run_id, "loss")) == 5
    assert (run.info.run_name, run.info.status) == ("0123456789abcdef", "FINISHED")
    assert run.data.params["training.epochs"] == "7"
    assert "secret" not in str(run.data.params)


def test_mlflow_takes_more_rows_than_fit_into_one_request(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    trackers = opened(tmp_path, "mlflow")
    for step in range(1, 701):
        trackers.log(row(step))
    trackers.close()
    client, run = mlflow_run(mlflow, "mine")
    for name in ("loss", "learning_rate"):
        assert [m.step for m in client.get_metric_history(run.info.run_id, name)] == [*range(1, 701)]


def test_mlflow_that_dies_does_not_end_the_training(tmp_path, mlflow, monkeypatch, caplog):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with (tmp_path / "server.log").open("w") as said:
        server = subprocess.Popen(
            [*command, "--backend-store-uri", store, "--default-artifact-root", str(tmp_path)],
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.25)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        trackers = opened(tmp_path, "mlflow")
        trackers.log(row(1))
        trackers.flush()
        client, run = mlflow_run(mlflow)
        assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [1]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    with caplog.at_level(logging.WARNING, logger="mralign"):
        for step in (2, 3):
            trackers.log(row(step))
            trackers.flush()
        trackers.close()
    assert [r.getMessage()[:33] for r in caplog.records if r.name == "mralign"] == ["training goes on without mlflow ("]


def test_a_disk_without_room_for_tensorboard_does_not_end_a_training(tmp_path, monkeypatch, caplog):
    trackers = opened(tmp_path, "tensorboard")
    trackers.log(row(1))

    def full(self, name, data):
        raise DiskFull("no space left on the disk of /data")

    monkeypatch.setattr(StageDir, "write_bytes", full)
    trackers.close()
    assert trackers.opened == []
    assert "training goes on without tensorboard" in caplog.text and "/data" in caplog.text
