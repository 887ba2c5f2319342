"""What is missing where a stage would run, asked there before anything is paid for.

A worker of the stage's own size looks for packages and for a device. What it lacks leaves as a ValueError, or as a
warning where the stage would run all the same. What is missing on the machine of a dry run is no fault.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from mralign.run.interruption import check as check_interruption
from mralign.run.placement import NodeFault, Workers, alive_nodes
from mralign.run.room import shortages

log = logging.getLogger("mralign")

_AT_ONCE_S = 120.0  # how long a run waits at its start for a GPU that others hold


def needs_rehearsal(workers: Sequence[Workers]) -> bool:
    """Whether these workers may find another machine than the driver does: in a cluster, and wherever GPUs are."""
    return bool(workers) and (any(one.gpus for one in workers) or bool(os.environ.get("RAY_ADDRESS")))


def rehearse(
    stage: str,
    workers: Sequence[Workers],
    *,
    faults: Callable[[Any], Sequence[NodeFault]],
    config: Any,
    patience_s: float | None = None,
) -> bool:
    """Ask a worker of the stage's own size what it lacks; False if none could be had yet.

    Workers without a GPU on a Ray of this machine are not asked: they find what the driver finds. Raises ValueError for
    what is fatal. `patience_s`: how long to wait for a worker; None: for a while, if the cluster has room for it now.
    """
    if not needs_rehearsal(workers):
        return True
    wide = max(workers, key=lambda one: one.gpus)
    cpus = 0 if wide.gpus else wide.cpus  # where a GPU is free a CPU need not be
    asking = Workers(wide.what, wide.setting, cpus, wide.gpus)
    if patience_s is None and shortages([asking], nodes=alive_nodes()):
        return False
    import ray

    task: Any = ray.remote(faults).options(num_cpus=cpus, num_gpus=wide.gpus)
    asked = task.remote(config)
    if not _ready(asked, within_s=_AT_ONCE_S if patience_s is None else patience_s):
        return False  # not cancelled: Ray 2.60 can end the driver when a task completes while it is being cancelled
    found: Sequence[NodeFault] = ray.get(asked)
    fatal = [fault.text for fault in found if fault.fatal]
    if fatal:
        raise ValueError(f"stage {stage}, on the node where it would run: {'; '.join(fatal)}")
    for fault in found:
        log.warning("stage %s: %s", stage, fault.text)
    return True


def _ready(asked: Any, *, within_s: float) -> bool:
    """Whether a task has ended within the time."""
    import ray

    end = time.monotonic() + within_s
    while True:
        check_interruption()
        ready, _ = ray.wait([asked], timeout=min(1.0, max(0.0, end - time.monotonic())))
        if ready or time.monotonic() >= end:
            return bool(ready)
