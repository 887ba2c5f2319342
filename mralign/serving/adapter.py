"""A LoRA adapter on its base becomes an ordinary model.

A base model and adapter directories enter; the merged model, in memory or as a directory that any engine can serve,
leaves. Training exports its result this way, and an engine that cannot serve an adapter (vLLM on CPU, or one that is
more than LoRA on linear layers) gets the merged model instead. What is saved is loaded again and compared.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mralign.chat.model_files import copy_companions, load_tokenizer, weight_shapes
from mralign.config import Model

_FILES = ("adapter_config.json", "adapter_model.safetensors")


def load_merged(
    base: str,
    *,
    adapters: Sequence[str],
    dtype: str,
    trust_remote_code: bool = False,
    attention: str = "auto",
    quantization: Any = None,
) -> Any:
    """The causal LM `base` (directory or hub name) in `dtype` with `adapters` merged into it, one after the other.

    `attention` is transformers' name of an implementation (auto: its own choice for this model), `quantization` one of
    its quantisation configurations. Raises ValueError for an adapter that does not fit, or whose merge changes what
    the model says.
    """
    import torch
    from transformers import AutoModelForCausalLM

    chosen: dict[str, Any] = {} if attention == "auto" else {"attn_implementation": attention}
    if quantization is not None:
        chosen["quantization_config"] = quantization
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=getattr(torch, dtype), trust_remote_code=trust_remote_code, output_loading_info=True, **chosen
    )
    model, told = loaded
    missing = sorted(told["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights of {base} lack {len(missing)} that a {type(model).__name__} has, such as "
            f"{', '.join(missing[:3])}: they would be random; give a directory with all weights of a causal LM"
        )
    if adapters:
        from mralign.serving.merging import merge, with_adapter

        kind = dtype if quantization is None else "4bit"
        for adapter in adapters:
            model = merge(with_adapter(model, adapter), kind=kind)
    return model


def save_merged(base: str, *, adapters: Sequence[str], target: Path, model: Model, weights: str | None = None) -> None:
    """Write base + adapters to `target` in `model.dtype` as safetensors, with everything that lies beside the weights
    of `base`: tokenizer, template, generation configuration, processor.

    `weights`: a directory of whole weights in place of the base's. The configuration of `model` says how files are
    read. Raises ValueError if what was written, loaded again, does not say what was to be written.
    """
    from mralign.serving.merging import token_logps

    reading: dict[str, Any] = {"dtype": model.dtype, "trust_remote_code": model.trust_remote_code}
    merged = load_merged(weights or base, adapters=adapters, **reading)
    wanted = token_logps(merged)
    save_model(merged, target)
    del merged
    gc.collect()
    load_tokenizer(base, model=model, dated=False).save_pretrained(target)
    copy_companions(base, target=target, trust_remote_code=model.trust_remote_code)
    _check_saved(target, wanted=wanted, reading=reading)


def save_model(model: Any, target: Path) -> None:
    """Write weights and configuration as safetensors. The generation configuration is left out: transformers refuses to
    write one that it reads, such as a temperature without do_sample; the base's file is copied as it is."""
    from transformers import GenerationConfig

    own = getattr(model, "generation_config", None)
    if own is not None:
        model.generation_config = GenerationConfig()
    model.save_pretrained(target, safe_serialization=True)
    (target / "generation_config.json").unlink(missing_ok=True)
    if own is not None:
        model.generation_config = own


def _check_saved(target: Path, *, wanted: Any, reading: dict[str, Any]) -> None:
    from mralign.serving.merging import mean_difference, token_logps

    away = mean_difference(token_logps(load_merged(str(target), adapters=(), **reading)), wanted)
    if not away <= 1e-5:
        raise ValueError(
            f"the merged model, written to {target} and loaded again, is not the one that was written: its "
            f"log-probabilities differ by {away:.3g} a token. transformers cannot save this model whole; serve the "
            f"adapter on its base"
        )


def check_adapter(path: str) -> None:
    """Raise ValueError if the local directory `path` holds no whole PEFT adapter of a kind that can be merged; a path
    on another file system passes."""
    from peft import PEFT_TYPE_TO_TUNER_MAPPING

    if "://" in path:
        return
    missing = [name for name in _FILES if not (Path(path) / name).is_file()]
    if missing:
        raise ValueError(f"model.adapter={path!r} lacks {', '.join(missing)}; give the directory that PEFT saved")
    kind: Any = read_adapter(path).get("peft_type")
    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload"):
        raise ValueError(
            f"model.adapter={path!r} is of PEFT's kind {kind}, which cannot be merged; give a LoRA adapter, or the "
            f"model that its own code makes with it as model.path"
        )
    weight_shapes(Path(path) / _FILES[1])


def read_adapter(path: str) -> dict[str, Any]:
    """What adapter_config.json says. Raises ValueError if it is no JSON object."""
    try:
        values = json.loads((Path(path) / _FILES[0]).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"model.adapter={path!r}: {_FILES[0]} is no JSON: {error}; save the adapter again") from None
    if not isinstance(values, dict):
        raise ValueError(f"model.adapter={path!r}: {_FILES[0]} holds no object; save the adapter again")
    return values


# What of an adapter_config.json vLLM applies when it serves the adapter beside the model; other keys that are set ask
# for something that it would leave out without a word, so such an adapter is merged first.
_SERVED = {
    *("r", "lora_alpha", "target_modules", "use_rslora", "peft_type", "task_type", "base_model_name_or_path"),
    *("inference_mode", "revision", "auto_mapping", "peft_version", "lora_dropout"),
    *("exclude_modules", "layers_to_transform", "layers_pattern"),  # the names of the weights say it as well
    *("megatron_core", "loftq_config", "qalora_group_size", "lora_ga_config", "monteclora_config"),
}
_EMPTY: tuple[Any, ...] = (None, False, [], {}, "", "none")


def served_beside(path: str) -> bool:
    """Whether vLLM serves all of this adapter beside its base: LoRA on linear layers, embeddings and head left out."""
    from safetensors import safe_open

    values = read_adapter(path)
    if values.get("peft_type") != "LORA" or values.pop("init_lora_weights", True) not in (True, False, "gaussian"):
        return False  # some initialisations (PiSSA, OLoRA) change the base as well
    if any(value not in _EMPTY for name, value in values.items() if name not in _SERVED):
        return False
    with safe_open(Path(path) / _FILES[1], framework="numpy") as file:
        names = list(file.keys())
    linear = (".lora_A.weight", ".lora_B.weight")
    return all(name.endswith(linear) and ".lm_head." not in name and ".embed_tokens." not in name for name in names)
