"""What a comparison of methods is made of: its worlds, built where they are missing, and the configuration of each."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mralign.config import RunConfig, load
from mralign.plan import template_dates
from mralign.presets import PRESETS
from mralign.run.local_ray import import_environment

log = logging.getLogger("mralign")


@dataclass(frozen=True)
class Comparison:
    """Which methods are compared on which worlds, the grid that each method chooses from, and where all of it lies."""

    worlds: tuple[int, ...]
    worlds_dir: Path
    out: Path
    methods: tuple[str, ...]
    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    trainers: int

    def run_dir(self, world: int) -> Path:
        """The run directory of a world."""
        return self.out / f"world-{world}" / "run"


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
    """The preset `miniworld` with this world's model and questions; the reference is planned for the longest run."""
    base = comparison.worlds_dir / f"world-{world}"
    overrides = [f"run.dir={comparison.run_dir(world)}", f"run.seed={world}", f"model.path={base}/model"]
    overrides += [
        f"questions.{split}=[{{name: miniworld, path: {base}/questions/{split}.jsonl}}]"
        for split in ("train", "dev", "test")
    ]
    longest = max(comparison.epochs)
    overrides += [f"training.epochs={longest}", "training.workers=1", "training.micro_batch_tokens=2048"]
    return template_dates.settle(load("miniworld", overrides=overrides, presets_dir=PRESETS))
