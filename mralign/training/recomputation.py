"""Which activations a checkpointed layer keeps (`training.gradient_checkpointing: selective`).

Nothing enters; the contexts leave that torch's checkpointing runs a layer in. Attention's output is kept: it is small
beside what a layer holds, and the one part whose cost grows with the square of a sequence's length (Korthikanti et al.
2022, "Reducing Activation Recomputation in Large Transformer Models", keep the rest and recompute attention, from the
time before flash attention). Norms, projections and the MLP are computed again.
"""

from __future__ import annotations

from typing import Any

# The operations of torch that compute attention as a whole. One that is missing here is computed again, no more.
_ATTENTION = frozenset(
    {
        "aten::_scaled_dot_product_flash_attention",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
        "aten::_scaled_dot_product_efficient_attention",
        "aten::_scaled_dot_product_cudnn_attention",
        "aten::_flash_attention_forward",
        "torch_attn::_varlen_attn",
    }
)


def attention_kept() -> tuple[Any, Any]:
    """The two contexts of a layer: of its forward pass and of its recomputation."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
    from torch.utils.checkpoint import CheckpointPolicy

    schema = getattr(operation, "_schema", None)  # an operation of higher order has none
    kept = schema is not None and schema.name in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
