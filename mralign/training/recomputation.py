"""Which activations a layer keeps for its backward pass (`training.gradient_checkpointing`).

A model is told to recompute all of a layer, all but attention, or nothing. Attention's output is small beside what a
layer holds, and the one part whose cost grows with the square of a sequence's length: `selective` keeps it. Korthikanti
et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", before flash attention, keep the rest and
recompute attention. Norms, projections and the MLP are computed again.
"""

from __future__ import annotations

from typing import Any

from mralign.config.learning import Recomputation

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


def recompute(model: Any, what: Recomputation) -> None:
    """Let the layers of `model` (transformers', perhaps in PEFT's wrapper) keep or recompute their activations."""
    if not what:
        return
    model.enable_input_require_grads()  # the input of a checkpointed block must ask for a gradient
    selective = {"context_fn": attention_kept} if what == "selective" else {}
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, **selective})
    model.train()  # transformers checkpoints in training mode only; dropout is the adapter's alone


def attention_kept() -> tuple[Any, Any]:
    """The two contexts of a layer: of its forward pass and of its recomputation."""
    from torch.utils.checkpoint import create_selective_checkpoint_contexts

    return create_selective_checkpoint_contexts(_policy)


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> Any:
    from torch.utils.checkpoint import CheckpointPolicy

    schema = getattr(operation, "_schema", None)  # an operation of higher order has none
    kept = schema is not None and schema.name in _ATTENTION
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
