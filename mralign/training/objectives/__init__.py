"""Objectives: what a training minimises. One file each; its name is what `training.method` says.

A file defines `OBJECTIVE`. Nothing else in the project knows the names: the plan of a run, the loop, the guards and the
report read what an objective says of itself (`objective.py`).
"""

from __future__ import annotations

import ast
import hashlib
import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import torch

from mralign.config import Training
from mralign.training.objectives.objective import Objective, Sums


def names() -> list[str]:
    """The objectives there are."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "objective")


def source_digest(name: str) -> str:
    """A digest of the objective's file and of the files here that it imports: an edited objective is another one."""
    files = sorted(_files_of(name))
    texts = [(Path(__path__[0]) / file).read_text(encoding="utf-8") for file in files]
    return hashlib.sha256(json.dumps([files, texts]).encode()).hexdigest()[:16]


def _files_of(name: str) -> set[str]:
    """The file of a module of this package, and those of the modules here that it imports, directly or not."""
    todo, found = [name], set[str]()
    while todo:
        file = f"{todo.pop()}.py"
        path = Path(__path__[0]) / file
        if file not in found and path.is_file():
            found.add(file)
            todo += _imported(path)
    return found


def _imported(path: Path) -> list[str]:
    """Names of the modules of this package that a file imports; a name that is no module has no file."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(filter(None, [__name__ if node.level else "", node.module]))
            names += [package, *(f"{package}.{alias.name}" for alias in node.names)]
    return [name.removeprefix(f"{__name__}.") for name in names if name.startswith(f"{__name__}.")]


_SETTINGS = ("beta", "lambda_chosen", "lambda_rejected")  # what a loss may read besides what it is given
_OF_PAIRS = ("pairs", "kl_every", "kl_pairs", "kl_ema")


def unread(objective: Objective, settings: Training) -> list[str]:
    """Fields of the section `training` that change nothing under this objective: its loss of some sums is the same
    whatever they are."""
    ways = [{name: 2 * getattr(settings, name)} for name in _SETTINGS]
    sums = _some_sums()
    before = objective.losses(sums, settings)
    found = [] if objective.pairs else [*_OF_PAIRS]
    found += [] if objective.reference else ["reference"]
    for change in ways:
        if torch.equal(before, objective.losses(sums, settings.model_copy(update=change))):
            found += change
    return found


def _some_sums() -> Sums:
    """Sums of sequences of both polarities, on either side of z0, near and far."""
    reward_B = torch.tensor([-40.0, -3.0, -0.1, 0.1, 3.0, 40.0] * 2)
    polarity_B = torch.tensor([1.0] * 6 + [-1.0] * 6)
    return Sums(
        logp_B=reward_B - 50.0, reward_B=reward_B, plain_B=reward_B / 2, polarity_B=polarity_B, z0=torch.tensor(0.7)
    )


def find(name: str) -> Objective:
    """The objective of that name. Raises ValueError with the names that are allowed."""
    if name not in names():
        raise ValueError(f"training.method={name!r} is no objective; allowed are {names()}")
    found = import_module(f"{__name__}.{name}").OBJECTIVE
    assert isinstance(found, Objective)
    return found
