"""A comparison of methods on worlds of the embedded kind: built where they are missing, prepared by a run's own stages.

Seeds enter; each world leaves as a `Prepared` one, its stages up to the examples run by the pipeline (rollouts by
vLLM, labels by the annotators of the preset), ready for the trials that a study of small worlds makes as well. The rows
lie in the same table of runs.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mralign.comparison.choice import choose
from mralign.comparison.methods import configured
from mralign.comparison.run_rows import RunRow
from mralign.comparison.run_sheets import by_world, choice_sheet, difference_sheet, differences, methods_of, side_sheet
from mralign.comparison.schedule import RateGrid, measure, runner
from mralign.comparison.trial import Prepared
from mralign.config import RunConfig, load, resolve_path
from mralign.plan import pipeline, template_dates
from mralign.presets import PRESETS
from mralign.report.sheets import to_text
from mralign.rows.schema import QUESTIONS
from mralign.run import local_ray
from mralign.run.digests import digest
from mralign.run.local_ray import import_environment
from mralign.run.store import absolute
from mralign.training.objectives import find
from mralign.training.reference import shelf_dir
from mralign.training.task_files import Sources

log = logging.getLogger("mralign")
METHOD = "mralign"  # of which the differences from the others are told


@dataclass(frozen=True)
class Comparison:
    """Which worlds are compared over which grid, where all of it lies, and how many trainings run at a time."""

    worlds: tuple[int, ...]
    worlds_dir: Path
    out: Path
    grid: RateGrid
    trainers: int

    def run_dir(self, world: int) -> Path:
        """The run directory of a world."""
        return self.out / f"world-{world}" / "run"


def run(comparison: Comparison) -> str:
    """Build the worlds that are missing, measure, write the table, and return the text that ends the command."""
    out = comparison.out
    build_worlds(comparison.worlds, worlds_dir=comparison.worlds_dir, at_once=comparison.trainers)
    configs = [configure(comparison, world=world) for world in comparison.worlds]
    rows: list[RunRow] = []
    with runner(comparison.trainers) as run_trials:
        for world, config in zip(comparison.worlds, configs, strict=True):
            start_ray = partial(local_ray.start, config)
            prepared = prepare(config, world=f"world-{world}", methods=comparison.grid.methods, start_ray=start_ray)
            rows += measure(prepared, grid=comparison.grid, file=out / "runs.csv", run=run_trials)
    text = table_text(rows)
    (out / "table.txt").write_text(text + "\n")
    return f"{text}\n\nevery training: {out / 'runs.csv'}\nthis table: {out / 'table.txt'}"


def table_text(rows: Sequence[RunRow]) -> str:
    """Every method by world, its differences from METHOD, what else it changed, and what was chosen."""
    parts = ["Acc on test", to_text(by_world(rows, measure="acc"))]
    parts += ["", "Mis on test", to_text(by_world(rows, measure="mis"))]
    others = [name for name in methods_of(rows) if name != METHOD]
    found = differences(rows, method=METHOD, references=others)
    if found:
        parts += ["", to_text(difference_sheet(found, method=METHOD))]
    parts += ["", to_text(side_sheet(rows))]
    chosen = list(choose(row for row in rows if row.split == "dev").values())
    return "\n".join([*parts, "", to_text(choice_sheet(chosen))])


def build_worlds(worlds: Sequence[int], *, worlds_dir: Path, at_once: int) -> None:
    """Build the worlds that are missing, `at_once` processes at a time."""
    missing = [world for world in worlds if not (worlds_dir / f"world-{world}" / "world.json").exists()]
    environment = {**os.environ, **import_environment()}
    for start in range(0, len(missing), at_once):
        batch = missing[start : start + at_once]
        log.info("building worlds %s", batch)
        commands = []
        for world in batch:
            target = str(worlds_dir / f"world-{world}")
            commands.append([sys.executable, "-m", "mralign.miniworld", "build", "--seed", str(world), "--out", target])
        running = [subprocess.Popen(command, env=environment) for command in commands]
        codes = [process.wait() for process in running]  # wait for all, also after a failure
        if any(codes):
            raise ValueError(f"building worlds {batch} failed; see the messages above")


def configure(comparison: Comparison, *, world: int) -> RunConfig:
    """The preset `miniworld` with this world's model and questions."""
    base = comparison.worlds_dir / f"world-{world}"
    overrides = [f"run.dir={comparison.run_dir(world)}", f"run.seed={world}", f"model.path={base}/model"]
    overrides += [
        f"questions.{split}=[{{name: miniworld, path: {base}/questions/{split}.jsonl}}]"
        for split in ("train", "dev", "test")
    ]
    overrides += ["training.workers=1", "training.micro_batch_tokens=2048"]
    return template_dates.settle(load("miniworld", overrides=overrides, presets_dir=PRESETS))


def prepare(config: RunConfig, *, world: str, methods: Sequence[str], start_ray: Callable[[], None]) -> Prepared:
    """Run the stages up to the examples, with the weights of every method."""
    configs = {method: configured(config, method) for method in methods}
    sources = {}
    for method, own in configs.items():
        planned = pipeline.run(own, pipeline.plan(own, until="examples"), start_ray=start_ray)
        out = {item.stage.name: item.out for item in planned}
        weights = out["weights"] if find(own.training.method).weights else None
        shelf = shelf_dir(absolute(own.run.dir))
        sources[method] = Sources(own.training, own.model, own.run.seed, out["examples"], weights, shelf=shelf)
        questions = out["questions"]
    tables = {split: questions.read_parts(questions.parts(split), schema=QUESTIONS) for split in ("dev", "test")}
    identity = f"{questions.fingerprint} {digest(resolve_path(config.model.path))}"
    return Prepared(world, identity, config, tables, configs, sources)
