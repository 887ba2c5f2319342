"""Every method over several worlds, each method's learning rate and epochs chosen on dev from one grid.

    python jobs/compare.py [--worlds 0 1 2 3] [--out runs/compare] [--methods sft kto mralign ...] [--worlds-dir DIR]

Worlds that are not there yet are built. Results are appended to OUT/results.jsonl, one line a checkpoint; a stopped
comparison goes on where it was. The table is printed and written to OUT/table.txt.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from mralign.run import interruption  # noqa: E402

if __name__ == "__main__":
    interruption.listen()  # before the imports that take their time

from align import guarded, job_parser, start_ray  # noqa: E402

from mralign.comparison import choice, stage  # noqa: E402
from mralign.config import RunConfig, load  # noqa: E402
from mralign.plan import template_dates  # noqa: E402
from mralign.run import lease  # noqa: E402

log = logging.getLogger("mralign")


def main(arguments: list[str] | None = None) -> int:
    return guarded(lambda: run(_parser().parse_args(arguments)))


def run(args: argparse.Namespace) -> None:
    """Compare while no other driver writes into OUT or into the run directory of one of its worlds."""
    out = Path(args.out).absolute()
    args.worlds = list(dict.fromkeys(args.worlds))
    with ExitStack() as leases:
        for place in [out, *(out / f"world-{world}" / "run" for world in args.worlds)]:
            leases.enter_context(lease.hold(str(place), take_over=args.take_over))
        compare(args, out=out)


def compare(args: argparse.Namespace, *, out: Path) -> None:
    """Build the worlds that are missing, measure, and print the table."""
    worlds_dir = Path(args.worlds_dir or out / "worlds").absolute()
    build_worlds(args.worlds, worlds_dir=worlds_dir, at_once=args.trainers)
    configs = {
        world: configure(world, worlds_dir=worlds_dir, out=out, epochs=max(args.epochs)) for world in args.worlds
    }
    prepared = {
        world: stage.prepare(config, methods=args.methods, start_ray=partial(start_ray, config))
        for world, config in configs.items()
    }
    start_ray(configs[args.worlds[0]])
    results = measure(args, prepared, out=out)
    chosen = choice.choose([row for row in results if row["split"] == "dev"])
    judged = {stage.setting_of(row) for row in chosen.values()}
    methods = [row for row in results if row["split"] == "test" and stage.setting_of(row) in judged]
    bases = [row for row in results if row["split"] == "test" and row["epochs"] is None]
    settings = [
        f"  world {world} {method}: lr {row['learning_rate']:g}, {row['epochs']} epochs"
        for (world, method), row in sorted(chosen.items())
    ]
    text = "\n".join([choice.summarize([*methods, *bases]), "", "chosen on dev:", *settings])
    (out / "table.txt").write_text(text + "\n")
    print(f"{text}\n\nevery checkpoint: {out / 'results.jsonl'}\nthis table: {out / 'table.txt'}")


def build_worlds(worlds: list[int], *, worlds_dir: Path, at_once: int) -> None:
    """Build the worlds that are missing, `at_once` processes at a time."""
    missing = [world for world in worlds if not (worlds_dir / f"world-{world}" / "world.json").exists()]
    for start in range(0, len(missing), at_once):
        batch = missing[start : start + at_once]
        log.info("building worlds %s", batch)
        commands = []
        for world in batch:
            target = str(worlds_dir / f"world-{world}")
            commands.append([sys.executable, "-m", "mralign.miniworld", "build", "--seed", str(world), "--out", target])
        running = [subprocess.Popen(command, cwd=HERE.parent) for command in commands]
        codes = [process.wait() for process in running]  # wait for all, also after a failure
        if any(codes):
            raise SystemExit(f"building worlds {batch} failed; see the messages above")


def configure(world: int, *, worlds_dir: Path, out: Path, epochs: int) -> RunConfig:
    """The preset `miniworld` with this world's model and questions; the reference is planned for the longest run."""
    base = worlds_dir / f"world-{world}"
    overrides = [f"run.dir={out}/world-{world}/run", f"run.seed={world}", f"model.path={base}/model"]
    overrides += [
        f"questions.{split}=[{{name: miniworld, path: {base}/questions/{split}.jsonl}}]"
        for split in ("train", "dev", "test")
    ]
    overrides += [f"training.epochs={epochs}", "training.workers=1", "training.micro_batch_tokens=2048"]
    return template_dates.settle(load("miniworld", overrides=overrides, presets_dir=HERE / "presets"))


def measure(args: argparse.Namespace, prepared: dict[int, stage.Prepared], *, out: Path) -> list[dict[str, Any]]:
    """The base on test, the grid on dev, then every method's choice once on test; the rows of this comparison.

    Rows of an earlier comparison count where everything they stand on is the same (`mark`).
    """
    import ray

    results = choice.read_results(out / "results.jsonl")

    def write(row: dict[str, Any]) -> None:
        results.append(row)
        with (out / "results.jsonl").open("a") as stream:
            stream.write("\n" + json.dumps(row))  # a line cut short by a kill stays a line of its own
        found = row["metrics"]
        log.info("%s %s Acc %.3f Mis %s", row["split"], stage.setting_of(row)[:4], found["acc"], found["mis"])

    trainers = [ray.remote(stage.Trainer).options(num_cpus=1).remote() for _ in range(args.trainers)]
    wanted: set[tuple[Any, ...]] = set()
    for world, item in prepared.items():
        points = choice.grid([world], methods=args.methods, rates=args.rates, epochs=args.epochs)
        by_setting = {(world, p.method, p.learning_rate, p.epochs, item.mark(p.method)): p for p in points}
        wanted |= by_setting.keys()
        wanted |= {(world, f"base_think_{mode}", None, None, item.mark()) for mode in ("off", "on")}
        there = {stage.setting_of(row) for row in results if row["split"] == "dev"}
        todo = [point for setting, point in by_setting.items() if setting not in there]
        server = stage.start_server(item)
        tests = [row for row in results if row["split"] == "test"]
        stage.evaluate_base(item, world=world, server=server, done=tests, write=write)
        stage.run_grid(todo, prepared, server=server, trainers=trainers, work=out / "models", write=write)
        chosen = choice.choose([r for r in results if r["split"] == "dev" and stage.setting_of(r) in by_setting])
        stage.evaluate_choices(
            item, chosen, world=world, server=server, trainers=trainers, work=out / "models", done=tests, write=write
        )
        ray.kill(server)
        shutil.rmtree(out / "models" / str(world), ignore_errors=True)
    return [row for row in results if stage.setting_of(row) in wanted]


def _parser() -> argparse.ArgumentParser:
    parser = job_parser(__doc__, preset=False, settings=False)
    parser.add_argument("--worlds", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds of the worlds")
    parser.add_argument("--worlds-dir", help="where worlds are found or built, one folder world-SEED each")
    parser.add_argument("--out", default="runs/compare")
    parser.add_argument("--methods", nargs="+", choices=list(choice.METHODS), default=list(choice.METHODS))
    parser.add_argument("--rates", type=float, nargs="+", default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--trainers", type=int, default=2, help="trainings (and world builds) at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
