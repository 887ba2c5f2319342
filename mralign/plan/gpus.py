"""How much memory one GPU is taken to have, and who says so."""

from __future__ import annotations

import subprocess
from functools import cache

from mralign.config import RunConfig

_ASSUMED = 80.0


def memory_gib(config: RunConfig) -> tuple[float, str]:
    """GiB of one GPU, and where the number comes from."""
    if config.run.gpu_memory_gib is not None:
        return config.run.gpu_memory_gib, "run.gpu_memory_gib"
    here = _of_this_machine()
    if here is not None:
        return here, "this machine's GPU"
    return _ASSUMED, "assumed: no GPU here; give run.gpu_memory_gib"


@cache
def _of_this_machine() -> float | None:
    """GiB of the smallest GPU of this machine, None where it has none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return min(sizes) / 1024 if done.returncode == 0 and sizes else None
