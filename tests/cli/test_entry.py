"""How the process of a command ends: with its status, its output whole, and nothing left undone that was registered."""

import os
import subprocess
import sys

import pytest

# `main` is replaced by one whose last line is `act`. Python deletes a `Part` when it takes the module apart at the end.
PROGRAM = """
import atexit, logging, logging.handlers, os, sys, threading, time
from mralign.cli import entry

kept = logging.handlers.MemoryHandler(100, target=logging.StreamHandler(sys.stderr))
logging.getLogger().addHandler(kept)

class Part:
    def __del__(self):
        os.write(1, b"taken apart\\n")

part = Part()

def main(arguments):
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread has ended"))).start()
    atexit.register(lambda: print("what was registered is done"))
    print("printed")
    logging.warning("a line that a handler has kept")
    {act}

entry.main = main
entry.command([])
"""


def ended(act):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(act=act)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize(
    ("act", "status"),
    [("return 0", 0), ("return 2", 2), ("sys.exit(3)", 3), ("sys.exit()", 0), ("sys.exit('said')", 1), ("1 / 0", 1)],
)
def test_a_command_ends_with_its_status_and_nothing_is_taken_apart(act, status):
    found, lines, errors = ended(act)
    assert (found, lines) == (status, ["printed", "a thread has ended", "what was registered is done"])
    assert "a line that a handler has kept" in errors
    assert ("ZeroDivisionError" in errors) == (act == "1 / 0")
    assert ("said" in errors) == ("said" in act)


def test_a_fork_of_the_process_ends_by_itself():
    status, lines, _ = ended("sys.exit(7) if os.fork() == 0 else sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))")
    assert status == 7
    assert lines.count("what was registered is done") == 2


@pytest.mark.parametrize(("stream", "status"), [("/dev/full", 120), ("", 0)])
def test_output_that_cannot_be_written_at_the_end_is_told_by_the_status(stream, status, tmp_path):
    program = [sys.executable, "-c", PROGRAM.format(act="return 0")]
    with open(stream or tmp_path / "out", "w") as out:
        buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(program, stdout=out, stderr=subprocess.PIPE, env=buffered, timeout=60)
    assert done.returncode == status, done.stderr
