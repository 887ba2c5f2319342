"""The policy: the base model with what is trained of it.

Settings enter, a model whose trainable parameters are a fresh adapter (LoRA, DoRA, LoRA on a quantised base) or all of
it leaves. A fresh adapter changes nothing, so the policy then equals the reference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mralign.chat.model_files import adapter_paths, model_path
from mralign.config import Model, Training
from mralign.serving.adapter import load_merged
from mralign.training.attention import register_varlen
from mralign.training.batches import packs
from mralign.training.logprobs import TokenLogProbs
from mralign.training.lora import fuse_lora
from mralign.training.modules import adapt
from mralign.training.recomputation import recompute


def load_model(model: Model, settings: Training) -> Any:
    """The causal LM of the configuration in the training dtype, eval mode, its own adapter merged into it.

    Raises ValueError for a model whose sequences cannot be packed as the settings ask.
    """
    register_varlen()
    loaded = load_merged(
        model_path(model),
        adapters=adapter_paths(model),
        dtype=settings.dtype,
        trust_remote_code=model.trust_remote_code,
        attention=settings.attention_used,
        quantization=_quantization(settings),
    ).eval()
    if packs(settings):
        check_packing(loaded, settings)
    if settings.kernels == "liger":
        _apply_liger(loaded)
    return loaded


def base_policy(model: Model, settings: Training) -> TokenLogProbs:
    """The model before training, where it is run: the reference."""
    loaded = load_model(model, settings)
    quantized = settings.tuning == "qlora"  # is there already
    placed = loaded.cuda() if settings.gpu and not quantized else loaded
    return TokenLogProbs(placed, rope_length=settings.rope_length)


def check_packing(loaded: Any, settings: Training) -> None:
    """Raise ValueError for a model in which packed sequences would see each other, or not all of themselves.

    transformers takes any name of an attention for any model. A model that computes attention by itself, or carries a
    state from token to token (Mamba, gated delta nets), does not ask it where sequences begin; windows and chunks are
    often told by a mask alone, which varlen does not get.
    """
    config = loaded.config
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    windows = {"sliding_attention", "chunked_attention"}
    told = type(loaded).is_backend_compatible() and not getattr(loaded, "_is_stateful", False)
    fits = told and kinds <= {"full_attention"} | windows
    if settings.attention_used == "varlen":
        fits = fits and not kinds & windows and not getattr(config, "sliding_window", None)
    if not fits:
        raise ValueError(
            f"training packs sequences (training.attention={settings.attention}, packing={settings.packing}), which a "
            f"model of type {config.model_type} (layers: {', '.join(sorted(kinds))}) cannot be given; "
            f"give training.attention=sdpa (or eager) and training.packing=off"
        )


def build_policy(model: Model, settings: Training, *, seed: int, start: Path | None = None) -> TokenLogProbs:
    """The policy to train. `start`: a directory of trained weights (an adapter, or a whole model) to begin from."""
    torch.manual_seed(seed)
    if settings.tuning == "full":
        at = model if start is None else model.model_copy(update={"path": str(start), "adapter": None})
        policy = load_model(at, settings)
        policy.requires_grad_(True)
    else:
        policy = _adapted(load_model(model, settings), settings)
        if start is not None:
            _load_adapter(policy, start)
    recompute(policy, settings.recomputation_used)
    return TokenLogProbs(policy, sharded=settings.zero_stage == 3, rope_length=settings.rope_length)


def _adapted(base: Any, settings: Training) -> Any:
    policy = adapt(base, settings)
    if settings.zero_stage < 3:  # ZeRO-3 gathers a layer's weights when the layer is called
        fuse_lora(policy)
    return policy


def _apply_liger(loaded: Any) -> None:
    """Liger's kernels for norms, rotary embedding and gated MLP; the head stays ours (`head.py`).

    Liger changes this model's layers, and the rotary embedding of its type for the whole process.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    kind = loaded.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"training.kernels=liger: Liger has no kernels for models of type {kind}; give torch")
    activation = getattr(loaded.config, "hidden_act", "silu")
    if activation not in ("silu", "swish") and not kind.startswith("gemma"):
        raise ValueError(f"training.kernels=liger computes MLPs with silu, this model has {activation}; give torch")
    apply_liger_kernel(loaded, {"cross_entropy": False, "fused_linear_cross_entropy": False})


def _load_adapter(policy: Any, directory: Path) -> None:
    from peft import load_peft_weights, set_peft_model_state_dict

    missed: Any = set_peft_model_state_dict(policy, load_peft_weights(str(directory), device="cpu"))
    assert not missed.unexpected_keys, missed.unexpected_keys


def _quantization(settings: Training) -> Any:
    """4-bit NormalFloat with double quantisation (Dettmers et al. 2023) for qlora, else None."""
    if settings.tuning != "qlora":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
    )
