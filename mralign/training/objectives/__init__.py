"""Objectives: what a training minimises. One file each; its name is what `training.method` says.

A file defines `OBJECTIVE`. Nothing else in the project knows the names: the plan of a run, the loop, the guards and the
report read what an objective says of itself (`objective.py`).
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from mralign.training.objectives.objective import Objective


def names() -> list[str]:
    """The objectives there are."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "objective")


def source_digest(name: str) -> str:
    """A digest of the objective's file: an edited objective is another one."""
    return hashlib.sha256((Path(__path__[0]) / f"{name}.py").read_bytes()).hexdigest()[:16]


def find(name: str) -> Objective:
    """The objective of that name. Raises ValueError with the names that are allowed."""
    if name not in names():
        raise ValueError(f"training.method={name!r} is no objective; allowed are {names()}")
    found = import_module(f"{__name__}.{name}").OBJECTIVE
    assert isinstance(found, Objective)
    return found
