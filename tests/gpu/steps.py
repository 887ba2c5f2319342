"""The steps of run.sh, one after the other, each in a process of its own with a time limit.

Nothing enters but the mode; a table of the steps leaves and, as the last line, one JSON object with what each step
printed as its last line of JSON. A step that fails or takes too long does not end the others; one for which no time is
left is left out, and named. Exit status 1 if not every step was well.
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
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
MODES = ("card", "cpu", "dry")
MINUTES = 9  # for all steps together, on a card
ON_CPUS = 8  # times the limit
ENOUGH = 0.75  # of its limit: a step is not begun for which less is left
ON_A_BUSY_MACHINE = {"OMP_WAIT_POLICY": "PASSIVE"}  # else threads that wait for each other take the cores
LAST_LINES = 5  # of a step that said no JSON
LONGEST_LOG = 200_000  # bytes that are kept of the end of a log


@dataclass(frozen=True)
class Step:
    """A command for each mode, and the most seconds that it may take on the card."""

    name: str
    limit: int
    card: tuple[str, ...]
    cpu: tuple[str, ...]
    dry: tuple[str, ...]


def steps(work):
    """All steps, those first of which least is known; `work` is a directory for what they write."""
    world = ("-m", "mralign", "align", "--preset", "miniworld", f"run.dir={work}/world")
    engine = ("engine.gpus_per_replica=1", "engine.enforce_eager=true")
    on_card = (*engine, "training.gpu=true", "training.workers=1", "training.dtype=bfloat16")
    serving = ("tests/gpu/serving.py", "--work", f"{work}/s")  # short: sockets lie below it
    tests = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/training/test_gpu.py")
    resume = ("tests/gpu/resume.py", "--work", f"{work}/resume")
    # Three benchmarks of one model, which the first of them makes.
    kept = ("--kept", f"{work}/eight")
    memory, profile = (("tests/benchmarks/micro_batches.py", *kept), ("tests/benchmarks/step_profile.py", *kept))
    bench = ("tests/benchmarks/training.py", *kept)
    few = ("--only", "trl", "ours_in_26_gib")
    sides = (*few, "trl_precomputed", "ours_new_pairs")
    return (
        Step("serving", 240, serving, (*serving, "--cpu"), (*serving, "--dry")),
        Step("memory", 180, (*memory, "--gpu"), (*memory, "--quick", "--memory", "auto"), (*memory, "--gpu", "--dry")),
        Step("profile", 60, (*profile, "--gpu"), (*profile, "--quick", "--steps", "1"), (*profile, "--gpu", "--dry")),
        Step("resume", 75, (*resume, "--gpu"), resume, (*resume, "--dry")),
        Step("training", 180, tests, tests, (*tests, "--collect-only")),
        Step("world", 240, (*world, *on_card), (*world, "training.workers=1"), (*world, "--dry-run")),
        Step("bench", 300, (*bench, "--gpu", *sides), (*bench, "--quick", *few), (*bench, "--gpu", *sides, "--dry")),
    )


def run(step, *, mode, log, limit, work=None):
    """Outcome of one step: ok, failed or too slow; seconds; and its last line, if that is JSON."""
    began = time.monotonic()
    command = [PYTHON, *getattr(step, mode)]
    environment = {**os.environ, **(ON_A_BUSY_MACHINE if mode == "cpu" else {})}
    environment |= {"RAY_TMPDIR": f"{work}/r"} if work else {}  # where the logs of every Ray lie
    if find_spec("flashinfer") is None:  # which vLLM takes for granted on a card; it is as large as all the rest
        environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    with log.open("w") as out:
        running = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True
        )
        try:
            outcome = "ok" if running.wait(timeout=limit) == 0 else f"failed ({running.returncode})"
        except subprocess.TimeoutExpired:
            outcome = f"too slow (over {limit:.0f} s)"
            os.killpg(running.pid, signal.SIGKILL)  # its own session, so nothing else
            running.wait()
    return {
        "step": step.name,
        "outcome": outcome,
        "seconds": round(time.monotonic() - began, 1),
        "said": last_json(log),
    }


def keep_logs(work, target, *, since):
    """Copies the ends of the logs below `work` that have been written since then, a run's and its Ray's: what a step
    that failed did not print. Processes that it left may still write and remove files there."""
    target.mkdir(parents=True, exist_ok=True)
    for log in sorted(path for end in ("log", "err", "out") for path in Path(work).rglob(f"*.{end}")):
        try:
            said = log.read_bytes()[-LONGEST_LOG:] if log.stat().st_mtime >= since else b""
        except OSError:
            continue
        if said.strip():
            (target / "-".join(log.relative_to(work).parts)[-200:]).write_bytes(said)


def last_json(log):
    """The last line, if that is JSON; else the last lines, in which a step that failed says why."""
    lines = log.read_text(errors="replace").splitlines()
    try:
        return json.loads(lines[-1])
    except (IndexError, ValueError):
        return {"last lines": [line[-200:] for line in lines[-LAST_LINES:]]}


def run_all(chosen, *, mode, work, logs, seconds):
    """The outcome of every step; `seconds`: for all of them together, or None for as long as it takes."""
    began, found = time.monotonic(), []
    for step in chosen:
        # CPUs are slower, and nobody waits for them with a borrowed card.
        limit = step.limit if mode == "card" else ON_CPUS * step.limit
        if seconds is not None:
            limit = min(limit, seconds - (time.monotonic() - began))
        if limit < ENOUGH * step.limit:
            row = {"step": step.name, "outcome": "left out (no time)", "seconds": 0.0, "said": {}}
        else:
            since = time.time()
            row = run(step, mode=mode, log=logs / f"{step.name}.log", limit=limit, work=work)
            if row["outcome"] != "ok" and Path(work) not in logs.parents:
                keep_logs(work, logs / step.name, since=since)
        print(f"{row['step']:10} {row['outcome']:24} {row['seconds']:7.1f} s", flush=True)
        found.append(row)
    return found


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
    names = [step.name for step in steps("")]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="these steps")
    parser.add_argument("--logs", type=Path, help="keep each step's output in this directory")
    parser.add_argument("--minutes", type=float, help=f"for all steps together; {MINUTES} on a card")
    parser.set_defaults(mode="card")
    args = parser.parse_args()
    minutes = args.minutes or (MINUTES if args.mode == "card" else None)
    with tempfile.TemporaryDirectory(prefix="mralign-gpu-", dir="/tmp") as work:
        logs = args.logs or Path(work, "logs")
        logs.mkdir(parents=True, exist_ok=True)
        chosen = [step for step in steps(work) if step.name in args.only]
        found = run_all(chosen, mode=args.mode, work=work, logs=logs, seconds=minutes and 60 * minutes)
    machine = {"machine": platform.machine(), "cores": os.cpu_count(), **device()}
    print(json.dumps({"benchmark": "gpu", "mode": args.mode, "figures": found, "machine": machine}))
    sys.exit(any(row["outcome"] != "ok" for row in found))


if __name__ == "__main__":
    main()
