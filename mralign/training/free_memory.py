"""How much memory a training process may still take.

Nothing but the settings enters; bytes leave. On a GPU: what its driver calls free. On a CPU: what the machine, or the
container that this process is held to, has left, divided among the training's processes there.
"""

from __future__ import annotations

import math
import socket
from pathlib import Path

import psutil
import torch

from mralign.config import Training
from mralign.training.engine import all_gather

_CGROUP = Path("/sys/fs/cgroup")
_CONTAINER_FILES = (  # of the second and of the first version
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


def room_bytes(settings: Training) -> float:
    """Bytes that this process may take beyond what it holds; the least of all ranks'. Call on all ranks.

    `training.memory` as a size counts what the process holds already.
    """
    neighbours = all_gather(socket.gethostname()).count(socket.gethostname())
    if settings.gpu:
        torch.cuda.empty_cache()
        free, held = float(torch.cuda.mem_get_info()[0]), float(torch.cuda.memory_allocated())
    else:
        free, held = free_of_machine() / neighbours, float(psutil.Process().memory_info().rss)
    limit = settings.memory_bytes
    own = free if limit is None else min(free, limit - held)
    return float(min(all_gather(own)))


def free_of_machine(root: Path = _CGROUP) -> float:
    """Bytes of main memory that processes here may still take: the machine's, or less in a container with a limit."""
    return min(float(psutil.virtual_memory().available), free_of_container(root))


def free_of_container(root: Path = _CGROUP) -> float:
    """What a control group leaves, files that may be dropped counted as free; infinity without a limit."""
    for limit, used, stat in _CONTAINER_FILES:
        try:
            most, now = ((root / name).read_text().strip() for name in (limit, used))
            unused = _unused(root / stat)
        except OSError:
            continue
        if most != "max":
            return float(max(0, int(most) - int(now) + unused))
    return math.inf


def _unused(stat: Path) -> int:
    """Bytes of files that were read and not looked at since: they are dropped when memory is wanted."""
    found = dict(line.split() for line in stat.read_text().splitlines())
    return int(found.get("total_inactive_file", found.get("inactive_file", 0)))
