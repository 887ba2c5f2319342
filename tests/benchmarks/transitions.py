"""Counting and estimating transitions: beside a literal Algorithm 2, reading alone, at 10^8, on 1 and 2 workers.

    python tests/benchmarks/transitions.py [--quick]

(a) Algorithm 2 (method.md §3) written out in Python over raw pairs that lie ready as tuples of states, all of them,
    against `count_pairs` and `estimate` on the same pairs that lie ready as arrays of codes; and, beside it, against
    `count` and `estimate` on the table of annotations, whose labels are strings.
(b) Bytes of a committed part to a count table on one core, beside decoding the same columns (`read`) and all columns.
    `stage` is what the stage `counts` does to a part without bootstrap, `stage_bootstrap` with the default replicates.
(c) The stages `counts` and `matrices` on 10^8 transitions, every part another one, two cores; proportional memory (PSS,
    object store included) of driver, workers and Ray's own processes, sampled. EM on 10^4, 10^6 and all transitions.
(d) The stage `counts` on clusters of one core and of two, which take turns; their start is not timed.
(e) Errors against the chain that was drawn from: tests/transitions/test_recovery.py says what can be recovered.

Sides of a ratio take turns, and ratios are of medians: of CPU seconds in (a) and (b), so that other work on the machine
counts less, of wall seconds in (c) and (d), which it disturbs. --quick is too small for (d) to mean much.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "transitions")]
sys.path[:0] = PATHS
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import ray  # noqa: E402
from python_path import python_path  # noqa: E402
from test_recovery import TWICE, chain, efficient_error, errors, following, sample, walk  # noqa: E402

from mralign.annotation.taxonomy import PAPER  # noqa: E402
from mralign.config import Transitions, parse  # noqa: E402
from mralign.rows.schema import ANNOTATIONS, COUNTS, STEP  # noqa: E402
from mralign.run.part_names import part_name  # noqa: E402
from mralign.run.stage import Context  # noqa: E402
from mralign.run.store import StageDir  # noqa: E402
from mralign.transitions.counts import count, count_pairs, select  # noqa: E402
from mralign.transitions.em import estimate  # noqa: E402
from mralign.transitions.shelf import Counting  # noqa: E402
from mralign.transitions.stage import COUNTS_STAGE, MATRICES_STAGE  # noqa: E402

STATES, K = PAPER.states, len(PAPER.states)
ROWS = 15_000  # trajectories of a part
POLARITIES = (1, -1, 0)
DATASETS = ("nq_open", "sciq", "hotpot")
RULES = ("unlabelled", "equal", "intersection", "confident", "adjudicated")
NEEDED = ["dataset", "polarity", "steps.list.element.labels"]
CONFIG = parse({"questions": {"train": [{"name": "a", "path": "a"}]}, "transitions": {"bootstrap": 0}})


# --- a corpus ----------------------------------------------------------------------------------------------------


def annotations(rows, *, seed):
    """A table of schema ANNOTATIONS, `rows` trajectories of the chain with seed 0, and how many transitions it holds.

    A step shows its label, at times beside another; one in fifty is left unlabelled. Annotators agree on seven in ten.
    """
    rng, P = np.random.default_rng(seed), chain(K, seed=0)
    a_N, row_N, columns = np.zeros(rows, dtype=np.int64), np.arange(rows), []
    while row_N.size:
        b_N = following(a_N, P=P, rng=rng)
        a_N, row_N = b_N[b_N < K - 1], row_N[b_N < K - 1]
        columns.append((row_N, a_N))
    row_S, state_S = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    first_S, lengths = state_S[np.argsort(row_S, kind="stable")] - 1, np.bincount(row_S, minlength=rows)
    row_S = np.repeat(np.arange(rows), lengths)
    L, S = K - 2, first_S.size
    second_S = (first_S + rng.integers(1, L, S)) % L
    n_S = np.where(rng.random(S) < 0.02, 0, 1 + (rng.random(S) < TWICE))
    labelled = n_S > 0
    transitions = int(labelled.sum()) + np.unique(row_S[labelled]).size
    rule_S = np.where(labelled, rng.integers(1, len(RULES), S), 0)
    place_S = np.arange(S) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    columns = {"first_segment": place_S, "last_segment": place_S, "rule": pa.array(RULES).take(pa.array(rule_S))}
    columns["labels"], columns["confidences"] = _sets(first_S, second_S, n_S, rng=rng)
    for who in "ab":
        agrees_S = rng.random(S) < 0.7
        theirs_S = np.where(agrees_S, first_S, rng.integers(0, L, S))
        sets = _sets(theirs_S, second_S, np.where(agrees_S, n_S, 1), rng=rng)
        columns[f"labels_{who}"], columns[f"confidences_{who}"] = sets
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in STEP]
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    steps = pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=list(STEP)))
    dataset_N = [DATASETS[place] for place in rng.integers(0, 3, rows)]
    ids = [f"{name}/train-{seed:05d}{n:06d}" for n, name in enumerate(dataset_N)]
    points = [pa.array(rng.integers(0, 21, rows) / 2, pa.float32()) for _ in "ab"]
    polarity_N = pa.array(rng.choice(POLARITIES, rows), pa.int8())
    named = [[f"{name}/on/0" for name in ids], ids, dataset_N, polarity_N, pa.array(lengths, pa.int32())]
    return pa.table(list(map(pa.array, [*named, *points, steps])), schema=ANNOTATIONS), transitions


def _sets(first_S, second_S, n_S, *, rng):
    """Label lists of n_S labels each, and confidences in half points."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(n_S)]), pa.int32())
    flat = np.stack([first_S, second_S], axis=1)[np.arange(2) < n_S[:, None]]
    labels = pa.array(PAPER.labels, pa.string()).take(pa.array(flat))
    confidences = pa.array(rng.integers(0, 21, flat.size) / 2, pa.float32())
    return pa.ListArray.from_arrays(offsets, labels), pa.ListArray.from_arrays(offsets, confidences)


