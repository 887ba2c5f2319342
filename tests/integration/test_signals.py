"""Signals at many moments of one run: it always ends with 130, leaves no process, and the next start goes on.

Each of `moments` is one start of the same command: the line of the log that is waited for, how long after it the signal
is sent, and which signal. The run advances from one to the next, and the last start finishes it.
"""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from align_process import SMALL, finish, members, start, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.long]

RAY = "Ray's first process"
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
STAGES = (  # those of the small run, in order
    *("questions", "rollouts", "candidates", "annotation", "counts", "matrices", "weights", "signal"),
    *("annotator_matrices", "agreement", "examples", "reference", "training"),
    *("responses_base", "evaluation_base", "responses", "evaluation"),
)
# In a stage with an engine or workers: as it begins, while they start, while they work.
LONG = {"rollouts": (0, 4, 14), "reference": (0, 3), "training": (0, 4, 12)}
LONG |= {"responses_base": (0, 4, 14), "responses": (0, 4, 14)}


def moments():
    """(what the log must say, seconds after that, signal) for each start."""
    found = [("", 0.0, INT), ("", 0.5, TERM), ("", 1.5, HUP), ("", 3.0, INT)]
    found += [(RAY, 0.0, TERM), (RAY, 1.0, HUP), (RAY, 3.0, INT)]
    signals = (INT, TERM, HUP)
    for place, stage in enumerate(STAGES):
        for number, delay in enumerate(LONG.get(stage, (0.2,))):
            found.append((f"] {stage}: ", delay, signals[(place + number) % 3]))
    return found


def send(process, number):
    """To the driver alone; a closed terminal tells every process of it."""
    if number == HUP:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)


def left(process):
    return {pid: name for pid, name in members(process.pid).items() if pid != process.pid}


def test_every_signal_at_every_moment(tmp_path):
    run, table = tmp_path / "run", []
    for number, (line, delay, sent) in enumerate(moments()):
        log = tmp_path / f"log-{number}"
        process = start(run, *SMALL, log=log)
        wait_for(partial(_hears, process.pid), process=process, log=log)
        if line == RAY:
            wait_for(partial(left, process), process=process, log=log)
        else:
            wait_for(partial(_says, log, line), process=process, log=log)
        time.sleep(delay)
        if process.poll() is not None:  # the stage was quicker than the delay, and the run with it
            table.append((line, delay, sent.name, process.returncode, 0.0))
            continue
        began = time.monotonic()
        send(process, sent)
        status = process.wait(timeout=60)
        table.append((line, delay, sent.name, status, round(time.monotonic() - began, 1)))
        time.sleep(1)
        # A run that has told its end is done, whatever arrives while it leaves.
        assert status == (0 if _says(log, "next   mralign view") else 130), (table, log.read_text()[-3000:])
        assert left(process) == {}, (table, left(process))
        assert "Traceback" not in log.read_text(), (table, log.read_text()[-3000:])
    print(*table, sep="\n")
    finish(start(run, *SMALL, log=tmp_path / "last"), log=tmp_path / "last")


def _hears(pid):
    """The process has come to its first lines: before them nothing of ours runs, and Python ends it as it likes."""
    (blocked,) = (row.split()[1] for row in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigBlk" in row)
    return bool(int(blocked, 16) >> (HUP - 1) & 1)


def _says(log, line):
    """The log has that line, as a start of the stage or as a stage that was done before."""
    return Path(log).exists() and line in Path(log).read_text()


def test_an_engine_that_starts_while_questions_are_read_ends_with_the_run(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path / "run", *SMALL, log=log)

    def an_engine_starts():
        return any("KeptEngine" in name for name in members(process.pid).values())

    wait_for(an_engine_starts, process=process, log=log)
    assert "] rollouts: " not in log.read_text()
    send(process, INT)
    assert process.wait(timeout=60) == 130
    time.sleep(1)
    assert left(process) == {}
