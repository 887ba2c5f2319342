"""A run directory on a store that is far away: requests, seconds and files; a whole run beside one without delay.

    python tests/benchmarks/storage.py [--quick] [--delay 0.3] [--parts 192]

A small S3 on loopback answers each request after `--delay` seconds. First the store alone: a stage of `--parts` parts
of 64 rows, as a stream commits them, is read before and after they are merged into three, by turns. Then, without
`--quick`, the embedded world's small run (tests/integration/align_process.py) is made twice, without delay and with it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "integration")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import loopback_s3  # noqa: E402
import pyarrow as pa  # noqa: E402
from align_process import SMALL, environment  # noqa: E402

from mralign.run.part_merging import merge, pieces_of  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402

ROWS = pa.schema({"row_id": pa.string(), "text": pa.string()})
UPSTREAM = [part_name(f"train-00-{number:05d}") for number in range(3)]


def kind_of(method, key, query):
    """What a request does: list, look, read, write, delete, or make a directory."""
    if not key:
        return "delete" if "delete" in query else "list" if method == "GET" else "look"
    names = {"HEAD": "look", "GET": "read", "POST": "write", "DELETE": "delete"}
    return names.get(method, "make directory" if key.endswith("/") else "write")


def took(store, act):
    """Seconds and requests of an act."""
    store.calls.clear()
    began = time.monotonic()
    act()
    return time.monotonic() - began, Counter(kind_of(*call) for call in store.calls)


def many_parts(uri, *, parts):
    """A stage as a stream leaves it."""
    out = StageDir(uri, stage="rollouts", fingerprint="f")
    for number in range(parts):
        key = f"{UPSTREAM[number % 3].removeprefix('part-').removesuffix('.parquet')}-{number:016x}"
        ids = [f"{number}/{row}" for row in range(64)]
        texts = [os.urandom(300).hex() for _ in ids]
        out.commit(part_name(key), pa.table({"row_id": ids, "text": texts}), schema=ROWS)
    return out


def store_alone(store, *, parts, delay, repeats):
    """Medians of reading many parts and merged ones, and what merging takes."""
    many, few = (many_parts(f"s3://bucket/{name}/rollouts/f", parts=parts) for name in ("many", "few"))
    store.delay_s = delay
    found = {"merging": took(store, lambda: [merge(few, pieces, schema=ROWS) for pieces in pieces_of(few, UPSTREAM)])}
    reads = {"many": [], "few": []}
    for _ in range(repeats):
        for name, out in (("many", many), ("few", few)):
            reads[name].append(took(store, lambda out=out: StageDir(out.uri).read(schema=ROWS)))
    store.delay_s = 0.0
    for name, runs in reads.items():
        found[f"reading {name}"] = (statistics.median(seconds for seconds, _ in runs), runs[0][1])
    files = {"many": len(many.parts()), "few": len(few.parts())}
    return found, files


def whole_run(store, *, name, delay, log):
    """A small run from nothing to its report; seconds, requests, and seconds in which a request was under way."""
    store.delay_s = delay
    store.spans.clear()
    command = [sys.executable, "jobs/align.py", f"run.dir=s3://bucket/{name}", *SMALL]

    def act():
        with log.open("w") as stream:
            subprocess.run(command, cwd=ROOT, env=environment(), stdout=stream, stderr=stream, check=True)

    seconds, requests = took(store, act)
    store.delay_s = 0.0
    waited = loopback_s3.waited([span for span in store.spans if "/lease" not in span[0]])
    return seconds, requests, waited


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--delay", type=float)
    parser.add_argument("--parts", type=int)
    args = parser.parse_args()
    delay = args.delay or (0.05 if args.quick else 0.3)
    parts = args.parts or (48 if args.quick else 192)
    with loopback_s3.serve() as (store, found_at), tempfile.TemporaryDirectory() as work:
        os.environ.update(found_at)
        found, files = store_alone(store, parts=parts, delay=delay, repeats=1 if args.quick else 3)
        if not args.quick:
            for name, slow in (("at once", 0.0), ("delayed", delay)):
                *measured, waited = whole_run(store, name=name.replace(" ", "-"), delay=slow, log=Path(work) / "log")
                found[f"whole run, {name}"] = tuple(measured)
                print(f"whole run, {name}: a request was under way for {waited:.1f} s")
    print(f"{'':22} {'seconds':>8} {'requests':>9}   ({delay} s a request)")
    for name, (seconds, requests) in found.items():
        print(f"{name:22} {seconds:8.2f} {requests.total():9}   {dict(requests.most_common())}")
    ratios = {"reading few to many": round(found["reading few"][0] / found["reading many"][0], 3)}
    if not args.quick:
        ratios["whole run"] = round(found["whole run, delayed"][0] / found["whole run, at once"][0], 3)
    figures = {name: {"seconds": round(s, 2), "requests": requests.total()} for name, (s, requests) in found.items()}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(
        json.dumps(
            {"benchmark": "storage", "ratios": ratios, "figures": figures | {"files": files}, "machine": machine}
        )
    )


if __name__ == "__main__":
    main()
