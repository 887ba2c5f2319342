"""`mralign align`: from questions to an aligned model and a report."""

from __future__ import annotations

from typing import Annotated

import typer

from mralign.cli.arguments import DryRun, Preset, Settings, TakeOver
from mralign.cli.walk import configured, walk, walk_rounds
from mralign.plan.walking import check_trains


def align(
    settings: Settings = None,
    *,
    preset: Preset = "miniworld",
    until: Annotated[str | None, typer.Option(metavar="STAGE", help="Stop after this stage.")] = None,
    only: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Run this stage and those that it stands on, no other.")
    ] = None,
    dry_run: DryRun = False,
    take_over: TakeOver = False,
) -> None:
    """The run: from questions to an aligned model and a report.

    On a laptop a local Ray is started; on a cluster, by `ray job submit -- python jobs/align.py ...`, the cluster is
    joined. Stop it at any time, run it again: it goes on where it was.
    """
    config = configured(preset, settings=settings)
    check_trains(config)
    if config.run.rounds > 1:
        walk_rounds(config, dry_run=dry_run, take_over=take_over, until=until, only=only)
        return
    walk(config, dry_run=dry_run, take_over=take_over, until=until, only=only)
