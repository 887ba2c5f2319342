"""How much main memory one machine is taken to have on which a run's workers would be, and whether they fit it."""

from __future__ import annotations

import os
from functools import cache

import psutil

from mralign.plan import places
from mralign.plan.memory import GIB
from mralign.run.capacity import capacity


def memory_verdict(bytes_of_one: float, *, workers: int = 1) -> str:
    """Whether workers that take so much each fit: all of them on a machine alone, each on a node of a cluster."""
    address = os.environ.get("RAY_ADDRESS", "")
    together = 1 if address else workers
    needed = bytes_of_one * together
    size, whose = (_of_cluster(address), "the largest node") if address else (_of_this_machine(), "this machine")
    if not size:
        return "the memory of the cluster's nodes is not known"
    verdict = "fits" if needed <= size else "does NOT fit"
    number = "one takes" if together == 1 else f"{together} take"
    return f"{number} {needed / GIB:.1f} of {whose}'s {size / GIB:.1f} GiB: {verdict}"


def _of_this_machine() -> float:
    return float(psutil.virtual_memory().total)


@cache
def _of_cluster(address: str) -> float:
    """Bytes of the largest node that the cluster has or may start; 0 where that is not known."""
    if ":" not in address or "://" in address or places.cluster_fault():
        return 0.0
    found = capacity(address)
    startable = [kind.resources for kind in found.growth.kinds] if found.growth else []
    # Ray keeps back the store of its objects from what it calls memory.
    sizes = [node.get("memory", 0) + node.get("object_store_memory", 0) for node in [*found.nodes, *startable]]
    return max(sizes, default=0.0)
