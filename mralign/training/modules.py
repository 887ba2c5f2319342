"""Which parts of a model train, how many parameters that is, and what is left out.

The settings and a model's configuration file enter; the model is built without weights (on torch's meta device) and
adapted as the trained one will be, so that what PEFT refuses is refused before anything has run, and a few lines that
say what trains leave.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mralign.config import Model, RunConfig, Training
from mralign.training.rope import local_config

_BULK = 0.5  # of the linear parameters of the layers: more than that left out is worth a warning
_TOLD = 0.02  # smaller groups are not listed
_LAYER = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class Left:
    """Parameters of one kind, in all layers, that do not train. `name`: of the parameter, inside a layer; `fused`: no
    linear layer owns it."""

    name: str
    fused: bool
    parameters: int


@dataclass(frozen=True)
class Trained:
    """What trains: names without the layers' numbers; counts of parameters. `linear`: of all matrices of the layers;
    `chosen`: the user has named the linear layers, so that what is left out of them is meant."""

    names: tuple[str, ...]
    layers: int
    parameters: int
    model: int
    linear: int
    left: tuple[Left, ...]
    chosen: bool = False

    @property
    def left_share(self) -> float:
        """The share of the layers' matrices that stay as they are."""
        return sum(group.parameters for group in self.left) / max(self.linear, 1)


def adapter_config(settings: Training, *, without: Sequence[str] = ()) -> Any:
    """PEFT's configuration of the adapter that is trained. all-linear leaves the head out, and modules `without`."""
    from peft import LoraConfig

    lora = settings.lora
    modules = lora.target_modules
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        use_dora=settings.tuning == "dora",
        target_modules=modules if isinstance(modules, str) else list(modules),
        exclude_modules=list(without) or None,
        target_parameters=list(lora.target_parameters) or None,
        modules_to_save=list(lora.modules_to_save) or None,
        task_type="CAUSAL_LM",
    )


def adapt(base: Any, settings: Training, *, empty: bool = False) -> Any:
    """`base` with a fresh adapter. `empty`: the adapter has no weights either.

    Raises ValueError for names that the model does not have, and for what PEFT refuses, with names that it takes.
    """
    from peft import get_peft_model

    lora, modules, linear = settings.lora, [name for name, _ in base.named_modules()], _linear_layers(base)
    _check_names("target_parameters", lora.target_parameters, there=[name for name, _ in base.named_parameters()])
    _check_names("modules_to_save", lora.modules_to_save, there=modules)
    named = [] if isinstance(lora.target_modules, str) else list(lora.target_modules)
    chosen: list[str] = []
    for wanted in (*named, *lora.modules_to_save):
        chosen += _matching(wanted, modules)
    _check_tied(base, dict.fromkeys(chosen))
    odd = _odd_linear(base)
    _check_linear(named, odd=odd)
    config = adapter_config(settings, without=odd)
    try:
        policy = get_peft_model(base, config, low_cpu_mem_usage=empty)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        advice = _advice(linear, error)
        raise ValueError(f"PEFT cannot adapt this model as training.lora asks: {error}{advice}") from error
    # PEFT takes names of experts that transformers has fused since for what they have become: those are gone here.
    _check_names("target_modules", [name for name in named if name in config.target_modules], there=modules)
    return policy


def _advice(linear: Sequence[str], error: Exception) -> str:
    """Names of linear layers that PEFT's refusal does not name."""
    names = sorted({_short(name) for name in linear})
    taken = [name for name in names if f"'{name}'" not in str(error)]
    return f"; name the layers to adapt, among them training.lora.target_modules={_listed(taken)}" if taken else ""


def _linear_layers(base: Any) -> list[str]:
    """Names of the linear layers that all-linear stands for."""
    from transformers.pytorch_utils import Conv1D

    head, odd = base.get_output_embeddings(), set(_odd_linear(base))
    return [
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head and name not in odd
    ]


def _odd_linear(base: Any) -> list[str]:
    """Names of modules whose class is derived from a linear layer's and computes something else, such as routers that
    return several tensors: PEFT would take them for linear layers."""
    linear = [(name, module) for name, module in base.named_modules() if isinstance(module, torch.nn.Linear)]
    return [name for name, module in linear if not _acts_linear(module)]


@torch.no_grad()
def _acts_linear(module: torch.nn.Linear) -> bool:
    """Whether one vector gives one vector."""
    if type(module).forward is torch.nn.Linear.forward:
        return True
    weight = module.weight
    dtype = weight.dtype if weight.is_floating_point() else torch.float32  # quantised layers take plain numbers
    try:
        found: Any = module(torch.zeros(1, module.in_features, device=weight.device, dtype=dtype))
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    return isinstance(found, torch.Tensor) and found.shape == (1, module.out_features)


def _check_linear(wanted: Sequence[str], *, odd: Sequence[str]) -> None:
    unfit = [name for name in wanted if _matching(name, odd)]
    if unfit:
        raise ValueError(
            f"training.lora.target_modules names {_listed(unfit)}, which are no linear layers in this model: their "
            f"result is not one vector; leave them out"
        )


def _check_names(field: str, wanted: Sequence[str], *, there: Sequence[str]) -> None:
    missing = [name for name in wanted if not _matching(name, there)]
    if missing:
        kinds = dict.fromkeys(_without_layer(name) for name in there if _LAYER.search(name))
        raise ValueError(
            f"training.lora.{field} names {_listed(missing)}, which this model does not have; in its layers there are "
            f"{', '.join(kinds)}"
        )


