"""Where the time of an optimizer step goes, by torch's profiler.

    python tests/benchmarks/step_profile.py [--quick | --gpu] [--steps 3] [--memory auto] [--kept DIR]

The models, lengths and settings of training.py; KTO with pairs drawn anew, the reference scored before. The steps after
the first are profiled. Every operation counts for one group by where it stands: attention (with the rotary embedding),
LoRA products (one side has the adapter's rank), norms, the other products of the layers with the MLP's activation, the
head, the optimizer with DeepSpeed's copies around it. What is left of the wall clock, and other operations, is gaps.
On a GPU times are those of its kernels. On a CPU profiling itself takes time, which counts as gaps. --dry measures
nothing: it says with which settings it would.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _training_sides import ON_GPU, loaded_model, our_settings, referenced  # noqa: E402
from training import GPU, QUICK, SMALL, prepared  # noqa: E402

GROUPS = ("attention", "LoRA products", "norms", "MLP and base products", "head", "optimizer", "gaps and other")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::linear")  # two axes each; bmm is attention's
MARK = "group: "
# By a part of the name of an operation or of what called it; the first that fits.
NAMED = {
    "_FrozenHead": "head",
    "head_logps": "head",
    "Optimizer.step": "optimizer",
    "scaled_dot_product": "attention",
    "flash_attention": "attention",
    "varlen_attn": "attention",
    "RMSNorm": "norms",
    "SiLUMul": "MLP and base products",
    "Rope": "attention",
}
MODULES = {"Norm": "norms", "MLP": "MLP and base products", "Attention": "attention"}  # by the end of their class


def watch(model):
    """From now on every norm, MLP and attention of `model` is a range of the profiler's, named by its group."""
    from torch.profiler import record_function

    for module in model.modules():
        group = next((group for end, group in MODULES.items() if type(module).__name__.endswith(end)), None)
        if group is None:
            continue

        def forward(*args, plain=module.forward, mark=MARK + group, **kwargs):
            with record_function(mark):
                return plain(*args, **kwargs)

        module.forward = forward


def lineage(event):
    """The event and what it is part of, from the inside out."""
    while event is not None:
        yield event
        event = event.cpu_parent


def by_place(event):
    """The group by the ranges and functions in which an event stands, or None."""
    for one in lineage(event):
        if one.name.startswith(MARK):
            return one.name.removeprefix(MARK)
        for part, group in NAMED.items():
            if part in one.name:
                return group
    return None


def has_size(event, size):
    """Whether a matrix that enters has an axis of this size."""
    matrices = (shape for shape in event.input_shapes or [] if isinstance(shape, list | tuple) and len(shape) == 2)
    return any(size in shape for shape in matrices)


def group_of(event, *, rank, vocabulary, forward):
    """The group of an operation. `forward`: groups by the sequence number of a forward operation, which its backward
    pass has too."""
    place = by_place(event)
    if place in ("head", "optimizer"):
        return place
    product = event.name in PRODUCTS
    inside_attention = any("scaled_dot_product" in one.name for one in lineage(event))
    if product and not inside_attention:
        if has_size(event, vocabulary):
            return "head"
        return "LoRA products" if has_size(event, rank) else "MLP and base products"
    if place is not None:
        return place
    numbers = [one.sequence_nr for one in lineage(event) if one.sequence_nr >= 0]
    return next((forward[number] for number in numbers if number in forward), "gaps and other")


def shares(events, *, seconds, gpu, rank, vocabulary):
    """Share of the wall clock by group; they sum to 1."""
    forward = {}
    for event in events:
        place = by_place(event)
        if place is not None and event.sequence_nr >= 0 and "Backward" not in event.name:
            forward[event.sequence_nr] = place
    found = dict.fromkeys(GROUPS, 0.0)
    for event in events:
        own = event.self_device_time_total if gpu else event.self_cpu_time_total
        found[group_of(event, rank=rank, vocabulary=vocabulary, forward=forward)] += own / 1e6
    whole = max(seconds, sum(found.values()))  # kernels of two streams may overlap
    found["gaps and other"] += whole - sum(found.values())
    return {group: value / whole for group, value in found.items()}


def profile_steps(engine, task, *, steps, vocabulary):
    """Shares by group, and seconds a step, of the steps after the first."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from mralign.training import loop
    from mralign.training.engine import World

    watch(engine.module)
    update, settings = engine.step, task.settings

    def step():
        with record_function(MARK + "optimizer"):
            update()

    engine.step = step
    z0 = loop.optimizer_step(engine, task, 0, world=World(), previous_z0=None)[1]
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if settings.gpu else [])]
    with profile(activities=activities, record_shapes=True) as seen:
        began = time.perf_counter()
        for number in range(1, steps + 1):
            z0 = loop.optimizer_step(engine, task, number % len(task.plan), world=World(), previous_z0=z0)[1]
        if settings.gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    given = {"gpu": settings.gpu, "rank": settings.lora.r, "vocabulary": vocabulary}
    return shares(seen.events(), seconds=seconds, **given), seconds / steps


def profiled(home, settings, *, steps, vocabulary):
    """The same of the model and the examples in `home`."""
    from mralign.training.engine import World, start_engine
    from mralign.training.memory_choice import settle_memory

    sources, policy = loaded_model(home, settings)
    with tempfile.TemporaryDirectory() as work:
        task, _ = referenced(sources, policy, work=work)
        engine = start_engine(policy, settings, rate=task.rate, world=World())
        task, _ = settle_memory(engine, task, world=World())
        return profile_steps(engine, task, steps=steps, vocabulary=vocabulary)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    for name, shape in {"quick": QUICK, "gpu": GPU}.items():
        size.add_argument(f"--{name}", action="store_const", const=shape, dest="shape")
    parser.set_defaults(shape=SMALL)
    parser.add_argument("--steps", type=int, default=3, help="so many are profiled")
    parser.add_argument("--memory", help="training.memory, in place of the size of micro-batches")
    parser.add_argument("--kept", type=Path, help="a directory for model and examples, as in training.py")
    parser.add_argument("--dry", action="store_true", help="measure nothing")
    args = parser.parse_args()
    shape = args.shape
    given = {"epochs": shape.epochs, "batch_size": shape.batch, **(ON_GPU if shape.gpu else {})}
    if args.memory:
        given |= {"memory": args.memory, "micro_batch_tokens": None}
    settings = our_settings(given)
    if args.dry:
        print(json.dumps(settings.model_dump(mode="json")))
        return
    with prepared(shape, kept=args.kept) as (home, *_):
        found, seconds = profiled(home, settings, steps=args.steps, vocabulary=shape.vocabulary)
    for group, share in found.items():
        print(f"{group:24} {share:6.1%} {share * seconds:8.3f} s a step")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    figures = {"seconds_a_step": seconds, "memory": args.memory}
    print(json.dumps({"benchmark": "step_profile", "ratios": found, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
