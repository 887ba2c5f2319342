"""Counting and estimating transitions: beside a literal Algorithm 2, reading alone, at 10^8, on 1 and 2 workers.

    python tests/benchmarks/transitions.py [--quick]

(a) Algorithm 2 (METHOD.md §3) written out in Python over raw pairs against `count` + `estimate` on the same ones.
(b) Parquet bytes to a count table, one core, over reading the columns that it needs from the same bytes.
(c) A corpus of 10^8 transitions: a remote task a part, a tree of additions, EM; memory of all processes (USS), sampled.
    Its parts are copies of a few distinct ones under other names, so that the benchmark fits on a laptop's disk.
(d) The same tasks one at a time and two at a time.
(e) How far the estimate is from the chain that the transitions were drawn from, converged and by the paper's preset.

Both sides of a ratio take turns; medians. Other processes on the machine disturb (c) and (d) most.
"""

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "transitions")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402
from test_recovery import chain, errors, sample  # noqa: E402

from mralign.schema import ANNOTATIONS, STEP  # noqa: E402
from mralign.store import StageDir, part_name  # noqa: E402
from mralign.transitions.counts import add, count, select  # noqa: E402
from mralign.transitions.em import allowed_mask, estimate  # noqa: E402

LABELS = tuple(f"strategy_{n:02d}" for n in range(15))
STATES = ("<start>", *LABELS, "<stop>")
K = len(STATES)
STEPS = 9  # of every trajectory: ten transitions


def annotations(rows, *, seed):
    """A table of schema ANNOTATIONS: `rows` trajectories of STEPS steps from a chain, 40 % of them with two labels."""
    rng = np.random.default_rng(seed)
    P = chain(K, seed=0)[:-1, 1:-1]
    cumulative = (P / P.sum(axis=1, keepdims=True)).cumsum(axis=1)
    state, columns = np.zeros(rows, dtype=np.int64), []
    for _ in range(STEPS):
        state = 1 + np.minimum((cumulative[state] < rng.random(rows)[:, None]).sum(axis=1), K - 3)
        columns.append(state)
    first = np.stack(columns, axis=1).reshape(-1) - 1
    second = (first + rng.integers(1, 15, first.size)) % 15
    both = rng.random(first.size) < 0.4
    lengths = 1 + both.astype(np.int64)
    flat = np.empty(lengths.sum(), dtype=np.int64)
    begin = np.cumsum(lengths) - lengths
    flat[begin] = first
    flat[begin[both] + 1] = second[both]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    labels = pa.ListArray.from_arrays(offsets, pa.array(np.array(LABELS, dtype=object)[flat], pa.string()))
    confidences = pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, 11, flat.size), pa.float32()))
    place = np.tile(np.arange(STEPS), rows)
    rules = pa.array(np.array(["equal", "intersection", "adjudicated"], dtype=object)[rng.integers(0, 3, place.size)])
    named = {
        "first_segment": pa.array(place, pa.int32()),
        "last_segment": pa.array(place, pa.int32()),
        "labels": labels,
        "confidences": confidences,
        "rule": rules,
        "labels_a": labels,
        "confidences_a": confidences,
        "labels_b": labels,
        "confidences_b": confidences,
    }
    struct = pa.StructArray.from_arrays([named[field.name] for field in STEP], fields=list(STEP))
    steps = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * STEPS, pa.int32()), struct)
    ids = [f"bench/{seed}-{n}" for n in range(rows)]
    return pa.table(
        {
            "row_id": [f"{name}/on/0" for name in ids],
            "question_id": ids,
            "dataset": ["bench"] * rows,
            "polarity": pa.array(rng.choice([1, -1], rows), pa.int8()),
            "segments": pa.array([STEPS] * rows, pa.int32()),
            "confidence_a": pa.array([8.0] * rows, pa.float32()),
            "confidence_b": pa.array([8.0] * rows, pa.float32()),
            "steps": steps,
        },
        schema=ANNOTATIONS,
    )


def raw_pairs(table):
    """Every transition of the table as a pair of tuples of states, for the literal loop."""
    index = {name: place for place, name in enumerate(STATES)}
    pairs = []
    for steps in table.column("steps").to_pylist():
        sets = [(0,), *(tuple(sorted(index[label] for label in step["labels"])) for step in steps), (K - 1,)]
        pairs += pairwise(sets)
    return pairs