def _check_tied(base: Any, chosen: Iterable[str]) -> None:
    """One of two tied layers cannot be changed alone: the model would be saved with both or neither."""
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    if None in ends or not base.config.get_text_config().tie_word_embeddings:
        return
    tied = [name for name in chosen if base.get_submodule(name) in ends]
    if tied:
        raise ValueError(
            f"training.lora names {_listed(tied)}, but this model ties its input embeddings and its head: what is "
            f"trained of one would have to change the other; leave both out"
        )


def _matching(name: str, there: Sequence[str]) -> list[str]:
    return [known for known in there if known == name or known.endswith(f".{name}")]


def trained(settings: Training, *, config: Any, trust_remote_code: bool = False) -> Trained:
    """What of a model of this (transformers') configuration trains. Builds no weights.

    Raises ValueError as `adapt` does.
    """
    base = _empty_model(config, trust_remote_code=trust_remote_code)
    sizes = {name: parameter.numel() for name, parameter in base.named_parameters()}
    order = [name for name, _ in base.named_modules()] + list(sizes)
    matrices, layers = _matrices(base), set(_linear_layers(base))
    whole = sum(sizes.values())
    if settings.tuning == "full":
        return Trained(("everything",), _layers(sizes), whole, whole, sum(sizes[name] for name in matrices), ())
    policy = adapt(base, settings, empty=True)
    adapted = {*policy.base_model.targeted_module_names, *policy.base_model.targeted_parameter_names}
    saved: set[str] = set()
    for wanted in settings.lora.modules_to_save:
        saved.update(_matching(wanted, order))
    touched = [name for name in order if name in adapted | saved]
    left: Counter[tuple[str, bool]] = Counter()
    for name in matrices:
        owner = name.rpartition(".")[0]
        in_saved = any(name.startswith(f"{module}.") for module in saved)
        if not in_saved and not adapted & {name, owner}:
            left[_without_layer(name), owner not in layers] += sizes[name]
    return Trained(
        names=tuple(dict.fromkeys(_without_layer(name) if name in sizes else _short(name) for name in touched)),
        layers=_layers(touched),
        parameters=sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad),
        model=whole,
        linear=sum(sizes[name] for name in matrices),
        left=tuple(Left(name, fused, size) for (name, fused), size in left.most_common()),
        chosen=settings.lora.target_modules != "all-linear",
    )


def count_parameters(config: Any, *, trust_remote_code: bool = False) -> int:
    """Parameters of a model of this (transformers') configuration. Builds no weights."""
    base = _empty_model(config, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in base.parameters())


def _empty_model(config: Any, *, trust_remote_code: bool) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _matrices(base: Any) -> list[str]:
    """Names of the parameters of the layers that multiply: two axes and more, no embedding, no head, no convolution."""
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    convolutions = [module for module in base.modules() if isinstance(module, torch.nn.Conv1d | torch.nn.Conv2d)]
    excluded: set[int] = set()
    for module in [*ends, *convolutions]:
        if module is not None:
            excluded.update(map(id, module.parameters()))
    return [
        name
        for name, parameter in base.named_parameters()
        if parameter.dim() >= 2 and id(parameter) not in excluded and _LAYER.search(name)
    ]


def _layers(names: Iterable[str]) -> int:
    """How many numbered layers these names lie in."""
    found = set()
    for name in names:
        number = _LAYER.search(name)
        if number:
            found.add(name[: number.end()])
    return len(found)


def _without_layer(name: str) -> str:
    """A name as it reads inside a layer: `model.layers.3.mlp.up_proj` -> `mlp.up_proj`; deeper numbers become *."""
    number = _LAYER.search(name)
    inside = name[number.end() :] if number else name
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", inside)


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"


def _count(number: int) -> str:
    """1234567 -> 1.2 M."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(number)


def lines(found: Trained) -> list[str]:
    """What trains and what does not, for a reader."""
    names = ", ".join(found.names)
    told = [f"trains: {names} in {found.layers} layers, {_count(found.parameters)} of {_count(found.model)} parameters"]
    groups = [group for group in found.left if group.parameters > _TOLD * found.linear]
    if groups:
        shown = ", ".join(_group(group) for group in groups)
        told.append(f"not trained: {shown}{_reached_by(groups, chosen=found.chosen)}")
    return told


def _group(group: Left) -> str:
    kind = "fused, " if group.fused else ""
    return f"{group.name} ({kind}{_count(group.parameters)})"


def warning(found: Trained) -> str | None:
    """What to say where all-linear leaves most of the layers' linear parameters as they are."""
    if found.chosen or found.left_share <= _BULK:
        return None
    return f"{found.left_share:.0%} of the linear parameters of the layers do not train. " + "; ".join(lines(found))


def _reached_by(groups: Sequence[Left], *, chosen: bool) -> str:
    """The setting that reaches what is left out. PEFT leaves linear layers out of all-linear whose name it takes for
    that of an expert; as parameters it takes all."""
    names = [group.name for group in groups if group.fused or not chosen]
    return f"; training.lora.target_parameters={_listed(names)} would reach what is left out" if names else ""


def of_run(config: RunConfig) -> Trained | None:
    """What trains in this run; None where the model's configuration is not on this machine."""
    known = local_config(config.model)
    if known is None:
        return None
    return trained(config.training, config=known, trust_remote_code=config.model.trust_remote_code)


def tell(config: RunConfig) -> list[str]:
    """The lines for the plan."""
    found = of_run(config)
    return [_unknown(config.model)] if found is None else lines(found)


def _unknown(model: Model) -> str:
    return f"trains: unknown, {model.path} is no directory here and not in the hub's cache"
