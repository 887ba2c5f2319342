"""Ends what an engine left behind when the process that held it was killed.

The process id of an engine's owner enters, as the only argument of `python -m mralign.serving.orphans`. vLLM's engine
core runs in a child process; a child outlives a parent that is killed with -9, and would keep its GPU's memory from the
engine that Ray starts in its place. The guard is another child of the owner: it notes the owner's descendants while the
owner lives, and ends those that are still there once it is dead.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

_LOOK_EVERY_S = 0.5


def start_guard() -> subprocess.Popen:
    """Watch the calling process."""
    command = [sys.executable, "-m", "mralign.serving.orphans", str(os.getpid())]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def watch(owner: int) -> list[psutil.Process]:
    """The owner's descendants, as last seen, when it has died; this process is none of them."""
    seen: dict[int, psutil.Process] = {}
    while os.getppid() == owner:
        try:
            seen = {child.pid: child for child in psutil.Process(owner).children(recursive=True)}
        except psutil.NoSuchProcess:
            break
        time.sleep(_LOOK_EVERY_S)
    seen.pop(os.getpid(), None)
    return list(seen.values())


def end(processes: list[psutil.Process]) -> None:
    """Kill those that still run; psutil compares start times, so a reused process id is left alone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    end(watch(int(sys.argv[1])))