def literal(pairs, *, max_iter=5, damping=0.6, prior=0.1):
    """Algorithms 1 and 2 as they are written, over raw pairs."""
    A = allowed_mask(K).tolist()
    P = [[a / sum(row) for a in row] for row in A]
    for _ in range(max_iter):
        C = [[0.0] * K for _ in range(K)]
        for source, target in pairs:
            allowed = [(a, b) for a in source for b in target if A[a][b]]
            if not allowed:
                continue
            r = [P[a][b] / len(source) for a, b in allowed]
            total = sum(r)
            for (a, b), value in zip(allowed, r, strict=True):
                C[a][b] += value / total if total else 1 / len(allowed)
        new = [[C[a][b] + prior * A[a][b] for b in range(K)] for a in range(K)]
        new = [[value / sum(row) for value in row] for row in new]
        P = [
            [(1 - damping) * old + damping * value for old, value in zip(*two, strict=True)]
            for two in zip(P, new, strict=True)
        ]
    return np.array(P)


def seconds(function, *, repeats):
    """What `function` returns and the median of its seconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        found = function()
        taken.append(time.perf_counter() - began)
    return found, statistics.median(taken)


def against_literal(rows):
    table = annotations(rows, seed=1)
    pairs = raw_pairs(table)

    def ours():
        return estimate(select(count(table, states=STATES), polarities=(1, -1)), K=K)

    counted = select(count(table, states=STATES), polarities=(1, -1))
    found, fast = seconds(ours, repeats=7)
    _, fastest = seconds(lambda: estimate(counted, K=K), repeats=7)
    expected, slow = seconds(lambda: literal(pairs), repeats=1)
    difference = float(np.abs(found.P - expected).max())
    assert difference < 1e-12, difference
    print(
        f"(a) {len(pairs):,} transitions: literal {slow:.1f} s; count and estimate {fast:.4f} s, {slow / fast:.0f}x; "
        f"estimate from the counts {fastest:.4f} s, {slow / fastest:.0f}x; largest difference {difference:.1e}"
    )
    return slow / fast, slow / fastest


def against_reading(rows):
    sink = io.BytesIO()
    pq.write_table(annotations(rows, seed=2), sink, compression="zstd")
    data = sink.getvalue()
    needed = ["dataset", "polarity", "steps.list.element.labels"]
    pa.set_cpu_count(1)

    def read():
        return pq.ParquetFile(io.BytesIO(data)).read(columns=needed, use_threads=False)

    def counted():
        return count(pq.ParquetFile(io.BytesIO(data)).read(columns=needed, use_threads=False), states=STATES)

    pairs = [(seconds(read, repeats=1)[1], seconds(counted, repeats=1)[1]) for _ in range(9)]
    reading, counting = (statistics.median(side) for side in zip(*pairs, strict=True))
    rate = rows * (STEPS + 1) / counting
    print(
        f"(b) {rows * (STEPS + 1):,} transitions in {len(data) / 2**20:.1f} MiB: read {reading:.3f} s, read and "
        f"count {counting:.3f} s, {counting / reading:.2f}x; {rate / 1e6:.2f} M transitions/s a core"
    )
    return counting / reading, rate


@ray.remote
def count_part(source, name):
    return count(source.read_parts([name], schema=ANNOTATIONS), states=STATES)


@ray.remote
def merge(*tables):
    return add(tables)


def run_corpus(source, parts, *, at_once):
    """Counts of `parts`, at most `at_once` tasks at a time, by a tree of additions."""
    running, level = [], []
    for name in parts:
        if len(running) == at_once:
            _, running = ray.wait(running)
        running.append(count_part.remote(source, name))
        level.append(running[-1])
    while len(level) > 1:
        level = [merge.remote(*level[i : i + 8]) for i in range(0, len(level), 8)]
    return ray.get(level[0])


class Memory(threading.Thread):
    """The largest sum of private memory of this process and its children, MiB, and that of workers and driver alone."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = self.most_ours = 0.0
        self.stop = threading.Event()

    def run(self):
        while not self.stop.wait(0.5):
            everything = ours = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    size = process.memory_full_info().uss
                    name = " ".join(process.cmdline()[:1])
                except psutil.Error:
                    continue
                everything += size
                ours += size if process.pid == os.getpid() or name.startswith("ray::") else 0
            self.most, self.most_ours = max(self.most, everything / 2**20), max(self.most_ours, ours / 2**20)


