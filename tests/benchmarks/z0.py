"""z0 from some of a batch's mismatched pairs, against z0 from all of them: how much it varies, and what training does.

    python tests/benchmarks/z0.py [--quick] [--seeds 3] [--pairs 4]

The embedded world, KTO with the paper's weights, batches of 16, the reference by the stage itself. At every step of
the training by all pairs, the log-ratio of each pair is kept. From them come, averaged over the steps: the variance
among the pairs of a batch divided by their number (the error that an estimate from the whole batch already has), and
the variance that is added by taking only some pairs, spread over polarities and lengths (`training.kl_pairs`) or at
random. Then the same training runs with `training.kl_pairs`, and the two are compared step by step, their curves of the
loss beside each other.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from quiet_ray import quiet_ray  # noqa: E402

from mralign.config import load  # noqa: E402
from mralign.plan import pipeline  # noqa: E402
from mralign.presets import PRESETS  # noqa: E402
from mralign.run.held import holding  # noqa: E402
from mralign.training import loop  # noqa: E402
from mralign.training.batches import layout  # noqa: E402
from mralign.training.checkpoint import State  # noqa: E402
from mralign.training.engine import World, prepare_process, start_engine  # noqa: E402
from mralign.training.pairs import spread  # noqa: E402
from mralign.training.policy import build_policy  # noqa: E402
from mralign.training.reference import shelf_dir  # noqa: E402
from mralign.training.task_files import Sources  # noqa: E402

DRAWS = 400  # of subsets, a step
TENTHS = 10


@dataclass
class Trained:
    """A training: its figures by step, its seconds, and the log-ratios of its pairs by step, if they were kept."""

    history: list
    seconds: float
    ratios: list


def walked(work, *, seed, pairs, limit):
    """The sources of a training whose road is walked up to its reference."""
    source = "pkg://mralign.miniworld/data/questions/train.jsonl"
    settings = [
        f"run.dir={work}/run",
        f"run.seed={seed}",
        f"questions.train=[{{name: miniworld, path: {source!r}, limit: {limit}}}]",
        "questions.test=[]",
        "questions.dev=[]",
        f"training.kl_pairs={'null' if pairs is None else pairs}",
        "training.workers=1",
        "training.threads_per_worker=2",
        f"training.checkpoint_every={10**9}",
    ]
    config = load("miniworld", overrides=settings, presets_dir=PRESETS)
    planned = pipeline.run(config, pipeline.plan(config, until="reference"), start_ray=lambda: None)
    out = {item.stage.name: item.out for item in planned}
    return Sources(
        settings=config.training,
        model=config.model,
        seed=seed,
        examples=out["examples"],
        weights=out["weights"],
        reference=out["reference"],
        shelf=shelf_dir(config.run.dir),
    )


def ratios_of(engine, task, step):
    """log-ratio of each mismatched pair of a step, float64 (P,), and the order by kind in which `spread` takes them."""
    batch = task.plan.batch(step)
    placed = np.flatnonzero(batch.partners >= 0)
    pairs = task.reader.pairs(batch.examples[placed], batch.partners[placed])
    with torch.no_grad():
        micro = layout(task.settings)(pairs)
        sums_P = micro.sum(engine(micro).double()).numpy()
    order = np.argsort(task.reader.index.kind_N[batch.partners[placed]], kind="stable")
    return sums_P - loop.pair_sums(task, step), order


def trained(sources, *, keep_ratios):
    """One training in this process."""
    task = sources.load()
    prepare_process(task.settings)
    engine = start_engine(
        build_policy(task.model, task.settings, seed=task.seed), task.settings, rate=task.rate, world=World()
    )
    found = Trained([], 0.0, [])
    estimate = loop.batch_z0

    def watched(engine, task, step, **rest):
        began = time.perf_counter()
        found.ratios.append(ratios_of(engine, task, step))
        found.seconds -= time.perf_counter() - began
        return estimate(engine, task, step, **rest)

    loop.batch_z0 = watched if keep_ratios else estimate
    began = time.perf_counter()
    try:
        state = loop.train(engine, task, world=World(), state=State(), save=lambda state: None)
    finally:
        loop.batch_z0 = estimate
    found.seconds += time.perf_counter() - began
    found.history = state.history
    engine.destroy()
    return found


def variances(ratios, *, count, rng):
    """Means over the steps: of the whole batch's estimate, and what fewer pairs add, spread and at random."""
    whole, spread_out, by_chance = [], [], []
    for ratio_P, order in ratios:
        count_here = min(count, len(ratio_P))
        whole.append(ratio_P.var(ddof=1) / len(ratio_P))
        chosen = [ratio_P[spread(order, count=count_here, rng=rng)].mean() for _ in range(DRAWS)]
        spread_out.append(np.mean((np.array(chosen) - ratio_P.mean()) ** 2))
        by_chance.append(ratio_P.var(ddof=1) / count_here * (1 - count_here / len(ratio_P)))
    return {"whole batch": np.mean(whole), "added, spread": np.mean(spread_out), "added, random": np.mean(by_chance)}


