"""The checkpoints of a training as Ray Train keeps them in the run directory, tidied.

A stage's directory enters; what is left there are the checkpoints that Ray Train knows of. A copy that broke off, for
want of room or because its worker was killed, is known to nobody: it would take its room for ever.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

from pyarrow import fs

from mralign.run.store import Directory

RAY_TRAIN = "ray_train"  # the directory below the stage's
_SNAPSHOT = f"{RAY_TRAIN}/checkpoint_manager_snapshot.json"
_CHECKPOINT = "checkpoint_"


def local_places(out: Directory) -> list[str]:
    """The stage's directory where it is a local one."""
    return [out.path()] if isinstance(out.filesystem, fs.LocalFileSystem) else []


def tidy(out: Directory) -> list[str]:
    """Remove every checkpoint that Ray Train's own list does not name; return their names.

    Only while no training works on the directory. A list that was cut short while it was written is mended first: it is
    written when a checkpoint has been copied whole, so the newest one is good. Checkpoints that it names and that
    somebody has removed are taken out of it: Ray Train would not begin.
    """
    selector = fs.FileSelector(out.path(RAY_TRAIN), allow_not_found=True)
    found = [info for info in out.filesystem.get_file_info(selector) if info.type == fs.FileType.Directory]
    there = sorted(info.base_name for info in found if info.base_name.startswith(_CHECKPOINT))
    if not out.holds(_SNAPSHOT):
        known: set[str] = set()
    else:
        state = _read(out)
        known = _names(state) if state is not None else set(there[-1:])
        if state is None or known - set(there):
            known &= set(there)
            _write(out, newest=max(known, default=None))
    orphans = [name for name in there if name not in known]
    for name in orphans:
        out.filesystem.delete_dir(out.path(f"{RAY_TRAIN}/{name}"))
    return orphans


def _read(out: Directory) -> dict[str, Any] | None:
    """Ray Train's list; None where there is none, or one that cannot be read."""
    text = out.find_text(_SNAPSHOT)
    if text is None:
        return None
    try:
        state = json.loads(text)
    except ValueError:
        return None
    return state if isinstance(state, dict) and "checkpoint_results" in state else None


def _write(out: Directory, *, newest: str | None) -> None:
    """Make `newest` all that Ray Train knows of; without one it begins anew."""
    if newest is None:
        out.filesystem.delete_file(out.path(_SNAPSHOT))
    else:
        out.write_text(_SNAPSHOT, json.dumps(_only(newest)))


def _names(state: dict[str, Any]) -> set[str]:
    results = [*state["checkpoint_results"], *state.get("pending_training_results", [])]
    latest = state.get("latest_checkpoint_result")
    return {result["checkpoint_dir_name"] for result in [*results, *([latest] if latest else [])]}


def _only(name: str) -> dict[str, Any]:
    result = {"version": 0, "checkpoint_dir_name": name, "metrics": {}}
    return {
        "ray_version": version("ray"),
        "checkpoint_results": [result],
        "checkpoint_report_indices": [0],
        "latest_checkpoint_result": result,
        "pending_training_results": [],
        "pending_validation_specs": [],
        "current_report_index": 1,
        "validated_checkpoint_dir_names": [],
        "timed_out_validation_checkpoint_dir_names": [],
        "failed_validation_checkpoint_dir_names": [],
    }
