"""`mralign study`: methods over small worlds whose truth is known (docs/study.md)."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mralign.cli.arguments import DryRun, TakeOver
from mralign.cli.display import display
from mralign.run import lease


def study(
    *,
    plan: Annotated[str, typer.Option(metavar="NAME|FILE", help="A study by name, or a YAML file.")] = "weights",
    out: Annotated[str, typer.Option(metavar="DIR", help="Where bases and the table of runs go.")] = "runs/study",
    rows: Annotated[
        str | None, typer.Option(metavar="FILE", help="The table of runs; default: runs.csv in --out.")
    ] = None,
    page: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Draw the page from the table of runs into DIR; nothing is measured."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time, a process each.")] = 1,
    hashes: Annotated[bool, typer.Option("--hashes", help="Print the hash of every world and stop.")] = False,
    dry_run: DryRun = False,
    take_over: TakeOver = False,
) -> None:
    """Methods over small worlds with known causes: tuned alike, tested over worlds and seeds, knob by knob.

    The cost is printed first. Every measurement is one row of the table of runs; a stopped study goes on where it was.
    """
    from mralign.comparison.study_plan import read_plan  # takes its time

    wanted = read_plan(plan, check=not hashes)
    file = Path(rows or f"{out}/runs.csv").absolute()
    if hashes:
        print(wanted.hashes())
        return
    if page is not None:
        from mralign.comparison.run_rows import read_rows
        from mralign.comparison.study_page import write_page

        write_page(wanted, read_rows(file), out=Path(page))
        print(f"page: {Path(page) / wanted.page}")
        return
    print(f"study {wanted.name}: {wanted.cost()}")
    if dry_run:
        return
    from mralign.comparison import study as machinery

    place = Path(out).absolute()
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as leases:
        leases.enter_context(lease.hold(str(place), take_over=take_over))
        leases.enter_context(display.running(str(place)))
        left_out = machinery.run(wanted, file=file, cache=place, workers=workers)
        lines = [*(f"left out: {sentence}" for sentence in left_out), f"table of runs: {file}"]
        display.result("\n".join([*lines, f"its page: mralign study --plan {plan} --rows {file} --page DIR"]))
