"""Counts what a rank hands to torch.distributed: bytes and calls by operation, for each optimizer step. Used by
rank.py."""

from collections import Counter
from contextlib import contextmanager

import torch
import torch.distributed as dist

from mralign.training import loop

# By the operation, the argument that is as large as what a ring passes on: the whole that is summed or put together.
WHOLE = {
    "all_reduce": "tensor",
    "broadcast": "tensor",
    "reduce": "tensor",
    "all_gather_into_tensor": "output_tensor",
    "reduce_scatter_tensor": "input",
}
PLACES = {"all_reduce": 0, "broadcast": 0, "reduce": 0, "all_gather_into_tensor": 0, "reduce_scatter_tensor": 1}
# Two of them DeepSpeed looks up once, when it starts.
KEPT = {"all_gather_function": "all_gather_into_tensor", "reduce_scatter_function": "reduce_scatter_tensor"}


def size(tensor):
    return tensor.numel() * tensor.element_size() if isinstance(tensor, torch.Tensor) else 0


@contextmanager
def counted(steps):
    """While the block runs, every optimizer step appends {operation: bytes, "calls": {operation: number}} to
    `steps`."""
    from deepspeed.comm import comm  # after the process was told what it runs on

    now, calls = Counter(), Counter()
    plain_step, plain = loop.optimizer_step, {name: getattr(dist, name) for name in WHOLE}

    def watch(name):
        def call(*args, **kwargs):
            place = PLACES[name]
            calls[name] += 1
            now[name] += size(args[place] if len(args) > place else kwargs.get(WHOLE[name]))
            return plain[name](*args, **kwargs)

        return call

    def step(*args, **kwargs):
        now.clear()
        calls.clear()
        found = plain_step(*args, **kwargs)
        steps.append({**now, "calls": dict(calls)})
        return found

    backend = comm.cdb
    for name in WHOLE:
        setattr(dist, name, watch(name))
    for kept, name in KEPT.items():
        setattr(backend, kept, getattr(dist, name))
    loop.optimizer_step = step
    try:
        yield
    finally:
        loop.optimizer_step = plain_step
        for name, function in plain.items():
            setattr(dist, name, function)
        for kept, name in KEPT.items():
            setattr(backend, kept, plain[name])
