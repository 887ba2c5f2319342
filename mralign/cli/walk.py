"""What the commands share that run stages: a checked configuration, and plan, walk, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mralign import report
from mralign.cli.display import display
from mralign.config import RunConfig, load
from mralign.plan import pipeline, plan_text, template_dates
from mralign.presets import PRESETS
from mralign.run import local_ray


def configured(preset: str, *, settings: Sequence[str] | None) -> RunConfig:
    """The configuration that --preset and the settings say, with its dates settled and its directory checked."""
    config = template_dates.settle(load(preset, overrides=settings or (), presets_dir=PRESETS))
    check_run_directory(config)
    return config


def walk(
    config: RunConfig, *, dry_run: bool, take_over: bool, until: str | None = None, only: str | None = None
) -> None:
    """Plan a run; tell the plan and stop where that is asked for, else do what is not finished and print its end."""
    try:
        planned = pipeline.plan(config, until=until, only=only, dry_run=dry_run)
    except pipeline.NotReady as refused:
        if dry_run:  # the plan is told, and then what is wrong
            display.result(plan_text.describe(config, refused.planned))
        raise
    if dry_run:
        display.result(plan_text.describe(config, planned))
        return
    if told := pipeline.nothing_left(config, planned):
        display.result(told)
        return
    with pipeline.writing(config, planned, take_over=take_over) as planned, display.running(config.run.dir):
        report.begin(config)
        planned = pipeline.run(config, planned, start_ray=partial(local_ray.start, config, hears_workers=True))
        display.result(report.publish(config, pipeline.survey(config) if until or only else planned))


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
