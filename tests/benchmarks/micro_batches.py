"""What `training.memory` chooses under several limits, and what the steps then take: predicted beside measured.

    python tests/benchmarks/micro_batches.py [--quick | --gpu] [--memory 40GiB 26GiB auto] [--kept DIR]

The models and examples of training.py. For every limit a process of its own loads the model, chooses, and makes three
optimizer steps. `predicted` and `peak` count what comes beyond the loaded model and its optimizer, in MiB: on a GPU by
its allocator, else by the tensors that live together; `whole` is all that a GPU's allocator gave out, `reserved` all
that it took. `seconds`: of a step after the first, with its MFU on a GPU whose peak is known; `choosing`: of the
measuring. A limit under which the longest sequence does not fit is refused, and so told. --dry measures nothing: it
says with which settings it would.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "benchmarks")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _training_sides import ON_GPU, loaded_model, our_settings, referenced  # noqa: E402
from training import GPU, QUICK, SMALL, prepared  # noqa: E402

LIMITS = {True: ("26GiB", "auto", "40GiB"), False: ("auto", "1300MiB", "1000MiB")}
TIMED = 2  # steps after the first


def chosen(home, settings):
    """What one limit leads to."""
    from mralign.training.engine import World, start_engine

    sources, policy = loaded_model(home, settings)
    with tempfile.TemporaryDirectory() as work:
        task, _ = referenced(sources, policy, work=work)
        return choose_and_step(start_engine(policy, settings, rate=task.rate, world=World()), task)


def choose_and_step(engine, task):
    """The same of an engine before its first step."""
    import torch

    from mralign.training import loop, step_figures
    from mralign.training.engine import World
    from mralign.training.guards import TrainingStopped
    from mralign.training.live_bytes import peak_bytes
    from mralign.training.memory_choice import settle_memory

    gpu = task.settings.gpu
    began = time.perf_counter()
    try:
        task, choice = settle_memory(engine, task, world=World())
    except TrainingStopped as refused:
        return {"refused": str(refused)}
    choosing = time.perf_counter() - began

    def step(number):
        loop.optimizer_step(engine, task, number % len(task.plan), world=World(), previous_z0=None)
        if gpu:
            torch.cuda.synchronize()

    peak = peak_bytes(lambda: step(0), gpu=gpu)
    began = time.perf_counter()
    for number in range(1, TIMED + 1):
        step(number)
    seconds = (time.perf_counter() - began) / TIMED
    found = {"predicted_mib": choice.needed / 2**20, "room_mib": choice.room / 2**20, "peak_mib": peak / 2**20}
    found |= {"seconds": seconds, "choosing_s": choosing, "tokens": choice.tokens}
    if gpu:
        found |= {
            "whole_mib": torch.cuda.max_memory_allocated() / 2**20,
            "reserved_mib": torch.cuda.max_memory_reserved() / 2**20,
            "mfu": step_figures.mfu(
                sum(loop.step_flops(engine.module, task, number) for number in range(1, TIMED + 1)) / TIMED,
                seconds=seconds,
                workers=1,
                device=torch.cuda.get_device_name(),
            ),
        }
    return found | {"gradient_checkpointing": choice.recomputation}


def report(found):
    columns = ("tokens", "predicted", "peak", "seconds", "choosing", "recomputed")
    print(f"{'memory':>10} " + " ".join(f"{name:>11}" for name in columns))
    for limit, row in found.items():
        if "refused" in row:
            print(f"{limit:>10} {row['refused']}")
            continue
        print(
            f"{limit:>10} {row['tokens']:>11,} {row['predicted_mib']:>11,.0f} {row['peak_mib']:>11,.0f} "
            f"{row['seconds']:>11.2f} {row['choosing_s']:>11.2f} {row['gradient_checkpointing']!s:>11}"
            + (f"  whole {row['whole_mib']:,.0f}, reserved {row['reserved_mib']:,.0f}" if "whole_mib" in row else "")
            + (f", MFU {row['mfu']:.3f}" if row.get("mfu") else "")
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    for name, shape in {"quick": QUICK, "gpu": GPU}.items():
        size.add_argument(f"--{name}", action="store_const", const=shape, dest="shape")
    parser.set_defaults(shape=SMALL)
    parser.add_argument("--memory", nargs="*", help="these limits")
    parser.add_argument("--kept", type=Path, help="a directory for model and examples, as in training.py")
    parser.add_argument("--dry", action="store_true", help="measure nothing")
    parser.add_argument("--one", nargs=2, metavar=("HOME", "SETTINGS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        home, settings = args.one
        print(json.dumps(chosen(Path(home), our_settings(json.loads(settings)))))
        return
    shape = args.shape
    given = {"epochs": 2, "batch_size": shape.batch, **(ON_GPU if shape.gpu else {}), "micro_batch_tokens": None}
    limits, found = args.memory or LIMITS[shape.gpu], {}
    if args.dry:
        settings = {limit: our_settings({**given, "memory": limit}).model_dump(mode="json") for limit in limits}
        print(json.dumps(settings))
        return
    with prepared(shape, kept=args.kept) as (home, *_):
        for limit in limits:
            settings = json.dumps({**given, "memory": limit})
            command = [sys.executable, __file__, "--one", str(home), settings]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{limit} failed:\n{done.stderr[-3000:]}")
            found[limit] = json.loads(done.stdout.splitlines()[-1])
            print(f"    {limit}: {json.dumps(found[limit])}", file=sys.stderr, flush=True)
    report(found)
    fits = {limit: row for limit, row in found.items() if "refused" not in row}
    ratios = {f"peak over predicted, {limit}": row["peak_mib"] / row["predicted_mib"] for limit, row in fits.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    print(json.dumps({"benchmark": "micro_batches", "ratios": ratios, "figures": found, "machine": machine}))


if __name__ == "__main__":
    main()
