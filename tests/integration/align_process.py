"""Starting, watching and killing `python jobs/align.py` as a user would, on a local Ray of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]

SMALL = [  # the embedded world, less of it
    'questions.train=[{name: miniworld, path: "pkg://mralign.miniworld/data/questions/train.jsonl", limit: 150}]',
    'questions.test=[{name: miniworld, path: "pkg://mralign.miniworld/data/questions/test.jsonl", limit: 40}]',
    "engine.batch_size=150",
    "training.epochs=2",
    "training.checkpoint_every=3",
    "evaluation.draws=1",
    "evaluation.reannotate=0",
]


def environment():
    return {**os.environ, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}


def start(run_dir, *arguments, log, variables=None, output=None):
    """The driver in a session of its own, so that what a kill leaves behind can be found and ended. `variables` of its
    environment come on top of the usual ones; `output`: the path of a named pipe for standard output."""
    command = [sys.executable, "jobs/align.py", f"run.dir={run_dir}", *arguments]
    with Path(log).open("a") as stream, Path(output or log).open("a") as printed:
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **(variables or {})},
            stdout=printed,
            stderr=stream,
            start_new_session=True,
            preexec_fn=_hear_ctrl_c,
        )


def _hear_ctrl_c():
    """A test run in the background of a script ignores SIGINT, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def finish(process, *, log, timeout=420):
    """Wait for the driver; its whole log is the message of a failure."""
    code = process.wait(timeout=timeout)
    assert code == 0, Path(log).read_text()[-6000:]


def wait_for(condition, *, process, log, timeout=240):
    """Wait until `condition()` holds while the driver runs."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, f"the run ended too early:\n{Path(log).read_text()[-6000:]}"
        assert time.monotonic() < end, f"waited {timeout} s in vain:\n{Path(log).read_text()[-6000:]}"
        time.sleep(0.05)


def kill(process):
    """kill -9 of the driver alone; then wait until its workers are gone: Ray watches the driver by itself.

    Two agents of the node stay for a minute of their own accord; they hold nothing of the run.
    """
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 60
    while workers := [pid for pid, name in members(process.pid).items() if "Agent" not in name]:
        assert time.monotonic() < end, f"still there: {workers}"
        time.sleep(0.2)


def members(session):
    """Name by process id of the session that `start` made, zombies left out."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_text().split("\0")[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


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


def check_readable(log):
    """No control character, and nothing but our own lines: the time and what happened, then the result. Ray's two lines
    before a job, on its environment and its command, do not count."""
    log = log.partition("Running entrypoint for job")[2].partition("\n")[2]
    assert [sign for sign in log if sign != "\n" and not sign.isprintable()] == [], log
    lines = log.splitlines()
    first, last = (next(n for n, line in found if re.match(r"\d\d:\d\d:\d\d ", line)) for found in _both_ways(lines))
    foreign = [line for line in lines[first : last + 1] if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert foreign == [], log
    assert not re.search(r"Traceback|WARNING|INFO|DeprecationWarning|FutureWarning|pid=", log), log


def _both_ways(lines):
    numbered = list(enumerate(lines))
    return numbered, reversed(numbered)
