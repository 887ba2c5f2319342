"""The part of the head between its two products, on a GPU, in one kernel: bfloat16 logits become log-probabilities and,
in place, what the logits' gradient needs. Two reads and a write of the logits, where torch's operations take a dozen.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def logps_in_place(logits_NV: Tensor, target_N: Tensor, *, slope: bool) -> Tensor:
    """log softmax(logits)[target], (N,) fp32. With `slope` the logits become d logp / d logits = onehot - p."""
    logp_N = torch.empty(len(target_N), dtype=torch.float32, device=logits_NV.device)
    if len(target_N):
        rows: Any = _rows[(len(target_N),)]
        rows(
            logits_NV, target_N, logp_N, logits_NV.shape[1], logits_NV.stride(0), SLOPE=slope, BLOCK=4096, num_warps=16
        )
    return logp_N


@triton.jit  # type: ignore[untyped-decorator]
def _rows(logits, target, logp, size, stride, SLOPE: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program a row. The target is kept out of the sum: p - 1 of a sure token is minus the share of the others."""
    row = tl.program_id(0).to(tl.int64)
    begin = logits + row * stride
    chosen = tl.load(target + row)
    largest = -1e30
    others = 0.0
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        z = tl.load(begin + at, mask=at < size, other=-float("inf")).to(tl.float32)
        z = tl.where(at == chosen, -float("inf"), z)
        new = tl.maximum(largest, tl.max(z, axis=0))
        others = others * tl.exp(largest - new) + tl.sum(tl.exp(z - new), axis=0)
        largest = new
    own = tl.load(begin + chosen).to(tl.float32)
    top = tl.maximum(largest, own)
    others = others * tl.exp(largest - top)
    total = others + tl.exp(own - top)
    tl.store(logp + row, own - top - tl.log(total))
    if SLOPE:
        for start in range(0, size, BLOCK):
            at = start + tl.arange(0, BLOCK)
            z = tl.load(begin + at, mask=at < size, other=0.0).to(tl.float32)
            p = tl.where(at == chosen, -others, tl.exp(z - top)) / total
            tl.store(begin + at, (-p).to(logits.dtype.element_ty), mask=at < size)
