"""What `training.memory` chooses under several limits, and what the steps then take: predicted beside measured.

    python tests/benchmarks/micro_batches.py [--quick | --gpu] [--memory 40GiB 26GiB auto]

The models and examples of training.py. For every limit a process of its own loads the model, chooses, and makes two
optimizer steps. `predicted` and `peak` count what comes beyond the loaded model and its optimizer, in MiB: on a GPU by
its allocator, else by the tensors that live together. `seconds`: of the second step; `choosing`: of the measuring. A
limit under which the longest sequence does not fit is refused, and so told.
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
from training import GPU, QUICK, SMALL, prepare  # noqa: E402

LIMITS = {True: ("auto", "60GiB", "40GiB", "28GiB"), False: ("auto", "1300MiB", "1000MiB")}


def chosen(home, settings):
    """What one limit leads to."""
    from mralign.training import loop
    from mralign.training.engine import World, start_engine
    from mralign.training.guards import TrainingStopped
    from mralign.training.live_bytes import peak_bytes
    from mralign.training.memory_choice import settle_memory

    sources, policy = loaded_model(home, settings)
    with tempfile.TemporaryDirectory() as work:
        task, _ = referenced(sources, policy, work=work)
        engine = start_engine(policy, settings, rate=task.rate, world=World())
        began = time.perf_counter()
        try:
            task, choice = settle_memory(engine, task, world=World())
        except TrainingStopped as refused:
            return {"refused": str(refused)}
        choosing = time.perf_counter() - began

        def step(number):
            return loop.optimizer_step(engine, task, number, world=World(), previous_z0=None)

        peak = peak_bytes(lambda: step(0), gpu=settings.gpu)
        began = time.perf_counter()
        step(1)
        seconds = time.perf_counter() - began
    found = {"predicted_mib": choice.needed / 2**20, "room_mib": choice.room / 2**20, "peak_mib": peak / 2**20}
    found |= {"seconds": seconds, "choosing_s": choosing, "tokens": choice.tokens}
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
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    for name, shape in {"quick": QUICK, "gpu": GPU}.items():
        size.add_argument(f"--{name}", action="store_const", const=shape, dest="shape")
    parser.set_defaults(shape=SMALL)
    parser.add_argument("--memory", nargs="*", help="these limits")
    parser.add_argument("--one", nargs=2, metavar=("HOME", "SETTINGS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        home, settings = args.one
        print(json.dumps(chosen(Path(home), our_settings(json.loads(settings)))))
        return
    shape = args.shape
    given = {"epochs": 2, "batch_size": shape.batch, **(ON_GPU if shape.gpu else {}), "micro_batch_tokens": None}
    found = {}
    with tempfile.TemporaryDirectory(prefix="mralign-bench-") as directory:
        prepare(Path(directory), shape)
        for limit in args.memory or LIMITS[shape.gpu]:
            settings = json.dumps({**given, "memory": limit})
            command = [sys.executable, __file__, "--one", directory, settings]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{limit} failed:\n{done.stderr[-3000:]}")
            found[limit] = json.loads(done.stdout.splitlines()[-1])
    report(found)
    fits = {limit: row for limit, row in found.items() if "refused" not in row}
    ratios = {f"peak over predicted, {limit}": row["peak_mib"] / row["predicted_mib"] for limit, row in fits.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}"
    print(json.dumps({"benchmark": "micro_batches", "ratios": ratios, "figures": found, "machine": machine}))


if __name__ == "__main__":
    main()
