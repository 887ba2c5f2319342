"""`mralign compare`: every method over several worlds, each at its own choice on dev from one grid."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from mralign.cli.arguments import TakeOver, listed
from mralign.cli.display import display
from mralign.comparison import methods as known
from mralign.run import lease

WORLDS, RATES, EPOCHS, SEEDS = "0,1,2,3", "5e-4,1e-3,2e-3,4e-3", "2,4", "1"
METHODS = ",".join(known.ORDER)


def compare(
    *,
    worlds: Annotated[
        list[str] | None, typer.Option(metavar="SEED,...", help="Seeds of the worlds.", show_default=WORLDS)
    ] = None,
    worlds_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where worlds are found or built, one folder world-SEED each.")
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Where all of it goes.")] = "runs/compare",
    methods: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="The methods.", show_default=METHODS)
    ] = None,
    rates: Annotated[
        list[str] | None, typer.Option(metavar="RATE,...", help="Learning rates of the grid.", show_default=RATES)
    ] = None,
    epochs: Annotated[
        list[str] | None, typer.Option(metavar="N,...", help="Epochs of the grid.", show_default=EPOCHS)
    ] = None,
    seeds: Annotated[
        list[str] | None, typer.Option(metavar="SEED,...", help="Seeds of the trainings on test.", show_default=SEEDS)
    ] = None,
    trainers: Annotated[int, typer.Option(min=1, help="Trainings (and world builds) at a time.")] = 2,
    take_over: TakeOver = False,
) -> None:
    """Every method over several worlds, each method's learning rate and epochs chosen on dev from one grid.

    Worlds that are not there yet are built. Results are appended to OUT/runs.csv, one line a training; a stopped
    comparison goes on where it was. The table is printed and written to OUT/table.txt.
    """
    from mralign.comparison import embedded_worlds  # takes its time
    from mralign.comparison.schedule import RateGrid

    place = Path(out).absolute()
    whole = "whole numbers"
    grid = RateGrid(
        methods=listed(methods or [METHODS], option="--methods", of=_method, allowed=", ".join(known.names())),
        rates=listed(rates or [RATES], option="--rates", of=float, allowed="numbers"),
        epochs=listed(epochs or [EPOCHS], option="--epochs", of=int, allowed=whole),
        tuning_seed=0,
        seeds=listed(seeds or [SEEDS], option="--seeds", of=int, allowed=whole),
    )
    comparison = embedded_worlds.Comparison(
        worlds=listed(worlds or [WORLDS], option="--worlds", of=int, allowed=whole),
        worlds_dir=Path(worlds_dir or place / "worlds").absolute(),
        out=place,
        grid=grid,
        trainers=trainers,
    )
    with ExitStack() as leases:
        for held in [place, *map(comparison.run_dir, comparison.worlds)]:
            leases.enter_context(lease.hold(str(held), take_over=take_over))
        leases.enter_context(display.running(str(place)))
        display.result(embedded_worlds.run(comparison))


def _method(name: str) -> str:
    try:
        known.changes_of(name)
    except ValueError:
        raise KeyError(name) from None
    return name