def raw_pairs(table):
    """Every transition of the table as a pair of tuples of states, for the literal loop."""
    index, pairs = {name: place for place, name in enumerate(STATES)}, []
    for steps in table.column("steps").to_pylist():
        shown = [tuple(sorted(index[label] for label in step["labels"])) for step in steps if step["labels"]]
        if shown:
            pairs += pairwise([(0,), *shown, (K - 1,)])
    return pairs


def code(states):
    """The code of a set of one or two states."""
    return states[0] * K + states[-1]


# --- the other side of the ratios --------------------------------------------------------------------------------


def literal(pairs, *, max_iter=5, tol=1e-6, dp=0.6, prior=0.1):
    """P by Algorithms 1 and 2 as method.md §3 has them, over raw pairs; the log-likelihoods are left out."""
    A = [[int(b != 0 and (a != K - 1 or b == K - 1)) for b in range(K)] for a in range(K)]
    P = [[allowed / sum(row) for allowed in row] for row in A]
    for _ in range(max_iter):
        C = [[0.0] * K for _ in range(K)]
        for source, target in pairs:
            edges = [(a, b) for a in source for b in target if A[a][b]]
            if not edges:
                continue
            score = [P[a][b] / len(source) for a, b in edges]
            total = sum(score)
            for (a, b), value in zip(edges, score, strict=True):
                C[a][b] += value / total if total else 1 / len(edges)
        last = P
        support = [[C[a][b] + prior * A[a][b] for b in range(K)] for a in range(K)]
        new = [[value / sum(row) for value in row] for row in support]
        P = [[(1 - dp) * last[a][b] + dp * new[a][b] for b in range(K)] for a in range(K)]
        if max(abs(P[a][b] - last[a][b]) for a in range(K) for b in range(K)) < tol:
            break
    return np.array(P)


def in_turn(repeats, **sides):
    """Median CPU and wall seconds of each side, which take turns, and what each returned last."""
    taken, found = {name: [] for name in sides}, {}
    for _ in range(repeats):
        for name, function in sides.items():
            began = time.process_time(), time.perf_counter()
            found[name] = function()
            taken[name].append((time.process_time() - began[0], time.perf_counter() - began[1]))
    cpu, wall = ({name: statistics.median(t[k] for t in times) for name, times in taken.items()} for k in (0, 1))
    return cpu, wall, found


# --- on one core -------------------------------------------------------------------------------------------------


