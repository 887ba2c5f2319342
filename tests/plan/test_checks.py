"""Everything that is known to be wrong is one list, made before anything starts and without a traceback."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from sealed_runs import seal

from mralign.cli import walk
from mralign.config import load
from mralign.plan import pipeline, plan_text, template_dates
from mralign.presets import PRESETS
from mralign.run import reach

NOBODY = 65534


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(reach, "_found", {})


def configured(run_dir, *overrides):
    return load("miniworld", overrides=[f"run.dir={run_dir}", *overrides], presets_dir=PRESETS)


@pytest.fixture
def read_only_run():
    """A finished run in a directory into which this test's user may not write."""
    place = Path(tempfile.mkdtemp(prefix="mralign-read-only-"))
    for item in pipeline.survey(configured(place / "run")):
        seal(item, rows=2, figures={"train": 2, "dev": 2, "test": 2})
    (place / "run" / "report").mkdir()
    (place / "run" / "report" / "index.html").write_text("the page")
    for path in [place, *place.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield place / "run"
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(place)


@contextmanager
def an_ordinary_user():
    """Root may write everywhere: be somebody else for a while."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def contents(place):
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*")}


def test_a_finished_run_that_cannot_be_written_is_shown_and_left_as_it_is(read_only_run, tmp_path, capsys):
    config, before = configured(read_only_run), contents(read_only_run)
    walk.walk(configured(tmp_path), dry_run=True, take_over=False)  # imports what the user below may not read
    capsys.readouterr()
    with an_ordinary_user():
        walk.walk(template_dates.settle(config), dry_run=True, take_over=False)
        walk.walk(template_dates.settle(config), dry_run=False, take_over=False)
        with pytest.raises(ValueError, match=r"run\.dir=.*: this user may not write into .*; give another directory"):
            walk.walk(configured(read_only_run, "run.seed=3"), dry_run=False, take_over=False)
    shown = capsys.readouterr().out.splitlines()
    stages = len(pipeline.stages(config))
    assert sum("skip: done, 2 rows" in line for line in shown) == stages
    assert shown[-1].startswith(f"nothing is left to do: all {stages} stages are finished; nothing can be written (")
    assert shown[-1].endswith(f"report: {read_only_run}/report/index.html")
    assert contents(read_only_run) == before


def test_places_keys_files_and_settings_are_one_list(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed}")
    (tmp_path / "file").write_text("")
    wrong = [
        "questions.train=[{name: a, path: gone.jsonl}, {name: b, path: lost.csv}]",
        "annotation.taxonomy=none.yaml",
        "evaluation.prompts={other: '{question}'}",
        "training.push_to=me/mine",
        "rollouts.engine=http",
        "http.base_url=https://far.example/v1",
        "http.key_env=FAR_KEY",
    ]
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("FAR_KEY", raising=False)
    config = configured(tmp_path / "file" / "run", *wrong)
    for dry_run in (False, True):
        with pytest.raises(pipeline.NotReady) as caught:
            pipeline.plan(config, dry_run=dry_run)
        faults = caught.value.faults
        for said in (
            f"run.dir={tmp_path}/file/run: {tmp_path}/file is a file and no directory; give another directory",
            f"RAY_ADDRESS=127.0.0.1:{closed} leads to nobody",
            "questions.train, source 'a': question file 'gone.jsonl' does not exist",
            "questions.train, source 'b': question file 'lost.csv' does not exist",
            "none.yaml does not exist",
            "evaluation.prompts names ['other']; allowed are the sources of questions.test: ['miniworld']",
            "HF_TOKEN",
        ):
            assert sum(said in fault for fault in faults) == 1, (said, faults)
        assert not any("\n" in fault for fault in faults)
        assert str(caught.value).startswith(f"{len(faults)} things keep this run from starting:\n  1. ")
    assert plan_text.describe(config, caught.value.planned).startswith(f"run directory: {tmp_path}/file/run")
    monkeypatch.delenv("RAY_ADDRESS")  # a cluster's nodes may have the key
    with pytest.raises(pipeline.NotReady, match=r"none\.yaml does not exist(.|\n)*FAR_KEY"):
        pipeline.plan(config)
    assert any("FAR_KEY" in line for line in plan_text.describe(config, caught.value.planned).splitlines())


def test_a_run_directory_on_a_store_that_does_not_answer_is_one_fault_among_others(monkeypatch, tmp_path):
    monkeypatch.setattr(reach, "LIMIT_S", 2.0)
    monkeypatch.setattr(reach.faults, "__kwdefaults__", {"write": False, "limit_s": 2.0})
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        config = template_dates.settle(configured("s3://bucket/run", "annotation.taxonomy=none.yaml"))
        with pytest.raises(pipeline.NotReady) as caught:
            pipeline.plan(config)
    assert any(fault.startswith("run.dir=s3://bucket/run: ") for fault in caught.value.faults)
    assert any("none.yaml does not exist" in fault for fault in caught.value.faults)
    assert "secret" not in str(caught.value)
    assert "secret" not in plan_text.describe(config, caught.value.planned)


def test_far_inputs_that_do_not_answer_end_the_plan_before_they_are_opened(monkeypatch, tmp_path):
    monkeypatch.setattr(reach.faults, "__kwdefaults__", {"write": False, "limit_s": 2.0})
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = f"s3://bucket/x.jsonl?scheme=http&endpoint_override=127.0.0.1:{server.getsockname()[1]}"
        config = configured(tmp_path / "run", f"questions.train=[{{name: a, path: '{far}'}}]")
        with pytest.raises(ValueError, match=r"^questions\.train\[0\]\.path=s3://bucket/x\.jsonl.* within 2 s; check"):
            pipeline.plan(config)


def test_a_file_that_may_not_be_read_is_a_sentence(read_only_run, tmp_path):
    secret = read_only_run.parent / "taxonomy.yaml"
    read_only_run.parent.chmod(0o755)
    secret.write_text("labels: []")
    secret.chmod(0o000)
    config = configured(read_only_run, f"annotation.taxonomy={secret}")
    with an_ordinary_user(), pytest.raises(ValueError, match=r"Permission denied.*; correct the path"):
        pipeline.plan(config, dry_run=True)


def test_the_command_prints_the_plan_and_then_what_is_wrong(tmp_path):
    command = [sys.executable, "-m", "mralign", "align", "--dry-run", f"run.dir={tmp_path}/run", "model.path=./none"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert done.stdout.startswith(f"run directory: {tmp_path}/run")
    assert "stopped: model.path='./none' does not exist" in done.stderr
    assert "Traceback" not in done.stderr
