"""A process is held where a test wants it, is killed there, and leaves what it had written before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import loopback_s3
import pytest
from moments import Moment, Pauses

ROOT = Path(__file__).parents[2]
PLACES = "import importlib, sitecustomize; [importlib.import_module(name) for name in sitecustomize.PLACES]"
PROGRAM = """
import sys
from mralign.run.store import Directory
for name in ("first", "second", "third"):
    Directory(sys.argv[1]).write_text(f"counts/{name}", name)
"""
TELLING = """
from mralign.run import events
figures = {f"figure {n}": 0.5 for n in range(50)}
events.tell(events.TrainingStepped(step=1, figures=figures, stage="training"))
"""


@pytest.fixture
def start(tmp_path):
    pauses = Pauses(tmp_path / "pauses")

    def begin(moment, *, run_dir=tmp_path / "run", program=PROGRAM, **more):
        pauses.want(moment)
        variables = {**os.environ, **pauses.environment(ROOT), **more}
        command = [sys.executable, "-c", program, str(run_dir)]
        return pauses, subprocess.Popen(command, env=variables)

    return begin


def names(tmp_path):
    return sorted(path.name.split("-")[0] for path in (tmp_path / "run" / "counts").iterdir())


def test_a_process_is_killed_while_its_second_file_is_open(start, tmp_path):
    pauses, process = start(Moment("write .*/counts/", 2))
    reached = pauses.reached(process=process, timeout=60)
    assert reached.pid == process.pid
    assert reached.moment == f"write {tmp_path}/run/counts/second"
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert names(tmp_path) == ["_tmp", "first"]


def test_a_process_is_killed_before_its_second_object_is_in_the_store(start):
    with loopback_s3.serve() as (store, found_at):
        pauses, process = start(Moment("write .*/counts/", 2), run_dir="s3://bucket/run", **found_at)
        assert pauses.reached(process=process, timeout=60).moment == "write bucket/run/counts/second"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert [key for key in store.objects if not key.endswith("/")] == ["run/counts/first"]


def test_it_goes_on_when_it_is_released_and_a_moment_that_never_comes_holds_nobody(start, tmp_path):
    pauses, process = start(Moment("write .*/counts/third"))
    assert pauses.reached(process=process, timeout=60)
    pauses.release()
    assert process.wait(timeout=60) == 0
    assert names(tmp_path) == ["first", "second", "third"]
    pauses, process = start(Moment("write .*/weights/"))
    assert pauses.reached(process=process, timeout=60) is None
    assert process.returncode == 0


def test_an_event_of_a_stage_is_a_moment_however_many_figures_it_has(start):
    pauses, process = start(Moment("tell TrainingStepped.*stage='training'"), program=TELLING)
    assert pauses.reached(process=process, timeout=60).pid == process.pid
    pauses.release()
    assert process.wait(timeout=60) == 0


def test_the_first_moment_of_all_is_held_when_those_before_it_are_let_go(tmp_path):
    pauses = Pauses(tmp_path / "pauses")
    pauses.want(Moment("write"))()
    assert list(pauses.directory.glob("released-*")) == []
    pauses.want(None)()
    assert len(list(pauses.directory.glob("released-*"))) == 1


def test_every_function_of_the_code_that_tells_moments_is_there(tmp_path):
    pauses = Pauses(tmp_path / "pauses")
    variables = {**os.environ, **pauses.environment(ROOT)}
    found = subprocess.run([sys.executable, "-c", PLACES], env=variables, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
