"""Holds one process of a run at a chosen moment, so that a test can kill or signal it there.

Python imports a module of this name when it starts. Where MRALIGN_PAUSES names a directory, the functions of PLACES
tell a moment each time they are called. The file `wanted.json` of that directory says at which moment (a regular
expression, and which of the calls that match it, counted over all processes) the calling process is to wait. It then
writes `reached-<id>.json` and goes on when `released-<id>` is there. Nothing else of the code under test is changed.
"""

import asyncio
import functools
import importlib.machinery
import json
import os
import re
import sys
import threading
import time
from pathlib import Path

PLACES = {
    "ray._private.node": ["Node.start_head_processes", "Node.start_ray_processes"],
    "mralign.run.local_ray": ["_init"],
    "mralign.annotation.labeller_file": ["write_labeller"],
    "mralign.annotation.labeller_fit": ["_learned"],
    "mralign.distillation.held_out": ["report"],
    "mralign.run.events": ["tell"],
    "mralign.run.directory": ["Directory.write_bytes", "Directory._create", "Directory._put"],
    "mralign.run.store": [
        *("StageDir.seal", "StageDir.read_rejects"),
    ],
    "mralign.run.stage": ["_map_group"],
    "mralign.run.stream": ["_Worker.__init__"],
    "mralign.serving.vllm": ["start_engine"],
    "mralign.serving.warm": ["KeptEngine.answer_for"],
    "mralign.transitions.matrices": ["estimate_named"],
    "mralign.transitions.counts": ["count"],
    "mralign.training.rehearsal": ["rehearse"],
    "mralign.training.begin": ["begin"],
    "mralign.training.export": ["export"],
    "mralign.report": ["begin", "publish"],
    "mralign.plan.model_cards": ["complete_cards"],
}
LONGEST_S = 300.0  # a test that was killed must not leave processes behind
_written = threading.local()  # the name of the file that this thread writes


class Finder:
    """Finds the modules of PLACES where Python would, and wraps their functions once they are imported."""

    @staticmethod
    def find_spec(name, path, target=None):
        if name not in PLACES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def execute_and_wrap(module):
            execute(module)
            for place in PLACES[name]:
                wrap(module, place)

        spec.loader.exec_module = execute_and_wrap
        return spec


def wrap(module, place):
    """Let a function of a module, or of a class in it, tell its moments."""
    *owner, name = place.split(".")
    holder = getattr(module, owner[0]) if owner else module
    setattr(holder, name, telling(getattr(holder, name), place=f"{module.__name__}.{place}"))


def telling(function, *, place):
    """The function, before which its moment is told; of a file that is written, the moment when it is open, or of a
    small object in a store the moment before its one request."""

    @functools.wraps(function)
    def told(*given, **named):
        if place.endswith("Directory.write_bytes"):
            _written.name = f"{given[0].uri}/{given[1]}"
            return function(*given, **named)
        if place.endswith("Directory._create"):
            opened = function(*given, **named)
            tell(f"write {_written.name}")
            return opened
        if place.endswith("Directory._put"):  # of a small object in a store, which is written at once
            tell(f"write {given[1]}")
            return function(*given, **named)
        tell(f"call {place} {words(given, named)}")
        return function(*given, **named)

    @functools.wraps(function)
    async def told_later(*given, **named):
        tell(f"call {place} {words(given, named)}")
        return await function(*given, **named)

    return told_later if asyncio.iscoroutinefunction(function) else told


def words(given, named):
    """What tells one call from another: stages and events among its arguments."""
    stages = [value.stage for value in (*given, *named.values()) if hasattr(value, "fingerprint")]
    told = [value for value in given if type(value).__module__ == "mralign.run.events"]
    events = [f"{type(value).__name__} stage={getattr(value, 'stage', '')!r}" for value in told]
    return " ".join([*stages, *events])


def tell(moment):
    """Wait here if this is the moment that a test wants."""
    directory = Path(os.environ["MRALIGN_PAUSES"])
    try:
        wanted = json.loads((directory / "wanted.json").read_text())
    except FileNotFoundError:
        return
    if not re.search(wanted["moment"], moment) or count(directory, wanted["id"]) != wanted["number"]:
        return
    draft = directory / f"reached-{wanted['id']}.draft"
    draft.write_text(json.dumps({"pid": os.getpid(), "moment": moment}))
    draft.rename(draft.with_suffix(".json"))
    end = time.monotonic() + LONGEST_S
    released = directory / f"released-{wanted['id']}"
    while not released.exists() and time.monotonic() < end:
        time.sleep(0.05)


def count(directory, mark):
    """How many calls of all processes have matched by now."""
    number = 1
    while True:
        try:
            os.close(os.open(directory / f"{mark}-{number}", os.O_CREAT | os.O_EXCL))
            return number
        except FileExistsError:
            number += 1


if os.environ.get("MRALIGN_PAUSES"):
    sys.meta_path.insert(0, Finder)
