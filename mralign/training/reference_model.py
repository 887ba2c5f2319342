"""Which model is pi_ref, and what of the configuration its log-probabilities depend on.

A configuration enters; the model leaves, and the settings that count for what it says. It is the model that is trained,
as it was before, or the one that `training.reference` names: so later rounds keep the model before the first one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mralign.chat.model_files import load_tokenizer, tokenizer_path
from mralign.config import Model, RunConfig, Training, named, resolve_path
from mralign.training.rope import check_positions

# Settings of a training that change neither a log-probability of the base model nor which pairs are scored.
OPTIMIZER = (
    *("training.method", "training.learning_rate", "training.warmup_ratio", "training.weight_decay"),
    *("training.max_grad_norm", "training.beta", "training.lambda_chosen", "training.lambda_rejected"),
    *("training.kl_ema", "training.lora", "training.zero_stage", "training.offload"),
)


def as_scored(settings: Training) -> Training:
    """The settings as the reference reads them: what trains the model does not change it, unless it is in 4 bits."""
    tuning: Any = "qlora" if settings.tuning == "qlora" else "lora"
    return settings.resolved.model_copy(update={"tuning": tuning})


def reference_model(config: RunConfig) -> Model:
    """The model that is pi_ref."""
    return config.training.reference or config.model


def reference_reads(config: RunConfig, *, paired: bool) -> dict[str, Any]:
    """What of the configuration a reference depends on, `paired` where the objective has mismatched pairs."""
    unpaired = {} if paired else {"pairs": "none", "kl_every": 1, "kl_pairs": None}
    settings = as_scored(config.training).model_copy(update={**unpaired, "reference": None})
    return {"training": settings, "model": reference_model(config), **named(config, "run.seed")}


def check_reference(config: RunConfig) -> None:
    """Raise ValueError for positions that the model does not have, and for a reference on this machine that is not
    there or has another tokenizer: as long as nothing is paid for. One that lies elsewhere is looked at when it is
    scored."""
    check_positions(config)
    if config.training.reference is None:
        return
    given = config.training.reference.path
    place = resolve_path(given)
    if "://" in place:
        return
    if place.startswith(("/", "./", "../")) and not Path(place).is_dir():
        raise ValueError(
            f"training.reference.path={given} does not exist; give a model directory or a hub name, or leave "
            f"training.reference out"
        )
    if all(Path(path).is_dir() for path in (place, resolve_path(config.model.path))):
        check_same_tokens(config)


def to_score(config: RunConfig) -> Model:
    """The model that is pi_ref, when it is about to be scored. Raises ValueError if its tokenizer is another."""
    check_same_tokens(config)
    return reference_model(config)


def check_same_tokens(config: RunConfig) -> None:
    """Raise ValueError for a reference whose tokenizer is another: it would score other texts than those trained on."""
    model, reference = config.model, reference_model(config)
    if reference is model:
        return
    own, other = (load_tokenizer(tokenizer_path(one), model=one, dated=False).get_vocab() for one in (model, reference))
    if own != other:
        raise ValueError(
            f"training.reference.path={reference.path} has another tokenizer than model.path={model.path}; give a "
            f"model with the same one, or leave training.reference out"
        )
