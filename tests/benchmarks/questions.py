"""A large file of questions through the stage `questions`: rows per second, and the most memory any process held.

    python tests/benchmarks/questions.py [--quick] [--rows 10000000]

The same stage runs on a tenth of the rows and on all of them. What grows with the rows is the store of keys, 60 bytes a
question in Ray's object store; the processes' own memory should not. The driver's and the workers' peaks are read
from /proc (VmHWM); shared memory, which is the object store, is counted apart.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import psutil  # noqa: E402
from quiet_ray import quiet_ray  # noqa: E402

from mralign.config import parse  # noqa: E402
from mralign.questions.stage import QUESTIONS_STAGE  # noqa: E402
from mralign.run.stage import Context  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402


class Watch(threading.Thread):
    """The largest private memory (resident less shared) of any process below this one, sampled ten times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worker = self.driver = self.shared = 0
        self.going = True

    def run(self):
        me = psutil.Process()
        while self.going:
            for process in [me, *me.children(recursive=True)]:
                try:
                    info, name = process.memory_info(), process.name()
                except psutil.Error:
                    continue
                private = info.rss - info.shared
                if process == me:
                    self.driver = max(self.driver, private)
                elif name.startswith("ray::"):
                    self.worker = max(self.worker, private)
                self.shared = max(self.shared, info.shared)
            time.sleep(0.1)


def measure(rows, work):
    path = work / f"{rows}.jsonl"
    with path.open("w") as file:
        for n in range(rows):  # one row in a hundred repeats an earlier one
            number = n - 50 if n % 100 == 99 else n
            file.write(f'{{"question": "what is the name of thing number {number}?", "answer": ["thing {number}"]}}\n')
    config = parse({"questions": {"train": [{"name": "big", "path": str(path)}]}})
    out = StageDir(str(work / f"out-{rows}"), stage="questions", fingerprint="f")
    watch = Watch()
    watch.start()
    began = time.perf_counter()
    outcome = QUESTIONS_STAGE.run(Context(config, out, {}))
    seconds = time.perf_counter() - began
    watch.going = False
    watch.join()
    assert (outcome.rows_in, outcome.rows_out) == (rows, rows - rows // 100)
    size = path.stat().st_size
    path.unlink()
    mib = {name: round(getattr(watch, name) / 2**20) for name in ("driver", "worker", "shared")}
    return {"rows": rows, "file_mib": round(size / 2**20), "rows_per_s": round(rows / seconds), "peak_mib": mib}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int)
    args = parser.parse_args()
    rows = args.rows or (200_000 if args.quick else 10_000_000)
    temporary = tempfile.TemporaryDirectory(prefix="mralign-bench-", dir="/tmp")
    with temporary as directory, quiet_ray(directory, cpus=2):
        found = [measure(size, Path(directory)) for size in (rows // 10, rows)]
    small, large = found
    for run in found:
        print(run)
    ratios = {
        f"{name}_peak_large_over_small": large["peak_mib"][name] / small["peak_mib"][name]
        for name in ("driver", "worker")
    }
    print(
        json.dumps(
            {
                "benchmark": "questions",
                "ratios": ratios,
                "figures": {"small": small, "large": large},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()
