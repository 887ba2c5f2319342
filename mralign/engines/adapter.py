"""A LoRA adapter on its base becomes an ordinary model.

A base model and adapter directories enter; the merged model, in memory or as a directory that any engine can serve,
leaves. Training exports its result this way, and an engine that cannot serve adapters (vLLM on CPU) gets the merged
model instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_merged(
    base: str,
    *,
    adapters: Sequence[str],
    dtype: str,
    trust_remote_code: bool = False,
    attention: str = "sdpa",
    quantization: Any = None,
) -> Any:
    """The causal LM `base` (directory or hub name) in `dtype` with `adapters` merged into it, one after the other.

    `attention` is transformers' name of an implementation, `quantization` one of its quantisation configurations.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        attn_implementation=attention,
        **({} if quantization is None else {"quantization_config": quantization}),
    )
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model


def save_merged(
    base: str,
    *,
    adapters: Sequence[str],
    target: Path,
    dtype: str,
    trust_remote_code: bool = False,
    tokenizer: str | None = None,
) -> None:
    """Write base + adapters to `target` in `dtype` as safetensors, with tokenizer (None: the base's) and template."""
    from transformers import AutoTokenizer

    model = load_merged(base, adapters=adapters, dtype=dtype, trust_remote_code=trust_remote_code)
    model.save_pretrained(target, safe_serialization=True)
    AutoTokenizer.from_pretrained(tokenizer or base, trust_remote_code=trust_remote_code).save_pretrained(target)


def check_adapter(path: str) -> None:
    """Raise ValueError if the local directory `path` holds no PEFT adapter; a path on another file system passes."""
    if "://" in path:
        return
    missing = [n for n in ("adapter_config.json", "adapter_model.safetensors") if not (Path(path) / n).is_file()]
    if missing:
        raise ValueError(f"model.adapter={path!r} lacks {', '.join(missing)}; give the directory that PEFT saved")
