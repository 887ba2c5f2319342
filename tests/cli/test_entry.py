"""How the process of a command ends: with its status, its output whole, and nothing left undone that was registered."""

import subprocess
import sys

import pytest

# `main` is replaced by one line; `taken_apart` is what Python calls when it takes a module apart at the end.
PROGRAM = """
import atexit, os, sys, threading, time
from mralign.cli import entry

class Part:
    def __del__(self):
        os.write(1, b"taken apart\\n")

part = Part()

def main(arguments):
    threading.Thread(target=lambda: (time.sleep(0.2), print("a thread has ended"))).start()
    atexit.register(lambda: print("what was registered is done"))
    print("printed")
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
    assert ("ZeroDivisionError" in errors) == (act == "1 / 0")
    assert ("said" in errors) == ("said" in act)


def test_a_fork_of_the_process_ends_by_itself():
    status, lines, _ = ended("sys.exit(7) if os.fork() == 0 else sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))")
    assert status == 7
    assert lines.count("what was registered is done") == 2
