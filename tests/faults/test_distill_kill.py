"""`mralign distill` is killed at chosen moments; the same command then writes the labeller of an undisturbed one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from distillation.test_distill import COUNT, run_directory
from moments import Moment, Pauses
from taught_panel import lessons

from mralign.annotation.labeller_file import MANIFEST, WEIGHTS, read_labeller

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MOMENTS = {
    "a fold is being learned": Moment("call mralign.annotation.labeller_fit._learned", 3),
    "the report is being made": Moment("call mralign.distillation.held_out.report"),
    "the files are about to be written": Moment("call mralign.annotation.labeller_file.write_labeller"),
}


def begin(run, place, *, pauses):
    command = [sys.executable, "-m", "mralign", "distill", str(run), "--out", str(place)]
    return subprocess.Popen(command, env={**os.environ, **pauses.environment(ROOT)}, stdout=subprocess.DEVNULL)


def files(place):
    return {name: (place / name).read_bytes() for name in (MANIFEST, WEIGHTS)}


@pytest.mark.long
def test_a_killed_command_ends_with_the_same_files(tmp_path):
    run, pauses = run_directory(tmp_path / "run", lessons(COUNT)), Pauses(tmp_path / "pauses")
    assert begin(run, tmp_path / "undisturbed", pauses=pauses).wait(timeout=300) == 0
    place = tmp_path / "own"
    for moment in MOMENTS.values():
        pauses.want(moment)
        process = begin(run, place, pauses=pauses)
        reached = pauses.reached(process=process, timeout=300)
        assert reached is not None and reached.pid == process.pid
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with pytest.raises(ValueError, match="so no labeller"):
            read_labeller(str(place))
    pauses.want(None)
    assert begin(run, place, pauses=pauses).wait(timeout=300) == 0
    assert files(place) == files(tmp_path / "undisturbed")
    assert sorted(found.name for found in place.iterdir()) == [MANIFEST, WEIGHTS]
