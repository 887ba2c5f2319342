"""LoRA layers as matrix products alone.

A PEFT model enters and its plain LoRA layers get another forward pass: W x + s B A x, where the second term is added by
the product that makes it. PEFT's own writes B A x, s B A x and the sum as tensors of their own, and autograd adds the
gradients of x once more: some percent of a training's time. Parameters, their names and what is saved stay PEFT's.

Axes: N tokens, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def fuse_lora(policy: Any) -> int:
    """Give every plain LoRA layer of `policy` the forward pass above; returns how many there were.

    Plain: a frozen `nn.Linear` below, one adapter without dropout, bias, or a variant such as DoRA. Others stay as they
    are. An adapter that is added later must be plain as well.
    """
    from peft.tuners.lora import Linear

    layers: list[Any] = [layer for layer in policy.modules() if type(layer) is Linear and _plain(layer)]
    for layer in layers:
        layer.forward = partial(_forward, layer, layer.forward)
    return len(layers)


def _plain(layer: Any) -> bool:
    (adapter,) = layer.active_adapters
    return (
        type(layer.base_layer) is nn.Linear
        and not any(p.requires_grad for p in layer.base_layer.parameters())
        and isinstance(layer.lora_dropout[adapter], nn.Identity)
        and layer.lora_B[adapter].bias is None
        and adapter not in layer.lora_variant
    )


def _forward(layer: Any, original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1 or args or kwargs:
        return original(x, *args, **kwargs)
    base, (adapter,) = layer.base_layer, layer.active_adapters
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    if not x.dtype == base.weight.dtype == a.dtype == b.dtype:  # before DeepSpeed has brought them to one
        return original(x)
    return _LoraLinear.apply(x, base.weight, base.bias, a, b, layer.scaling[adapter])


class _LoraLinear(torch.autograd.Function):
    """x W^T + bias + s (x A^T) B^T, with gradients for x, A and B."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.flatten(0, -2)
        low_NR = x_NI @ a_RI.T
        out_NO = nn.functional.linear(x_NI, weight_OI, bias_O).addmm_(low_NR, b_OR.T, alpha=scale)
        ctx.save_for_backward(x_NI, weight_OI, a_RI, b_OR, low_NR)
        ctx.scale, ctx.shape = scale, x.shape
        # an ordinary view would forbid whoever comes next to change it in place
        return torch.ops.aten._unsafe_view(out_NO, [*x.shape[:-1], len(weight_OI)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x_NI, weight_OI, a_RI, b_OR, low_NR = ctx.saved_tensors
        out_NO = gradients[0].flatten(0, -2)
        low = (out_NO @ b_OR).mul_(ctx.scale)
        x = (out_NO @ weight_OI).addmm_(low, a_RI).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return x, None, None, low.T @ x_NI, (out_NO.T @ low_NR).mul_(ctx.scale), None