def corpus(work, *, transitions):
    """A stage directory with parts of 20,000 trajectories, copies of eight distinct ones."""
    source = StageDir(str(work / "annotation"), stage="annotation", fingerprint="bench")
    rows = 20_000
    wanted = max(8, transitions // (rows * (STEPS + 1)))
    for number in range(8):
        source.commit(part_name(f"{number:06d}"), annotations(rows, seed=100 + number), schema=ANNOTATIONS)
    for number in range(8, wanted):
        os.link(source.path(part_name(f"{number % 8:06d}")), source.path(part_name(f"{number:06d}")))
    return source, source.parts(), wanted * rows * (STEPS + 1)


def at_scale(work, *, transitions):
    source, parts, total = corpus(work, transitions=transitions)
    run_corpus(source, parts[:4], at_once=2)  # the workers are there
    memory = Memory()
    memory.start()
    began = time.perf_counter()
    counts = run_corpus(source, parts, at_once=2)
    counting = time.perf_counter() - began
    memory.stop.set()
    assert int(np.sum(counts.column("count").to_numpy())) == total
    small = count(annotations(1000, seed=3), states=STATES)
    times = {}
    for name, table in (("small", small), ("large", counts)):
        chosen = select(table, polarities=(1, -1))
        _, times[name] = seconds(lambda chosen=chosen: estimate(chosen, K=K), repeats=9)
        print(
            f"    EM on {len(chosen.n):,} distinct of {int(chosen.n.sum()):,} transitions: {times[name] * 1e3:.1f} ms"
        )
    print(
        f"(c) {total:,} transitions in {counting:.1f} s ({total / counting / 1e6:.2f} M/s), peak private memory: "
        f"workers and driver {memory.most_ours:.0f} MiB, with Ray's own processes {memory.most:.0f} MiB"
    )
    subset = parts[: max(16, len(parts) // 10)]
    pairs = []
    for _ in range(3):
        sides = [seconds(lambda n=n: run_corpus(source, subset, at_once=n), repeats=1)[1] for n in (1, 2)]
        pairs.append(sides)
    one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"(d) {len(subset)} parts: one worker {one:.1f} s, two {two:.1f} s, {one / two:.2f}x")
    return {
        "transitions": total,
        "transitions_per_s_2_cores": total / counting,
        "peak_mib": memory.most,
        "peak_mib_workers_and_driver": memory.most_ours,
        "em_ms_small": times["small"] * 1e3,
        "em_ms_large": times["large"] * 1e3,
    }, one / two


def recovery(largest):
    print("(e)          M   converged   paper preset   (mean l1 error, K = 17)")
    P, found = chain(K, seed=0), {}
    for power in range(3, largest + 1):
        found[f"1e{power}"] = errors(P, sample(P, 10**power, seed=power))
        print(f"    {10**power:>12,}   {found[f'1e{power}'][0]:.5f}     {found[f'1e{power}'][1]:.5f}")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    literal_ratio, estimate_ratio = against_literal(10_000 if quick else 100_000)
    reading_ratio, rate = against_reading(20_000)
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "transitions")])}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": paths})
    with tempfile.TemporaryDirectory(prefix="mralign-bench-") as name:
        figures, workers_ratio = at_scale(Path(name), transitions=4 * 10**6 if quick else 10**8)
    ray.shutdown()
    figures |= {"recovery": recovery(5 if quick else 7), "transitions_per_s_a_core": rate}
    ratios = {
        "literal_over_count_and_estimate": literal_ratio,
        "literal_over_estimate": estimate_ratio,
        "counting_over_reading": reading_ratio,
        "two_workers_over_one": workers_ratio,
        "em_large_over_small": figures["em_ms_large"] / figures["em_ms_small"],
    }
    machine = {"cpus": os.cpu_count(), "python": platform.python_version()}
    print(json.dumps({"benchmark": "transitions", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
