"""The Ray that a run works on: the cluster that this process belongs to, or a local one that is started and stopped."""

from __future__ import annotations

import logging
import os
import site
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mralign.config import RunConfig
from mralign.run import worker_lines

log = logging.getLogger("mralign")
_OWN = {  # of a Ray that is ours alone, unless the user has set them
    # Ray would start a worker for every CPU at once. None of them has our environment, so no task of ours gets one.
    "RAY_prestart_worker_first_driver": "0",
    # Ray Train looks every 2 s whether a worker has something to tell, and the worker waits for that.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
}
_set: list[str] = []  # those of them that this process has set, and takes back
_own = False  # whether this process has started the Ray that it belongs to


def start(config: RunConfig, *, hears_workers: bool = False) -> None:
    """Join the cluster that this process belongs to, or start a local one. `hears_workers`: what workers print is
    printed here as well; else it stands only in Ray's own log files."""
    # Ray's core writes remarks on its own actors to our standard error; faults still arrive as exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray

    if ray.is_initialized():
        return
    _init(config, hears_workers=hears_workers)
    settle_data()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)


def settle_data() -> None:
    """Tell Ray Data to draw no bars, since events count the rows, and to hand on what a function raises as it was."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True


def is_running() -> bool:
    """Whether this process belongs to a cluster, its own or another."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def is_own() -> bool:
    """Whether this process belongs to a Ray that it has started itself, for nobody else."""
    return is_running() and _own


def stop() -> None:
    """Leave the cluster, and end it if it is our own."""
    if is_running():
        sys.modules["ray"].shutdown()
    while _set:
        os.environ.pop(_set.pop(), None)


def _init(config: RunConfig, *, hears_workers: bool = False) -> None:
    global _own
    import ray

    environment: dict[str, Any] = {"env_vars": import_environment()}
    if hears_workers:
        environment["worker_process_setup_hook"] = worker_lines.HOOK
    given: dict[str, Any] = {"runtime_env": environment, "logging_level": logging.WARNING}
    given["log_to_driver"] = hears_workers
    _own = not os.environ.get("RAY_ADDRESS")
    if not _own:
        ray.init(**given)
        return
    _set.extend(name for name in _OWN if name not in os.environ)
    os.environ.update({name: _OWN[name] for name in _set})
    # One of our own, even if a cluster runs (or was killed) on this machine.
    given |= {"address": "local", "num_cpus": config.run.local_cpus, "include_dashboard": False}
    try:
        ray.init(**given)
    except Exception as error:  # Ray has no type for it
        if "timed out during startup" not in str(error):
            raise
        log.warning("Ray did not start within its 30 s: this machine is busy. It is started once more")
        ray.shutdown()
        ray.init(**given)


def import_environment() -> dict[str, str]:
    """Environment variables by which another Python process imports the same code of ours as this one."""
    home = Path(__file__).resolve().parents[2]
    given = os.environ.get("PYTHONPATH", "")
    return import_path(home, installed=[*site.getsitepackages(), site.getusersitepackages()], given=given)


def import_path(home: Path, *, installed: Collection[str], given: str) -> dict[str, str]:
    """The variable PYTHONPATH for a package that lies in `home`; empty where the process needs none.

    Where packages are installed, every Python finds them by itself, and the place must not be named: PYTHONPATH comes
    before the standard library.
    """
    found = home in [Path(place).resolve() for place in installed]
    path = os.pathsep.join(filter(None, ["" if found else str(home), given]))
    return {"PYTHONPATH": path} if path else {}
