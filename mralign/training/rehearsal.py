"""The end of a training, tried on the untrained model before its first step.

A configuration enters; nothing leaves, or the reason why the end would fail. A model of up to 2 GiB goes the whole way:
a policy is built, its adapter moved a little, saved, merged, written, loaded again and compared. Of a larger one, whose
copies would take minutes and a disk, only what has no weights is tried: adapter and merge on a model without memory,
and the files beside the weights. The hub and the room on the disks are looked at for both.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from mralign.chat.model_files import copy_companions, load_tokenizer, model_path, weight_files, weight_shapes
from mralign.config import RunConfig, Training, resolve_path
from mralign.run.reach import is_far
from mralign.run.store import Directory
from mralign.training.card import model_card
from mralign.training.checkpoint import WEIGHTS
from mralign.training.export import check_hub, save_result
from mralign.training.modules import adapt
from mralign.training.policy import build_policy

_WHOLE_UP_TO = 2 * 2**30  # bytes of weights
_CHECKPOINTS = 3  # on the disk at once: two are kept while the next is written
_ITEM = {"float32": 4, "bfloat16": 2, "float16": 2}


def rehearse(config: RunConfig, *, figures: Mapping[str, Any], fingerprint: str) -> None:
    """Raise ValueError for what would keep the model from being written, merged, loaded or pushed at the end.

    `figures`: what the card shows besides those of the last step.
    """
    lacking = lacking_room(config)
    if lacking:
        raise ValueError("; ".join(lacking))
    adapter = config.training.tuning != "full"
    shown = {**figures, "steps": 0, "last": {}, "workers_changed": []}
    card = model_card(config, data={}, figures=shown, fingerprint=fingerprint, adapter=adapter)
    if config.training.push_to:
        check_hub(config, card=card)
    try:
        with tempfile.TemporaryDirectory(prefix="mralign-rehearsal-") as directory:
            _try_end(config, Path(directory))
    except Exception as error:  # transformers, PEFT, safetensors: each has exceptions of its own
        raise ValueError(
            f"nothing is trained yet, for the trained model could not be written: {type(error).__name__}: {error}\n"
            f"Mend that in {config.model.path} or in the settings, and run the same command again"
        ) from error


def _try_end(config: RunConfig, directory: Path) -> None:
    target = directory / "model"
    target.mkdir()
    if _weight_bytes(model_path(config.model)) <= _WHOLE_UP_TO:
        _whole(config, weights=directory / WEIGHTS, target=target)
    else:
        _without_weights(config, target)
    load_tokenizer(str(target), model=config.model)


def _plain(settings: Training) -> Training:
    """The settings on a CPU: what they change about the computation does not change what is saved."""
    changes: dict[str, Any] = {"gpu": False, "kernels": "torch", "attention": "eager", "packing": "off"}
    changes |= {"zero_stage": min(settings.zero_stage, 2), "gradient_checkpointing": False}
    changes |= {"tuning": "lora"} if settings.tuning == "qlora" else {}
    return settings.model_copy(update=changes)


def _whole(config: RunConfig, *, weights: Path, target: Path) -> None:
    settings = _plain(config.training)
    policy = build_policy(config.model, settings, seed=0)
    if settings.tuning != "full":
        _move_a_little(policy)  # a fresh adapter changes nothing: its merge could not go wrong
    policy.model.save_pretrained(weights)
    del policy
    save_result(config, weights, target=target, full=settings.tuning == "full")


@torch.no_grad()
def _move_a_little(policy: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype), alpha=0.01)


def _without_weights(config: RunConfig, target: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    place, trusted = model_path(config.model), config.model.trust_remote_code
    shape = AutoConfig.from_pretrained(place, trust_remote_code=trusted)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape, trust_remote_code=trusted)
        if config.training.tuning != "full":
            adapt(model, _plain(config.training)).merge_and_unload()
    shape.save_pretrained(target)
    copy_companions(place, target=target, trust_remote_code=trusted)


def lacking_room(config: RunConfig) -> list[str]:
    """Sentences on the disks that have no room for what the training leaves; none where that cannot be known."""
    parameters = _parameters(resolve_path(config.model.path))
    model = parameters * _ITEM[config.model.dtype]
    kept = 0
    if config.training.tuning == "full":  # weights, and in float32 a copy of them and both moments
        kept = _CHECKPOINTS * parameters * (_ITEM[config.training.dtype] + 12)
    wanted = [(tempfile.gettempdir(), model + kept // _CHECKPOINTS, "TMPDIR")]
    if not is_far(config.run.dir):
        wanted.append((_existing(Directory(config.run.dir).path()), model + kept, "run.dir"))
    needed: dict[int, int] = {}
    for place, size, _ in wanted:
        needed[os.stat(place).st_dev] = needed.get(os.stat(place).st_dev, 0) + size
    found = []
    for place, _, setting in wanted:
        size, free = needed.pop(os.stat(place).st_dev, 0), shutil.disk_usage(place).free
        if size > free:
            found.append(
                f"what the training leaves takes about {size / 2**30:.1f} GiB, and the disk of {place} has "
                f"{free / 2**30:.1f} GiB free: make room, or give {setting} a place on a larger one"
            )
    return found


def _existing(path: str) -> str:
    place = Path(path)
    while not place.exists():
        place = place.parent
    return str(place)


def _weight_bytes(path: str) -> float:
    """Bytes of the weights; infinite where they are not on this machine."""
    return sum(file.stat().st_size for file in weight_files(path)) or float("inf")


def _parameters(path: str) -> int:
    """Numbers in the *.safetensors files of a local directory, by their headers; 0 where there are none."""
    total = 0
    for file in weight_files(path):
        total += sum(map(prod, weight_shapes(file).values()))
    return total
