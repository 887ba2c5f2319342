"""Tokens, requests, money and seconds for the same rows: the plain way against the thrifty one.

    python tests/benchmarks/thrift.py [--quick] [--repeats 3] [--limit QUESTIONS] [--only draws | overlap]
                                       [--latency SECONDS]

First every draw of every question, against draws as needed: the embedded world under the paper's verdict (three draws a
mode, all of one mind, the first thought within its length), by turns on one engine that is kept, each time in a new run
directory; both must leave equal candidates. Money: the completion tokens at `PRICE` for a million of them.
Then rollouts, candidates and annotation by slow endpoints, one after the other against overlapped (_overlapped.py);
both must leave equal rows after as many requests. And how much of the prompts was found in a prefix cache; those of the
embedded world's draws are shorter than a block of vLLM's on a CPU (prefixes.py has prompts of usual length).
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "integration")]
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from _overlapped import STAGES, compare  # noqa: E402

from quiet_ray import quiet_ray  # noqa: E402

from mralign.config import load  # noqa: E402
from mralign.plan import pipeline  # noqa: E402
from mralign.presets import PRESETS  # noqa: E402
from mralign.rows.schema import CANDIDATES, GENERATIONS  # noqa: E402
from mralign.run.held import holding  # noqa: E402

PRICE = 0.2  # of a million completion tokens of an 8B model at a host, as in the documentation of the settings
WAYS = {"all": "rollouts.order=all", "needed": "rollouts.order=needed"}


def measure(way, *, work, number, limit):
    """Walk to the candidates; the rows that are kept, and what they took."""
    source = "pkg://mralign.miniworld/data/questions/train.jsonl"
    settings = [
        f"run.dir={work}/{way}-{number}",
        f"questions.train=[{{name: miniworld, path: {source!r}, limit: {limit}}}]",
        "questions.test=[]",
        "questions.dev=[]",
        "engine.batch_size=64",
        "candidates.keep_neutral=false",
        "candidates.keep_all_draws=false",
        "candidates.max_thought_tokens=80",
        WAYS[way],
    ]
    config = load("miniworld", overrides=settings, presets_dir=PRESETS)
    planned = pipeline.plan(config, until="candidates")
    planned = pipeline.run(config, planned, start_ray=lambda: None)
    rollouts, judged = (pipeline.find(planned, name).out for name in ("rollouts", "candidates"))
    made = rollouts.read(schema=GENERATIONS, columns=["completion_tokens"])
    figures = rollouts.manifest().figures
    took = {
        "requests": made.num_rows,
        "tokens": sum(made.column("completion_tokens").to_pylist()) + figures.get("tokens_asked_again", 0),
        "seconds": figures["generating_s"],
        "cached": figures["prefix_tokens"] / figures["prompt_tokens"],
    }
    kept = sorted(judged.read(schema=CANDIDATES).to_pylist(), key=lambda row: row["row_id"])
    return kept, took, figures


def run(*, repeats, limit, work):
    """What each way took, by repeat; the candidates are compared each time."""
    found = {way: [] for way in WAYS}
    estimates = []
    with holding():
        measure("all", work=work, number="warm", limit=32)  # the engine's start and its first steps count for neither
        for number in range(repeats):
            kept = {}
            for way in WAYS:
                kept[way], took, figures = measure(way, work=work, number=number, limit=limit)
                found[way].append(took)
            assert kept["all"] == kept["needed"] and kept["all"]
            estimates.append(figures["share_of_tokens_sampled_estimate"])
    return found, estimates, len(kept["all"])


def report_draws(found, *, estimates, kept, limit):
    """The table of all draws and those that are needed; ratios and figures."""
    medians = {}
    for way, runs in found.items():
        medians[way] = {name: statistics.median(took[name] for took in runs) for name in runs[0]}
        medians[way]["money"] = medians[way]["tokens"] * PRICE / 1e6
    print(f"{limit} questions, {kept} candidates, the same both ways")
    print(f"{'':8} {'draws':>9} {'tokens':>10} {'seconds':>9} {'money':>10}")
    for way, took in medians.items():
        print(f"{way:8} {took['requests']:9} {took['tokens']:10} {took['seconds']:9.2f} {took['money']:10.6f}")
    compared = [name for name in medians["all"] if name != "cached"]
    ratios = {name: round(medians["needed"][name] / medians["all"][name], 3) for name in compared}
    print(f"{'ratio':8} " + " ".join(f"{name} {value}" for name, value in ratios.items()))
    print(f"the stage's own estimate of the share of tokens: {estimates}")
    print(f"draws' prompt tokens in vLLM's prefix cache: all {medians['all']['cached']:.3f}, ", end="")
    print(f"needed {medians['needed']['cached']:.3f}")
    return ratios, {"medians": medians, "candidates": kept, "share_estimates": estimates}


def report_overlap(overlap):
    """The table of stages in turn and overlapped; ratios and figures."""
    rows, requests = len(overlap["in turn"][-1]["rows"]), overlap["in turn"][-1]["requests"]
    print(
        f"\nslow endpoints, both ways: {rows} labelled thoughts, {requests[1]} draws, {requests[0]} requests for labels"
    )
    print(f"{'seconds':12} {'wall':>7} " + " ".join(f"{name:>11}" for name in STAGES))
    walls, sums = {}, {}
    for way, runs in overlap.items():
        stages = {name: statistics.median(run["stages_s"][name] for run in runs) for name in STAGES}
        walls[way] = statistics.median(run["wall_s"] for run in runs)
        sums[way] = sum(stages.values())
        print(f"{way:12} {walls[way]:7.2f} " + " ".join(f"{seconds:11.2f}" for seconds in stages.values()))
    cached = {way: runs[-1]["cached"] for way, runs in overlap.items()}
    print(f"labelling prompts in the server's prefix cache: {cached['in turn']:.3f}, {cached['overlapped']:.3f}")
    ratios = {
        "overlapped_over_in_turn": round(walls["overlapped"] / walls["in turn"], 3),
        "overlapped_over_sum_of_stages": round(walls["overlapped"] / sums["in turn"], 3),
    }
    return ratios, {"wall_s": walls, "annotators_cached": cached["in turn"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--only", choices=["draws", "overlap"], help="one of the two parts; both where left out")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds that a slow endpoint takes at most")
    args = parser.parse_args()
    repeats, limit = args.repeats or (1 if args.quick else 3), args.limit or (100 if args.quick else 600)
    ratios, figures = {}, {}
    with tempfile.TemporaryDirectory(prefix="mralign-bench-", dir="/tmp") as directory:
        work = Path(directory)
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the servers end while clients are connected
        with quiet_ray(work, paths=sys.path[:3]):
            if args.only != "overlap":
                found, estimates, kept = run(repeats=repeats, limit=limit, work=work)
                ratios, figures = report_draws(found, estimates=estimates, kept=kept, limit=limit)
            if args.only != "draws":
                count = 8 if args.quick else 120
                overlap = compare(work, count=count, latency_s=args.latency, repeats=repeats)
                more, told = report_overlap(overlap)
                ratios, figures = ratios | more, figures | told
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(json.dumps({"benchmark": "thrift", "ratios": ratios, "figures": figures, "machine": machine}))


if __name__ == "__main__":
    main()