def differences(few, whole):
    """Between two trainings: root mean square of z0's and the loss's differences by step, and both last losses."""
    found = {}
    for key in ("z0", "loss"):
        a, b = (np.array([row[key] for row in one.history]) for one in (few, whole))
        found[f"rms {key}"] = float(np.sqrt(np.mean((a - b) ** 2)))
    last = {
        name: float(np.mean([row["loss"] for row in one.history[-10:]])) for name, one in (("few", few), ("all", whole))
    }
    return found | {f"last loss, {name}": value for name, value in last.items()}


def curve(one):
    """The loss of a training: the mean of each tenth of its steps."""
    return [float(np.mean(part)) for part in np.array_split([row["loss"] for row in one.history], TENTHS)]


def run(*, seeds, count, limit, work):
    found, curves = [], []
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        kept = {}
        for pairs in (None, count):
            kept[pairs] = trained(walked(work, seed=seed, pairs=pairs, limit=limit), keep_ratios=pairs is None)
        row = variances(kept[None].ratios, count=count, rng=rng) | differences(kept[count], kept[None])
        row["seconds, few over all"] = kept[count].seconds / kept[None].seconds
        found.append({name: float(value) for name, value in row.items()})
        curves.append({"all": curve(kept[None]), "few": curve(kept[count])})
        print(f"seed {seed}: {json.dumps([found[-1], curves[-1]])}", file=sys.stderr, flush=True)
    return found, curves


def report(found, curves, *, count):
    names = list(found[0])
    width = max(map(len, names)) + 2
    print(f"{count} of 16 pairs; a column a seed")
    for name in names:
        print(f"{name:{width}}" + "".join(f"{row[name]:12.5f}" for row in found))
    print(f"loss by tenths of the steps, seed by seed, by all pairs and by {count}")
    for row in curves:
        for name, losses in row.items():
            print(f"{name:{width}}" + "".join(f"{loss:8.4f}" for loss in losses))
    median = {name: statistics.median(row[name] for row in found) for name in names}
    ratios = {
        "added variance, spread over random": median["added, spread"] / median["added, random"],
        "added variance, spread over the whole batch's own": median["added, spread"] / median["whole batch"],
        "seconds": median["seconds, few over all"],
    }
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    figures = {"seeds": found, "curves": curves, "pairs": count}
    print(json.dumps({"benchmark": "z0", "ratios": ratios, "figures": figures, "machine": machine}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--pairs", type=int, default=4)
    args = parser.parse_args()
    os.environ.setdefault("MASTER_PORT", "29541")
    seeds = args.seeds or (1 if args.quick else 3)
    with (
        tempfile.TemporaryDirectory(prefix="mralign-bench-", dir="/tmp") as directory,
        quiet_ray(directory),
        holding(),
    ):
        found, curves = run(seeds=seeds, count=args.pairs, limit=100 if args.quick else 600, work=directory)
    report(found, curves, count=args.pairs)


if __name__ == "__main__":
    main()
