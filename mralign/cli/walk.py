"""What the commands share that run stages: a checked configuration, and plan, walk, report."""

from __future__ import annotations

from collections.abc import Sequence

from mralign.cli.display import display
from mralign.config import RunConfig, load
from mralign.plan import pipeline, plan_text, round_loop, template_dates, walking
from mralign.plan.plan_of_rounds import describe_rounds
from mralign.plan.round_config import check_rounds, first_round
from mralign.plan.walking import check_run_directory
from mralign.presets import PRESETS


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
    walked = walking.walk(
        config,
        planned,
        take_over=take_over,
        whole=not (until or only),
        showing=display.running(config.run.dir),
        hears_workers=True,
    )
    display.result(walked.text)


def walk_rounds(config: RunConfig, *, dry_run: bool, take_over: bool, until: str | None, only: str | None) -> None:
    """As `walk`, for a run of several rounds."""
    check_rounds(config, until=until, only=only)
    if dry_run:
        walk(first_round(config), dry_run=True, take_over=take_over)
        display.result(describe_rounds(config))
        return
    walked = round_loop.walk_rounds(
        config, take_over=take_over, showing=display.running(config.run.dir), hears_workers=True
    )
    display.result(walked.text)
