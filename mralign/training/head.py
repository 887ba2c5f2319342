"""The LM head and log-softmax for the tokens that count, a few rows of logits at a time.

Hidden states of completion positions and their target tokens enter; log-probabilities leave, and in the backward pass
the gradient of the hidden states. Under LoRA the head is frozen: then d logp_n / d h_n = W[y_n] - sum_v p_nv W[v]
depends on no later value, so the forward pass stores that one vector a token and the backward pass multiplies it by the
gradient that arrives, whatever weights it carries: two head products instead of three, and never a full logits tensor.
A head that is trained takes the recomputing way.

Axes: N completion tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 32 * 2**20  # of logits in the precision they are reduced in, on a CPU: a few times its caches
CHUNK_BYTES_GPU = 1024 * 2**20


def head_logps(hidden_ND: Tensor, head: Any, target_N: Tensor, *, chunk: int | None = None) -> Tensor:
    """log softmax(head(hidden))[target], (N,) in fp32 (fp64 for fp64 input), `chunk` rows of logits at a time.

    `head` is the model's output layer: `weight` (V, D) and perhaps `bias` (V,). Log-sum-exp is taken in fp32. Gradients
    are exact for any upstream gradient, so weights of tokens are applied to the result: a fused loss that assumes equal
    weights (Liger's KTO) would be wrong here.
    """
    rows = chunk or _chunk_rows(hidden_ND, vocabulary=head.weight.shape[0])
    if head.weight.requires_grad:
        return logits_logps(hidden_ND, head, target_N, chunk=rows)
    wanted = torch.is_grad_enabled() and hidden_ND.requires_grad
    return _FrozenHead.apply(hidden_ND, head.weight, getattr(head, "bias", None), target_N, rows, wanted)


def logits_logps(
    hidden_ND: Tensor, logits_of: Callable[[Tensor], Tensor], target_N: Tensor, *, chunk: int | None = None
) -> Tensor:
    """The same for any way from hidden states (n, D) to logits (n, V), which is gone again in the backward pass."""
    rows = chunk or _chunk_rows(hidden_ND, vocabulary=_vocabulary(hidden_ND, logits_of))
    pieces = [
        checkpoint(_recomputed, hidden, logits_of, target, use_reentrant=False)
        for hidden, target in zip(hidden_ND.split(rows), target_N.split(rows), strict=True)
    ]
    return torch.cat(pieces)


@torch.no_grad()
def _vocabulary(hidden_ND: Tensor, logits_of: Callable[[Tensor], Tensor]) -> int:
    return logits_of(hidden_ND[:1]).shape[1]


def _fused(hidden_ND: Tensor) -> Any:
    """The kernel for a GPU in bfloat16, else None."""
    if not hidden_ND.is_cuda or hidden_ND.dtype != torch.bfloat16:
        return None
    from mralign.training.head_triton import logps_in_place

    return logps_in_place


def _chunk_rows(hidden_ND: Tensor, *, vocabulary: int) -> int:
    size = CHUNK_BYTES_GPU if hidden_ND.is_cuda else CHUNK_BYTES
    return max(1, size // (4 * vocabulary))


def _recomputed(hidden_ND: Tensor, logits_of: Callable[[Tensor], Tensor], target_N: Tensor) -> Tensor:
    logits_NV = logits_of(hidden_ND)
    logits_NV = logits_NV.to(_accumulator(logits_NV))
    return logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(1)


def _accumulator(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities of a frozen head; the gradient of the hidden states is made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, target_N: Tensor, rows: int, wanted: bool
    ) -> Tensor:
        logp_N = torch.empty(len(target_N), dtype=_accumulator(hidden_ND), device=hidden_ND.device)
        slope_ND = torch.empty_like(hidden_ND) if wanted else None
        fused = _fused(hidden_ND)
        for start in range(0, len(target_N), rows):
            place = slice(start, start + rows)
            target = target_N[place]
            raw_NV = torch.nn.functional.linear(hidden_ND[place], weight_VD, bias_V)
            if fused is not None:
                logp_N[place] = fused(raw_NV, target, slope=wanted)
                if slope_ND is not None:
                    torch.mm(raw_NV, weight_VD, out=slope_ND[place])
                continue
            logits_NV = raw_NV.to(logp_N.dtype)
            chosen, largest = logits_NV.gather(1, target[:, None]), logits_NV.amax(1, keepdim=True)
            share_NV = logits_NV.sub_(largest).exp_()  # p_nv times the sum of the row
            # The target apart: (p - 1) of a sure token is minus the share of the others, not a difference of two ones,
            # and W[y] - sum_v p_v W[v] would cancel in bfloat16.
            others = share_NV.scatter_(1, target[:, None], 0.0).sum(1, keepdim=True)
            total = others + (chosen - largest).exp()
            logp_N[place] = (chosen - largest - total.log())[:, 0]
            if slope_ND is not None:
                share_NV.scatter_(1, target[:, None], -others)
                product_ND = share_NV.to(weight_VD.dtype) @ weight_VD
                slope_ND[place] = (-product_ND.to(total.dtype) / total).to(slope_ND.dtype)
        ctx.save_for_backward(slope_ND)
        return logp_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope_ND,) = ctx.saved_tensors
        return slope_ND * gradients[0][:, None].to(slope_ND.dtype), None, None, None, None, None
