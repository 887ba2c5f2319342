"""The steps of run.sh, one after the other, each in a process of its own with a time limit.

Nothing enters but the mode; a table of the steps leaves and, as the last line, one JSON object with what each step
printed as its last line of JSON. A step that fails or takes too long does not end the others. Exit status 1 if one did.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
MODES = ("card", "cpu", "dry")


@dataclass(frozen=True)
class Step:
    """A command for each mode, and the most seconds that it may take on the card."""

    name: str
    limit: int
    card: tuple[str, ...]
    cpu: tuple[str, ...]
    dry: tuple[str, ...]


def steps(work):
    """All steps; `work` is a directory for what they write."""
    world = ("-m", "mralign", "align", "--preset", "miniworld", f"run.dir={work}/world")
    on_card = ("engine.gpus_per_replica=1", "training.gpu=true", "training.workers=1", "training.dtype=bfloat16")
    bench = ("tests/benchmarks/training.py",)
    sides = ("--only", "trl", "trl_precomputed", "ours_new_pairs")
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/test_gpu.py")
    memory, profile = ("tests/benchmarks/micro_batches.py",), ("tests/benchmarks/step_profile.py",)
    serving = ("tests/gpu/serving.py", "--work", f"{work}/serving")
    return (
        Step("serving", 150, serving, (*serving, "--cpu"), (*serving, "--dry")),
        Step("world", 120, (*world, *on_card), (*world, "training.workers=1"), (*world, "--dry-run")),
        Step("training", 120, tests, tests, (*tests, "--collect-only")),
        Step("bench", 150, (*bench, "--gpu", "--samples", "32", *sides), (*bench, "--quick"), (*bench, "--help")),
        Step("memory", 180, (*memory, "--gpu"), (*memory, "--quick"), (*memory, "--help")),
        Step("profile", 90, (*profile, "--gpu"), (*profile, "--quick", "--steps", "1"), (*profile, "--help")),
    )


def run(step, *, mode, log, limit):
    """Outcome of one step: ok, failed or too slow; seconds; and its last line, if that is JSON."""
    began = time.monotonic()
    with log.open("w") as out:
        running = subprocess.Popen(
            [PYTHON, *getattr(step, mode)], stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            outcome = "ok" if running.wait(timeout=limit) == 0 else f"failed ({running.returncode})"
        except subprocess.TimeoutExpired:
            outcome = f"too slow (over {limit} s)"
            os.killpg(running.pid, signal.SIGKILL)  # its own session, so nothing else
            running.wait()
    return {
        "step": step.name,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 1),
        "said": last_json(log),
    }


def last_json(log):
    lines = log.read_text(errors="replace").splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"last line": lines[-1][-200:]} if lines else {}


def device():
    """The card, its driver's memory and torch's version; on a machine without one, that."""
    import torch

    if not torch.cuda.is_available():
        return {"card": None, "torch": torch.__version__}
    free, total = torch.cuda.mem_get_info()
    return {"card": torch.cuda.get_device_name(), "gib": round(total / 2**30, 1), "free": round(free / 2**30, 1)} | {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_mutually_exclusive_group()
    for mode in MODES[1:]:
        modes.add_argument(f"--{mode}", dest="mode", action="store_const", const=mode)
    parser.add_argument("--only", nargs="*", help="these steps")
    parser.add_argument("--logs", type=Path, help="keep each step's output in this directory")
    parser.set_defaults(mode="card")
    args = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="mralign-gpu-", dir="/tmp") as work:
        logs = args.logs or Path(work)
        logs.mkdir(parents=True, exist_ok=True)
        for step in steps(work):
            if args.only and step.name not in args.only:
                continue
            # CPUs are slower, and nobody waits for them with a borrowed card.
            limit = step.limit if args.mode == "card" else 4 * step.limit
            row = run(step, mode=args.mode, log=logs / f"{step.name}.log", limit=limit)
            print(f"{row['step']:10} {row['outcome']:24} {row['seconds']:7.1f} s", flush=True)
            found.append(row)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), **device()}
    print(json.dumps({"benchmark": "gpu", "mode": args.mode, "figures": found, "machine": machine}))
    sys.exit(any(row["outcome"] != "ok" for row in found))


if __name__ == "__main__":
    main()
