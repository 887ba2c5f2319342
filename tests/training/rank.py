"""One rank of training runs: model, output directory, settings by name as JSON. A program, started by other tests."""

import json
import os
import sys
import traceback
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import torch
from sent import counted
from tiny_policy import make_task, settings

from mralign.training import engine as engines
from mralign.training import lora
from mralign.training.begin import begin
from mralign.training.checkpoint import save_checkpoint
from mralign.training.engine import World, prepare_process
from mralign.training.loop import train
from mralign.training.memory_choice import settle_memory
from mralign.training.reader import Reader
from mralign.training.write_probe import write_probe

EPSILON = 1e-3
MOMENTS = ("exp_avg", "exp_avg_sq")


class Enough(Exception):
    """A training is left in the middle, after a checkpoint."""


def spoil(by):
    """From now on every reference value is off."""
    fetch = Reader.fetch

    def spoilt(self, places):
        found = fetch(self, places)
        for example in found:
            object.__setattr__(example, "reference_T", example.reference_T + np.float32(by))
        return found

    Reader.fetch = spoilt


def run_out(after):
    """The `after`-th backward pass through an adapted layer finds no memory, once."""
    plain, passes = lora._LoraLinear.backward, count(1)

    def backward(ctx, *gradients):
        if next(passes) == after:
            raise torch.OutOfMemoryError("tried to allocate 1.00 GiB")
        return plain(ctx, *gradients)

    lora._LoraLinear.backward = staticmethod(backward)


def configure(*, keep_whole):
    """Change DeepSpeed's configuration for a small model; returns the function that makes it, to be put back.

    Adam's epsilon is raised to the size of the gradients: with the usual 1e-8 a gradient that is nothing but rounding
    moves its weight by a whole step, in a direction that differs from one CPU to the next. These tensors are so small
    that ZeRO-3 would keep them whole; unless `keep_whole` it cuts them all the same.
    """
    plain = engines.deepspeed_config

    def changed(settings, **rest):
        config = plain(settings, **rest)
        config["optimizer"]["params"]["eps"] = EPSILON
        if not keep_whole:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        return config

    engines.deepspeed_config = changed
    return plain


def gradients(engine):
    """The gradients of the whole batch by name, as they are when the step begins."""
    from deepspeed.utils import safe_get_full_grad

    found = {name: safe_get_full_grad(p) for name, p in engine.module.named_parameters() if p.requires_grad}
    return {name: values.float().cpu().numpy() for name, values in found.items() if values is not None}


def remembered(engine):
    """What the optimizer holds of every trained parameter, whole, by name: as DeepSpeed's own functions give it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    link = getattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state", None)
    if link:  # else ZeRO 1 and 2 do so after the next step
        link()
    found = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        state = engine.optimizer.state.get(parameter)
        if state is not None:  # nothing is cut up (ZeRO 0)
            found[f"{name} fp32"] = parameter.detach()
            found |= {f"{name} {key}": state[key] for key in MOMENTS}
            continue
        found[f"{name} fp32"] = safe_get_full_fp32_param(parameter)
        found |= {f"{name} {key}": safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
    found["steps"] = next(iter(engine.optimizer.state.values()))["step"]
    return {name: values.detach().cpu().numpy().copy() for name, values in found.items()}


def note(engine, place, *, world):
    """Write what the optimizer remembers. Call on all ranks."""
    found = remembered(engine)
    if world.rank == 0:
        np.savez(place, **found)


def run(name, *, model, home, changes, world):
    """Train one variant into `home`/`name`."""
    target = home / name
    changes = {"epochs": 3, "workers": world.size, **changes}
    plain = configure(keep_whole=not changes.pop("gather_all", False))
    spoilt, stop_after = changes.pop("spoil_reference", None), changes.pop("stop_after", None)
    checkpoint, runs_out_after = changes.pop("checkpoint", None), changes.pop("runs_out_after", None)
    task = make_task(target / f"home-{world.rank}", model, **changes)
    if spoilt is not None:
        spoil(spoilt)
    engine, state = begin(task, world=world, checkpoint=Path(checkpoint) if checkpoint else None)
    engines.deepspeed_config = plain
    task, choice = settle_memory(engine, task, world=world)
    state.memory = choice.figures() if choice else {}
    if runs_out_after:
        run_out(runs_out_after)
    if checkpoint:
        note(engine, target / "taken.npz", world=world)
    step = engine.step

    def first_step():
        found = gradients(engine)
        if world.rank == 0:
            np.savez(target / "gradients.npz", **found)
        engine.step = step
        step()

    engine.step = first_step

    def save(state):
        save_checkpoint(engine, state, target, world=world)
        write_probe(engine, task, world=world, directory=target)
        if state.step == stop_after:
            note(engine, target / "left.npz", world=world)
            raise Enough

    steps = []
    with suppress(Enough), counted(steps):
        train(engine, task, world=world, state=state, save=save)
    if world.rank == 0:
        (target / "sent.json").write_text(json.dumps(steps))
    engine.destroy()


if __name__ == "__main__":
    model, home, variants = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    prepare_process(settings(gpu=any(changes.get("gpu") for changes in variants.values())))
    world = World(rank=int(os.environ["RANK"]), size=int(os.environ["WORLD_SIZE"]))
    for name, changes in variants.items():
        try:
            run(name, model=model, home=home, changes=changes, world=world)
        except Exception:
            if "GO_ON" not in os.environ:
                raise
            (home / name / "failed").write_text(traceback.format_exc())
    if world.rank == 0:
        (home / "compiler").write_text(str("torch._inductor.compile_fx" in sys.modules))
