"""How much memory a computation takes at its peak, beyond what was there before.

A function enters; bytes leave. On a GPU its allocator counts. Elsewhere, and on a model without memory (torch's device
`meta`), the sizes of the tensors that are alive together are added up as operations make them; what an operation uses
inside, and what the C library keeps of freed memory, is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While it holds, `now` counts the bytes of tensors that were made and still live, `peak` the most of them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._sizes: dict[int, int] = {}  # by storage

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage(), inputs=(args, kwargs))
        return made

    def _note(self, storage: Any, *, inputs: Any) -> None:
        key = storage._cdata
        if key in self._sizes or any(key == held for held in _storages(inputs)):
            return
        self._sizes[key] = storage.nbytes()
        self.now += self._sizes[key]
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key, 0)


def _storages(inputs: Any) -> list[int]:
    """Views and results in place have the storage of an input, which may be older than the count."""
    return [x.untyped_storage()._cdata for x in tree_leaves(inputs) if isinstance(x, torch.Tensor)]


def peak_bytes(compute: Callable[[], Any], *, gpu: bool) -> int:
    """The most bytes that `compute` holds at once. What it returns is dropped."""
    if not gpu:
        with LiveBytes() as live:
            compute()
        return live.peak
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    compute()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
