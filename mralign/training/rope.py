"""How far a model's positions reach, and whether the server and the trainer give them the same meaning.

A model's configuration file and the run's settings enter; a number of tokens, or a refusal that says what to set,
leaves. Nothing is loaded but the configuration. Whether the trainer's rotary embedding depends on a micro-batch is not
read here but tried (`agreement.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mralign.config import Model, RunConfig, resolve_path

# Names under which families keep the number of positions, and scalings that are no part of it yet; as vLLM reads them.
_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
)
_SCALES_INCLUDED = ("default", "su", "longrope", "llama3", "yarn", "deepseek_yarn", "deepseek_llama_scaling")


def local_config(model: Model) -> Any | None:
    """transformers' configuration of the model, from its directory or the hub's cache; None where it lies in neither.

    Nothing is downloaded.
    """
    from transformers import AutoConfig

    path = resolve_path(model.path)
    if "://" in path:
        return None
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=model.trust_remote_code, local_files_only=True)
    except OSError:
        return None


def positions_of(config: Any) -> int | None:
    """Tokens of the longest sequence that the model knows positions for; None where it does not say (ALiBi, Mamba)."""
    text = config.get_text_config()
    told = [value for name in _NAMES if isinstance(value := getattr(text, name, None), int) and value > 0]
    if not told:
        return None
    longest = min(told)
    if "gemma3" in config.model_type:  # says the scaled length
        return longest
    for rope in rope_parameters(text):
        if rope.get("rope_type", "default") not in _SCALES_INCLUDED and rope.get("factor"):
            return int(longest * rope["factor"])
    return longest


def rope_parameters(text: Any) -> Iterator[dict[str, Any]]:
    """The rotary settings of a text configuration: one dictionary, or one for each type of layer."""
    found = getattr(text, "rope_parameters", None) or {}
    if any(isinstance(value, dict) for value in found.values()):
        yield from (value for value in found.values() if isinstance(value, dict))
    elif found:
        yield found


def original_length(config: Any) -> int | None:
    """The length beyond which a LongRoPE model takes its other factors; None for other models."""
    text = config.get_text_config()
    for rope in rope_parameters(text):
        if rope.get("rope_type") in ("longrope", "su"):
            told = rope.get("original_max_position_embeddings")
            return int(told or getattr(text, "original_max_position_embeddings", None) or text.max_position_embeddings)
    return None


def check_positions(config: RunConfig) -> None:
    """Raise ValueError where the server would be given sequences that the model has no positions for, or would give
    positions another meaning than the trainer. A model whose configuration is not here is checked when it is."""
    known = local_config(config.model)
    if known is None:
        return
    served, limit = config.engine.max_model_len, positions_of(known)
    if limit is not None and served > limit and _serves(config):
        raise ValueError(
            f"engine.max_model_len={served}, but the model has positions for {limit} tokens; give at most "
            f"engine.max_model_len={limit}"
        )
    original = original_length(known)
    if original is not None and _serves(config):
        _check_longrope(config, original=original)


def _serves(config: RunConfig) -> bool:
    """Whether vLLM serves the model in this run."""
    sampled = config.rollouts.engine == "vllm" and not config.rollouts.import_on
    return sampled or bool(config.questions.test or config.questions.dev)


def _check_longrope(config: RunConfig, *, original: int) -> None:
    """vLLM takes the long factors for all positions when max_model_len exceeds the original length, else the short
    ones; transformers takes those of the longest position of a batch, or of `training.rope_length`."""
    served, trained = config.engine.max_model_len, config.training.rope_length
    longest = config.examples.max_length if trained is None else trained
    if served > original and (trained is None or trained <= original):
        raise ValueError(
            f"engine.max_model_len={served} exceeds the model's original length of {original}: the server takes "
            f"LongRoPE's long factors for every position, training would take the short ones wherever all sequences of "
            f"a micro-batch fit {original}. Give training.rope_length={served}, or engine.max_model_len={original} and "
            f"examples.max_length={original}"
        )
    if served <= original < longest:
        raise ValueError(
            f"engine.max_model_len={served} fits the model's original length of {original}, so the server takes "
            f"LongRoPE's short factors, but "
            + (f"examples.max_length={longest}" if trained is None else f"training.rope_length={trained}")
            + f" would have training take the long ones; give examples.max_length={original} and no "
            f"training.rope_length, or engine.max_model_len={longest} and training.rope_length={longest}"
        )
