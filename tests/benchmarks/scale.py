"""A run up to its training examples at growing sizes: seconds, memory of driver and workers, files, list calls.

    python tests/benchmarks/scale.py [--quick] [--sizes 1000 10000 100000] [--roads sampled imported] [--speed 0]

Synthetic questions, of which six in ten become positive and two negative candidates, go through all stages from
`questions` to `examples`: sampled by a FAKE engine (_scale_run.py) of --speed tokens a second (0: as fast as its actor
writes rows), or imported from files. Annotators are the cue phrases. Each run is a process of its own, which is the
driver. `driver` is the peak resident memory (VmHWM) within a stage, `worker` the largest private memory (resident less
shared) of one Ray worker, sampled four times a second; `CPU s` are the seconds that driver, workers and Ray's own
processes have computed; `lists` are list calls of all processes.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def measure(road, *, size, segments, speed, keep):
    """One run in a process of its own, below the directory `keep` or in one that is deleted."""
    with tempfile.TemporaryDirectory(prefix="mralign-scale-", dir="/tmp") as home:
        if keep:
            home = str(Path(keep) / f"{road}-{size}")
            Path(home).mkdir(parents=True)
        given = {"road": road, "size": size, "segments": segments, "speed": speed, "home": home}
        command = [sys.executable, str(HERE / "_scale_run.py"), json.dumps(given)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(run):
    print(f"\n{run['road']}, {run['size']:,} questions: {run['seconds']} s")
    head = f"{'':>20} {'s':>8} {'CPU s':>8} {'rows out':>10} {'rejects':>9}"
    print(f"{head} {'driver MiB':>11} {'worker MiB':>11} {'files':>7} {'lists':>6}")
    for name, one in run["stages"].items():
        print(
            f"{name:>20} {one['seconds']:>8} {one['cpu_s']:>8} {one['rows_out']:>10,} {one['rejects']:>9,} "
            f"{one['driver_mib']:>11} {one['worker_mib']:>11} {one['files']:>7,} {one['lists']:>6,}"
        )


def ratios(runs):
    """Of each road, the driver's peak and the seconds a question: the largest size over the one before."""
    found = {}
    for road in dict.fromkeys(run["road"] for run in runs):
        own = [run for run in runs if run["road"] == road]
        if len(own) < 2:
            continue
        small, large = own[-2:]
        peaks = [max(stage["driver_mib"] for stage in run["stages"].values()) for run in (small, large)]
        found[f"{road}_driver_peak_large_over_small"] = round(peaks[1] / peaks[0], 3)
        rates = [run["seconds"] / run["size"] for run in (small, large)]
        found[f"{road}_seconds_a_question_large_over_small"] = round(rates[1] / rates[0], 3)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1,000 questions, sampled")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--roads", nargs="+", choices=["sampled", "imported"])
    parser.add_argument("--segments", type=int, default=6, help="paragraphs of a thought, 3 to 20, of 8 to 10 tokens")
    parser.add_argument("--speed", type=float, default=0, help="tokens a second of the fake engine; 0: no wait")
    parser.add_argument("--keep", help="directory in which the runs stay; a short path, as Ray's sockets lie there too")
    args = parser.parse_args()
    if not 3 <= args.segments <= 20:  # the embedded model reads 256 tokens
        parser.error(f"--segments {args.segments}: allowed are 3 to 20")
    sizes = args.sizes or ([1_000] if args.quick else [1_000, 10_000, 100_000])
    roads = args.roads or (["sampled"] if args.quick else ["sampled", "imported"])
    runs = []
    for road in roads:
        for size in sizes:
            runs.append(measure(road, size=size, segments=args.segments, speed=args.speed, keep=args.keep))
            show(runs[-1])
    print()
    print(
        json.dumps(
            {
                "benchmark": "scale",
                "ratios": ratios(runs),
                "figures": {"runs": runs, "segments": args.segments, "fake_engine_tokens_per_s": args.speed},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()
