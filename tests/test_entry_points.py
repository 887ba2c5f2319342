"""The command and every job of jobs/ hear signals from their first lines on, and end with 130."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOORS = [[f"jobs/{path.name}"] for path in sorted((ROOT / "jobs").glob("*.py"))]
DOORS.append(["-m", "mralign", "align"])


def blocks(pid, number):
    """Whether the main thread of a process leaves the signal to another one."""
    (mask,) = (row.split()[1] for row in Path(f"/proc/{pid}/status").read_text().splitlines() if "SigBlk" in row)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.parametrize("door", DOORS, ids=" ".join)
def test_a_command_ends_with_130_while_it_still_imports(door):
    process = subprocess.Popen(
        [sys.executable, *door, "--help"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not blocks(process.pid, signal.SIGTERM):
        assert process.poll() is None, f"{door} does not listen to signals before its imports"
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (130, "")