def against_literal(*, wanted, repeats):
    table, transitions = annotations(ROWS, seed=1)
    table, transitions = annotations(ROWS * wanted // transitions, seed=1)
    pairs = raw_pairs(table)
    assert len(pairs) == transitions
    ready = select(count(table, states=STATES), polarities=POLARITIES)
    source_T, target_T = (np.array([code(pair[side]) for pair in pairs], dtype=np.int32) for side in (0, 1))
    cpu, wall, found = in_turn(
        repeats,
        literal=lambda: literal(pairs),
        pairs=lambda: [estimate(count_pairs(source_T, target_T, K=K), K=K) for _ in range(5)],
        ours=lambda: [estimate(select(count(table, states=STATES), polarities=POLARITIES), K=K) for _ in range(5)],
        estimate=lambda: [estimate(ready, K=K) for _ in range(5)],
    )
    difference = max(float(np.abs(found[side][-1].P - found["literal"]).max()) for side in ("pairs", "ours"))
    assert difference < 1e-12, difference
    print(f"(a) {transitions:,} transitions, {repeats} turns; largest difference of P {difference:.1e}")
    for name, seconds in (("CPU", cpu), ("wall", wall)):
        slow, (coded, ours, em) = seconds["literal"], (seconds[s] / 5 for s in ("pairs", "ours", "estimate"))
        print(
            f"    {name:>4}: literal {slow:.2f} s; from coded pairs {coded * 1e3:.1f} ms, {slow / coded:.0f}x (wanted "
            f"500x); from a table of labels {ours * 1e3:.1f} ms, {slow / ours:.0f}x; from counts {em * 1e3:.1f} ms, "
            f"{slow / em:.0f}x"
        )
    ratios = {f"literal_over_{side}": 5 * cpu["literal"] / cpu[side] for side in ("pairs", "ours", "estimate")}
    return ratios, {"literal": {"transitions": transitions, "cpu_s": cpu, "wall_s": wall, "ours_repeated": 5}}


def against_reading(work):
    table, transitions = annotations(ROWS, seed=2)
    place = StageDir(str(work / "one"), stage="annotation")
    place.commit(part_name("0"), table, schema=ANNOTATIONS)
    data = Path(place.path(part_name("0"))).read_bytes()
    default = Transitions().bootstrap
    plain, replicated = (Counting(STATES, "all", B, 0) for B in (0, default))

    def read(columns=None):
        return pq.ParquetFile(pa.BufferReader(data)).read(columns=columns)

    cpu, wall, _ = in_turn(
        15,
        read=lambda: read(NEEDED),
        read_all=read,
        read_and_count=lambda: count(read(NEEDED), states=STATES),
        stage=lambda: plain.count(data),
        stage_bootstrap=lambda: replicated.count(data),
    )
    print(f"(b) {transitions:,} transitions in {len(data) / 2**20:.2f} MiB, one core, 15 turns; over read, wanted: 3")
    print(f"{'':>20} {'CPU ms':>7} {'wall ms':>8} {'M transitions/s':>16} {'over read':>10} {'over read_all':>14}")
    for name, seconds in cpu.items():
        print(
            f"{name:>20} {seconds * 1e3:>7.1f} {wall[name] * 1e3:>8.1f} {transitions / seconds / 1e6:>16.2f} "
            f"{seconds / cpu['read']:>10.2f} {seconds / cpu['read_all']:>14.2f}"
        )
    ratios = {f"{name}_over_read": cpu[name] / cpu["read"] for name in ("read_and_count", "stage")}
    rate = {name: transitions / seconds for name, seconds in cpu.items()}
    return ratios, {"part_mib": len(data) / 2**20, "replicates": default, "transitions_per_cpu_s": rate}


# --- with remote tasks -------------------------------------------------------------------------------------------


@contextmanager
def cluster(work, *, cpus):
    ray.init(
        address="local",
        num_cpus=cpus,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=256 * 2**20,
        _temp_dir=str(work / "ray"),
        runtime_env={"env_vars": {"PYTHONPATH": python_path(*PATHS)}},
    )
    try:
        yield
    finally:
        ray.shutdown()


@ray.remote
def write_part(place, number):
    table, transitions = annotations(ROWS, seed=1000 + number)
    place.commit(part_name(f"{number:06d}"), table, schema=ANNOTATIONS)
    return transitions


def corpus(place, *, wanted):
    """Parts with at least `wanted` transitions, no two alike: how many transitions there are."""
    place.write_text("taxonomy.json", json.dumps({"states": STATES, "macro": dict(PAPER.macro)}))
    total, number, running = 0, 0, []
    while total < wanted:
        while len(running) < 3:  # each holds one part
            running.append(write_part.remote(place, number))
            number += 1
        (done, *_), running = ray.wait(running)
        total += ray.get(done)
    return total + sum(ray.get(running))


def subset(place, other, *, parts):
    """A stage directory with the first parts of another, by links."""
    os.makedirs(other.path())
    for name in ["taxonomy.json", *place.parts()[:parts]]:
        os.link(place.path(name), other.path(name))
    return other


def run_stage(stage, home, **upstream):
    out = StageDir(f"{home}/{stage.name}/bench", stage=stage.name, fingerprint="bench")
    began = time.perf_counter()
    stage.run(Context(CONFIG, out, upstream))
    return out, time.perf_counter() - began


class Memory(threading.Thread):
    """The largest sum of proportional memory (PSS), MiB, of the driver, the workers and all processes together."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = {"driver": 0.0, "workers": 0.0, "all": 0.0}
        self.stop = threading.Event()

    def run(self):
        me = psutil.Process()
        while not self.stop.wait(0.5):
            now = dict.fromkeys(self.most, 0.0)
            for process in [me, *me.children(recursive=True)]:
                try:
                    size, name = process.memory_full_info().pss / 2**20, process.name()
                except psutil.Error:
                    continue
                now["all"] += size
                if process == me or name.startswith("ray::"):
                    now["driver" if process == me else "workers"] += size
            self.most = {name: max(size, now[name]) for name, size in self.most.items()}


def at_scale(work, *, wanted):
    place, warm = StageDir(str(work / "annotation"), stage="annotation"), work / "warm"
    with cluster(work, cpus=2):
        began = time.perf_counter()
        total = corpus(place, wanted=wanted)
        print(f"(c) {len(place.parts())} parts written in {time.perf_counter() - began:.0f} s")
    with cluster(work, cpus=2):  # fresh workers: what writing needed is not counted
        few = subset(place, StageDir(str(work / "few"), stage="annotation"), parts=4)
        run_stage(COUNTS_STAGE, warm, annotation=few)
        memory = Memory()
        memory.start()
        counts, counting = run_stage(COUNTS_STAGE, work / "full", annotation=place)
        _, estimating = run_stage(MATRICES_STAGE, work / "full", annotation=place, counts=counts)
        memory.stop.set()
        memory.join()
    table = StageDir(f"{counts.uri}/total").read(schema=COUNTS)
    assert int(table.column("count").to_numpy().sum()) == total
    print(
        f"    {total:,} transitions: counts {counting:.1f} s ({total / counting / 1e6:.2f} M/s on 2 cores), matrices "
        f"{estimating:.1f} s; peak memory, MiB: driver {memory.most['driver']:.0f}, workers "
        f"{memory.most['workers']:.0f}, with Ray's own processes {memory.most['all']:.0f} (wanted below 2048)"
    )
    em_ratio, em = em_by_size(table, total=total)
    figures = {"transitions": total, "counts_s": counting, "matrices_s": estimating, "peak_mib": memory.most, **em}
    figures["transitions_per_s_2_cores"] = total / counting
    return em_ratio, figures, place


def em_by_size(large, *, total):
    """EM of the preset on 10^4, 10^6 and all transitions."""
    P, sides = chain(K, seed=0), {}
    for name, M in (("1e4", 10**4), ("1e6", 10**6)):
        sides[name] = walk(P, M, seed=1, redraw=False)
    sides["all"] = select(large, polarities=POLARITIES)
    taken, _, _ = in_turn(25, **{name: lambda side=side: estimate(side, K=K) for name, side in sides.items()})
    for name, side in sides.items():
        print(f"    EM on {side.n.sum():>13,} transitions, {side.n.size:>6,} distinct: {taken[name] * 1e3:.1f} ms")
    ratios = {f"em_all_over_em_{name}": taken["all"] / taken[name] for name in ("1e4", "1e6")}
    distinct = {name: side.n.size for name, side in sides.items()}
    return ratios, {"em_ms": {name: 1e3 * one for name, one in taken.items()}, "em_distinct": distinct}


@ray.remote
def wait_here(seconds):
    time.sleep(seconds)
    return os.getpid()


def by_workers(work, place, *, parts, repeats):
    few = subset(place, StageDir(str(work / "subset"), stage="annotation"), parts=parts)
    warm = subset(place, StageDir(str(work / "warming"), stage="annotation"), parts=8)
    taken, cores = {1: [], 2: []}, []
    for turn in range(repeats):
        for cpus, times in taken.items():
            with cluster(work, cpus=cpus):
                while len(set(ray.get([wait_here.remote(1) for _ in range(cpus)]))) < cpus:
                    pass  # until every worker has started
                run_stage(COUNTS_STAGE, work / f"warm-{turn}-{cpus}", annotation=warm)
                before = _cpu_seconds()
                times.append(run_stage(COUNTS_STAGE, work / f"timed-{turn}-{cpus}", annotation=few)[1])
                ours, everyone = (after - one for after, one in zip(_cpu_seconds(), before, strict=True))
                cores.append((cpus, round(ours / times[-1], 2), round((everyone - ours) / times[-1], 2)))
    one, two = (statistics.median(times) for times in taken.values())
    print(
        f"(d) {len(few.parts())} parts, {repeats} turns: 1 worker {one:.2f} s {[round(t, 2) for t in taken[1]]}, "
        f"2 workers {two:.2f} s {[round(t, 2) for t in taken[2]]}: {one / two:.2f}x (wanted 1.7x)\n"
        f"    cores that we had, and that others had meanwhile: {cores}"
    )
    return {"one_worker_over_two": one / two}, {"workers_s": taken, "workers_ours_others": cores}


def _cpu_seconds():
    """CPU seconds so far of this process and those below it, and of all processes."""
    tree, times = [psutil.Process(), *psutil.Process().children(recursive=True)], psutil.cpu_times()
    return sum(sum(process.cpu_times()[:2]) for process in tree), times.user + times.nice + times.system


# --- what is recovered -------------------------------------------------------------------------------------------


def recovery(largest, *, repeats=3):
    P, found = chain(K, seed=0), {}
    print(f"(e) mean l1 error of a row of P, K = {K}: {repeats} corpora of single transitions a size, one of sequences")
    names = ("converged", "efficient", "paper", "redrawn", "(paper)", "hidden", "(paper)")
    print(f"{'M':>14}" + "".join(f"{name:>11}" for name in names))
    for M in (10**power for power in range(3, largest + 1)):
        single = np.mean([errors(P, sample(P, M, seed=r)) for r in range(repeats)], axis=0).tolist()
        redrawn, hidden = (errors(P, walk(P, M, seed=9, redraw=redraw)) for redraw in (True, False))
        found[M] = [single[0], efficient_error(P, M), single[1], *redrawn, *hidden]
        print(f"{M:>14,}" + "".join(f"{value:>11.5f}" for value in found[M]))
    logs = np.log(list(found)), np.log(list(found.values()))
    slopes = dict(zip(("single", "redrawn", "hidden"), np.polyfit(*logs, 1)[0][[0, 3, 5]].tolist(), strict=True))
    print(f"    slope of the log converged error over log M: {slopes}")
    return {"columns": names, "errors": found, "slopes": slopes}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    load, repeats = [os.getloadavg()[0]], 1 if quick else 3
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="mralign-bench-", dir="/tmp") as directory:
        work = Path(directory)
        found = [against_literal(wanted=10**5 if quick else 10**6, repeats=repeats), against_reading(work)]
        *scale, place = at_scale(work, wanted=2 * 10**6 if quick else 10**8)
        load.append(os.getloadavg()[0])
        found += [scale, by_workers(work, place, parts=14 if quick else 100, repeats=repeats)]
    load.append(os.getloadavg()[0])
    found.append(({}, {"recovery": recovery(5 if quick else 7)}))
    ratios, figures = ({name: one[name] for one in side for name in one} for side in zip(*found, strict=True))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {', '.join(f'{one:.1f}' for one in load)}"
    print(json.dumps({"benchmark": "transitions", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
