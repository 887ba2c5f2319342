"""`mralign report` and `mralign view` on a finished run: what is written where, and one request of a browser."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from command_line import ran
from sealed_run import evaluated, planned, seal

from mralign.run import lease

ROOT = Path(__file__).parents[2]


def files(place):
    return {path: path.stat().st_mtime_ns for path in place.rglob("*")}


def test_the_report_is_written_anew_in_the_run_directory(tmp_path, capsys):
    evaluated(tmp_path / "run")
    status, said, _ = ran(capsys, "report", str(tmp_path / "run"))
    assert status == 0
    assert "base_think_on   62.5 [50.0, 75.0]   25.0 [20.0, 30.0]" in said
    assert f"report    {tmp_path}/run/report/index.html" in said
    page = tmp_path / "run" / "report" / "index.html"
    assert "62.5" in page.read_text()
    page.unlink()
    assert ran(capsys, "report", str(tmp_path / "run"))[1] == said
    assert page.exists()


def test_elsewhere_the_run_directory_is_only_read(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out"
    evaluated(run)
    before = files(run)
    with lease.hold(str(tmp_path / "another")):
        status, said, _ = ran(capsys, "report", str(run), "--out", str(out))
    assert status == 0
    assert f"report    {out}/report/index.html" in said
    assert {path.name for path in out.iterdir()} == {"report", "evaluation", "config.yaml"}
    assert (out / "evaluation" / "metrics.json").exists()
    assert files(run) == before


def test_of_a_run_under_way_the_report_goes_elsewhere(tmp_path, capsys):
    run = tmp_path / "run"
    seal(planned(run)["questions"], test=40, train=0, dev=0)
    with lease.hold(str(run)):
        status, _, errors = ran(capsys, "report", str(run))
        assert status == 2
        assert "another driver writes into" in errors and "--out DIR" in errors
        assert ran(capsys, "report", str(run), "--out", str(tmp_path / "out"))[0] == 0
    assert (tmp_path / "out" / "report" / "index.html").exists()


@pytest.fixture
def read_only_run(tmp_path):
    """An evaluated run on a file system that cannot be written to, not even by root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    evaluated(place / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    yield place / "run"
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_on_a_read_only_disk_is_shown_and_reported_elsewhere(read_only_run, tmp_path, capsys):
    assert ran(capsys, "status", str(read_only_run))[0] == 0
    status, _, errors = ran(capsys, "report", str(read_only_run))
    assert status == 2
    assert "nothing can be written into" in errors and "--out DIR" in errors
    assert len(errors.strip().splitlines()) == 1
    assert ran(capsys, "report", str(read_only_run), "--out", str(tmp_path / "out"))[0] == 0
    assert "62.5" in (tmp_path / "out" / "report" / "index.html").read_text()


@pytest.mark.parametrize("kind", ["empty", "nothing finished", "torn configuration"])
def test_what_cannot_be_reported_is_told_in_one_sentence(tmp_path, capsys, kind):
    run = tmp_path / "run"
    run.mkdir()
    if kind == "nothing finished":
        planned(run)
    if kind == "torn configuration":
        evaluated(run)
        (run / "config.yaml").write_text("run: {dir")
    status, said, errors = ran(capsys, "report", str(run))
    assert (status, said) == (2, "")
    wanted = {"empty": "is empty", "nothing finished": "no finished stage", "torn configuration": "cannot be read"}
    assert wanted[kind] in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_viewer_serves_a_page_opens_a_browser_and_ends_by_ctrl_c(tmp_path):
    evaluated(tmp_path / "run")
    before = files(tmp_path / "run")
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-m", "mralign", "view", str(tmp_path / "run")],
        cwd=ROOT,
        env={**os.environ, "BROWSER": str(browser)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split("under ")[1].split()[0]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert "62.5" in answer.read().decode()
        while not (opened.exists() and opened.read_text()):
            time.sleep(0.02)
            assert process.poll() is None
        assert opened.read_text().strip() == address
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "interrupted" not in errors and "stopped" not in errors  # Ctrl-C is the ordinary end
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["gone"], "gone does not exist"), (["gone", "--port", "70000"], "Invalid value for '--port'")],
)
def test_a_viewer_that_cannot_start_says_so(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    status, _, errors = ran(capsys, "view", *arguments, "--no-browser")
    assert status == 2
    assert told in errors
