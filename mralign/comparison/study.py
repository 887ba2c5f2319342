"""A study is run: world by world prepared and measured, its rows kept, until nothing of its plan is missing."""

from __future__ import annotations

import logging
from pathlib import Path

from mralign.comparison import small_worlds
from mralign.comparison.choice_page import check_choice
from mralign.comparison.run_rows import read_rows
from mralign.comparison.schedule import measure, runner
from mralign.comparison.study_plan import CHOICE, StudyPlan

log = logging.getLogger("mralign")


def run(plan: StudyPlan, *, file: Path, cache: Path, workers: int) -> list[str]:
    """Measure what the table of runs lacks. Returns a sentence for each world that could not be prepared: its base has
    left too few positives or negatives."""
    left_out = []
    with runner(workers) as run_trials:
        for place, world in enumerate(plan.ready, start=1):
            log.info("world %d of %d: %s", place, len(plan.ready), world.name)
            if world.factor != CHOICE:
                check_choice(plan, read_rows(file))
            try:
                prepared = small_worlds.prepare(
                    world.knobs, world=world.name, cache=cache, methods=world.grid.methods, smaller=plan.smaller
                )
            except small_worlds.TooFewExamples as error:
                log.warning("%s is left out: %s", world.name, error)
                left_out.append(f"{world.name}: {error}")
                continue
            measure(prepared, grid=world.grid, file=file, run=run_trials)
    return left_out
