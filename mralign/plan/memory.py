"""How much memory serving and training a model take on one GPU, estimated from its shape.

A model's shape and the settings enter; bytes leave, by what takes them. Serving: the weights, and a key-value cache
that grows with every token. Training: the weights, what is trained with its gradients and optimizer (ZeRO cuts them),
and the activations of one micro-batch. The activations are those that a transformer of Llama's kind keeps for its
backward pass: with Liger's kernels by the tensors that these save, else as counted on Qwen3's modules with an adapter
on every linear layer (what torch saves on a CPU, 2026-11-27). tests/plan/test_memory.py has measured peaks beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mralign.config import Engine, Training

GIB = 2**30
ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}
_HEAD = 1.5 * GIB  # logits of one piece, in two precisions, on a GPU (training/head.py)
_FOUR_BITS = 0.55  # bytes of a parameter of a base in 4 bits, its scales with it


@dataclass(frozen=True)
class Shape:
    """What of a model decides its memory."""

    parameters: int
    trained: int  # of a training; all of them where everything trains
    layers: int
    hidden: int
    queries: int  # heads x their size
    keys: int  # key-value heads x their size
    inner: int  # width of the gated layer, of all experts that a token visits


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU, by what takes them."""

    parts: dict[str, float]

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def __str__(self) -> str:
        shown = ", ".join(f"{name} {size / GIB:.1f}" for name, size in self.parts.items() if size)
        return f"about {self.total / GIB:.1f} GiB ({shown})"


def shape_of(config: Any, *, parameters: int, trained: int) -> Shape | None:
    """The shape by transformers' configuration; None for a model that is not of Llama's kind."""
    text = config.get_text_config()
    heads, hidden, layers = (
        getattr(text, name, None) for name in ("num_attention_heads", "hidden_size", "num_hidden_layers")
    )
    inner = _inner(text)
    if not (heads and hidden and layers and inner):
        return None
    size = getattr(text, "head_dim", None) or hidden // heads
    groups = getattr(text, "num_key_value_heads", None) or heads
    return Shape(parameters, trained, layers, hidden, heads * size, groups * size, inner)


def _inner(text: Any) -> int | None:
    experts, width = getattr(text, "num_experts_per_tok", None), getattr(text, "moe_intermediate_size", None)
    if experts and width:
        return int(experts * width)
    width = getattr(text, "intermediate_size", None)
    return int(width * (experts or 1)) if width else None


def weights(shape: Shape, *, dtype: str, engine: Engine) -> float:
    """Bytes of the weights on one GPU of an engine."""
    return shape.parameters * ITEM[dtype] / (engine.tensor_parallel * engine.pipeline_parallel)


def cache_of_a_token(shape: Shape, *, dtype: str, engine: Engine) -> float:
    """Bytes of keys and values of one token, on one GPU of an engine."""
    whole = 2 * shape.layers * shape.keys * ITEM[dtype]
    return whole / (engine.tensor_parallel * engine.pipeline_parallel)


def training(shape: Shape, settings: Training, *, longest: int) -> Need:
    """Bytes on one GPU of a worker that trains, when the fewest do; `longest`: tokens of the longest example."""
    item, workers, full = ITEM[settings.dtype], settings.fewest_workers, settings.tuning == "full"
    frozen = 0 if full else shape.parameters * (_FOUR_BITS if settings.tuning == "qlora" else item)
    held = (frozen + shape.trained * item) / (workers if settings.zero_stage == 3 else 1)
    gradients = shape.trained * 4 / (workers if settings.zero_stage >= 2 else 1)
    optimizer = shape.trained * 12 / (workers if settings.zero_stage >= 1 else 1)  # a copy and two moments in float32
    tokens = max(settings.tokens_used, longest)
    return Need(
        {
            "weights": 0 if settings.offload == "all" else held,
            "gradients": gradients,
            "optimizer": 0 if settings.offload != "none" else optimizer,
            "activations": activations(shape, settings, tokens=tokens),
            "head": _HEAD if settings.gpu else 0,
        }
    )


def activations(shape: Shape, settings: Training, *, tokens: int) -> float:
    """Bytes that a micro-batch of so many tokens keeps for its backward pass."""
    rank = 0 if settings.tuning == "full" else settings.lora.r
    if settings.kernels == "liger":
        layer = 4 * shape.hidden + 3 * shape.queries + 3 * shape.keys + 3 * shape.inner + 7 * rank
    else:
        layer = 14 * shape.hidden + 6 * shape.queries + 4 * shape.keys + 5 * shape.inner + 14 * rank
    kept = layer * shape.layers
    if settings.recomputation_used:
        kept = shape.hidden * shape.layers + layer  # the input of every layer, and all of the one that is recomputed
    if settings.recomputation_used == "selective":
        kept += shape.queries * shape.layers  # and what attention put out
    return float(kept * tokens * ITEM[settings.dtype])
