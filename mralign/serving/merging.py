"""An adapter is put on a model and merged into it, and each step is judged by what the model says.

A causal LM and the directory of a PEFT adapter enter; the same model with the adapter in its weights leaves. PEFT drops
weights that it has no place for, and a merge into a layer that shares its weights with another changes both. So the
adapter's file is compared with what the model holds afterwards, shared weights are told apart before the merge, and the
log-probabilities of a few tokens before the merge are compared with those after it.

Axes: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mralign.serving.probe import TOLERANCE

_SEQUENCES, _TOKENS = 2, 24
# Largest mean difference of a log-probability between an adapter beside the weights and in them. A merged weight is
# rounded once more; in float32 that is far less than what two implementations may differ by.
_ALLOWED = TOLERANCE | {"float32": 1e-4}


def with_adapter(model: Any, adapter: str) -> Any:
    """The PEFT model of `model` and the adapter in the directory `adapter`, every weight of whose file it holds.

    Raises ValueError where PEFT cannot read it, where it was made for another model, or where it cannot be merged.
    """
    from peft import PeftModel

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except (ValueError, RuntimeError, KeyError, TypeError, NotImplementedError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{_does_not_fit(adapter, model)}: {' '.join(said[:3])[:600]}") from error
    if not hasattr(adapted.base_model, "merge_and_unload"):
        kind = adapted.peft_config["default"].peft_type
        raise ValueError(f"the adapter {adapter} is of PEFT's kind {kind}, which cannot be merged; give a LoRA adapter")
    _check_all_taken(adapted, adapter)
    return adapted


def _does_not_fit(adapter: str, model: Any) -> str:
    return (
        f"the adapter {adapter} does not fit the model {model.config.name_or_path or model.config.model_type}; give "
        f"the adapter of this model, or merge it with the code that made it and give the merged model as model.path"
    )


def _check_all_taken(adapted: Any, adapter: str) -> None:
    """Raise ValueError unless the model holds what the adapter's file holds, no more and no less.

    Judged by the sum of all absolute values: transformers may rename or fuse weights when it loads them. What PEFT left
    out is missing in that sum, and what it made up, because the file lacks it, is too much.
    """
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    given = load_peft_weights(adapter, device="cpu")
    base = adapted.state_dict()
    whole = {name: value for name, value in given.items() if name in base}  # embedding layers saved beside the adapter
    changed = [name for name, value in whole.items() if not _same(base[name], value)]
    expected = _mass(value for name, value in given.items() if name not in whole)
    held = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    found = _mass(value for name, value in held.items() if name not in whole)
    if changed or abs(found - expected) > 1e-3 * max(found, expected, 1e-6):
        odd = changed or sorted(set(given) ^ set(held))
        said = f"{len(odd)} weights are in one of them only" if odd else "weights differ"
        raise ValueError(f"{_does_not_fit(adapter, adapted)}: {said} {', '.join(odd[:2])}")


def _mass(values: Iterable[Tensor]) -> float:
    return sum(float(value.detach().double().abs().sum()) for value in values)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.cpu(), other.cpu().to(one.dtype))


def merge(adapted: Any, *, kind: str) -> Any:
    """The model with its adapter in its weights. `kind`: the dtype, or `4bit`, by which rounding is judged.

    Raises ValueError if the merged model does not say what the model with the adapter beside it said.
    """
    before_BTV = token_logps(adapted)
    ties = [(config, bool(getattr(config, "tie_word_embeddings", False))) for config in _configs(adapted)]
    _tell_apart(adapted)
    try:
        merged = adapted.merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the adapter cannot be merged: {error}. Merge it with the code that made it and give the merged model as "
            f"model.path"
        ) from error
    _tie_or_say_so(merged, ties=ties)
    away = mean_difference(token_logps(merged), before_BTV)
    if not away <= _ALLOWED[kind]:  # nan is a fault as well
        raise ValueError(
            f"merging the adapter changes what the model says: its log-probabilities differ by {away:.3g} a token from "
            f"those with the adapter beside the weights (allowed for {kind}: {_ALLOWED[kind]:g}). Give "
            f"model.dtype=float32, or merge it with the code that made it and give the merged model as model.path"
        )
    return merged


def _tell_apart(adapted: Any) -> None:
    """Give every adapted layer weights of its own where another module holds the very same ones (tied embeddings)."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    holders: dict[int, int] = {}
    for module in adapted.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for layer in (module for module in adapted.modules() if isinstance(module, BaseTunerLayer)):
        inner = layer.get_base_layer()
        for name, parameter in list(inner._parameters.items()):
            if parameter is not None and holders[id(parameter)] > 1:
                own = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
                setattr(inner, name, own)
                holders[id(parameter)] -= 1


def _configs(model: Any) -> list[Any]:
    """The configuration of the model, and that of its text model where it is another."""
    text = model.config.get_text_config()
    return [model.config] if text is model.config else [model.config, text]


def _tie_or_say_so(model: Any, *, ties: Sequence[tuple[Any, bool]]) -> None:
    """Share the embedding again where it was shared (`ties`) and the head still equals it; else say in the
    configuration that it is not shared: whoever loads the saved model would share it."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None or not any(tied for _, tied in ties):
        return
    equal = embedding.weight.shape == head.weight.shape and torch.equal(embedding.weight, head.weight)
    if equal:
        head.weight = embedding.weight
    for config, tied in ties:
        config.tie_word_embeddings = tied and equal


def token_logps(model: Any) -> Tensor:
    """log p of every token after every token of fixed sequences, (B, T, V) float32 on the CPU.

    Computed with eager attention, which every model has on every device; training may use another.
    """
    config = model.config.get_text_config()
    sizes = torch.arange(_SEQUENCES * _TOKENS).reshape(_SEQUENCES, _TOKENS)
    ids_BT = (sizes * 7919 + 13) % int(config.vocab_size)
    device = next(parameter.device for parameter in model.parameters())
    training = model.training
    model.eval()
    with torch.no_grad(), _eager(model):
        scores_BTV = model(input_ids=ids_BT.to(device), use_cache=False).logits
    model.train(training)
    logp_BTV: Tensor = scores_BTV.float().log_softmax(dim=-1).cpu()
    return logp_BTV


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    used = getattr(inner.config, "_attn_implementation", None)
    if used in (None, "eager") or not hasattr(inner, "set_attn_implementation"):
        yield
        return
    inner.set_attn_implementation("eager")
    try:
        yield
    finally:
        inner.set_attn_implementation(used)


def mean_difference(one_BTV: Tensor, other_BTV: Tensor) -> float:
    """Mean absolute difference, each token weighted by its probability: what a sampler could notice."""
    weight_BTV = (one_BTV.exp() + other_BTV.exp()) / 2
    return float((weight_BTV * (one_BTV - other_BTV).abs()).sum(dim=-1).mean())
