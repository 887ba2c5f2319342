"""A run from a checked configuration to its page: what the command and the Python API have in common.

A configuration enters; the finished stages, and the text that ends a run, leave.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mralign import report
from mralign.config import RunConfig
from mralign.plan import pipeline
from mralign.plan.model_cards import complete_cards
from mralign.plan.pipeline import Planned
from mralign.plan.stage_seconds import expected_seconds
from mralign.run import local_ray


@dataclass(frozen=True)
class Walked:
    """A run as it stands when it ends: its configuration, its stages, and the text that ends it."""

    config: RunConfig
    planned: tuple[Planned, ...]
    text: str


def walk(
    config: RunConfig,
    planned: Sequence[Planned],
    *,
    take_over: bool = False,
    whole: bool = True,
    showing: AbstractContextManager[object] | None = None,
    hears_workers: bool = False,
    explain: bool = True,
    title: str = "",
    before_page: Callable[[Sequence[Planned]], None] | None = None,
) -> Walked:
    """Do what is not finished of a plan, and write the page.

    `whole` False: the plan holds a part of the run only, and the page shows all of it. `showing` is entered while the
    run goes on, with `hears_workers` it gets what they print. `explain` and `title` as in `pipeline.run`. `before_page`
    is called with the finished stages before the page is written. A finished run that cannot be written is left as it
    is. Raises ValueError for what the user can mend.
    """
    if told := pipeline.nothing_left(config, planned):
        return Walked(config, tuple(planned), told)
    with pipeline.writing(config, planned, take_over=take_over) as held, showing or nullcontext():
        report.begin(config)
        start_ray = partial(local_ray.start, config, hears_workers=hears_workers)
        expected_s = expected_seconds(config, held)
        ended = pipeline.run(config, held, start_ray=start_ray, explain=explain, title=title, expected_s=expected_s)
        if before_page is not None:
            before_page(ended)
        shown = ended if whole else pipeline.survey(config)
        text = report.publish(config, shown)
        complete_cards(config, shown)
        return Walked(config, tuple(shown), text)


def check_trains(config: RunConfig) -> None:
    """Raise ValueError for a configuration that only evaluates."""
    if not config.trains:
        raise ValueError(
            "no training questions: give questions.train (a list of {name, path}) or rollouts.import_on/import_off; "
            "`mralign evaluate` evaluates a model as it is"
        )


def check_run_directory(config: RunConfig) -> None:
    """Raise ValueError for a relative run directory inside a submitted job, whose working directory is thrown away."""
    submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if submitted and "://" not in config.run.dir and not Path(config.run.dir).expanduser().is_absolute():
        raise ValueError(
            f"run.dir={config.run.dir} is relative, but a submitted job runs in a temporary directory; "
            f"give an absolute path or a URI that all nodes see"
        )
