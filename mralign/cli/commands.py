"""All commands of `mralign` by name, and what reads their arguments.

A command is a function whose parameters are its options; typer makes the parser and the help of it. What a command
raises becomes a sentence and an exit status, see guard.py.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import typer
from typer.main import get_command

from mralign import __version__
from mralign.cli.ablate import ablate
from mralign.cli.align import align
from mralign.cli.compare import compare
from mralign.cli.doctor import doctor
from mralign.cli.evaluate import evaluate
from mralign.cli.guard import guarded
from mralign.cli.look import report, view
from mralign.cli.own_taxonomy import taxonomy
from mralign.cli.settings import config
from mralign.cli.signal_check import signal
from mralign.cli.status import status

NAME = "mralign"
_COMPLETES = "_MRALIGN_COMPLETE"  # a shell that wants completions sets it

app = typer.Typer(name=NAME, rich_markup_mode=None, pretty_exceptions_enable=False)
for command in (align, evaluate, compare, ablate, taxonomy, signal, status, report, view, config, doctor):
    app.command()(command)


@app.callback(invoke_without_command=True)
def mralign(context: typer.Context) -> None:
    """Align how a reasoning model thinks, so that a right thought ends in a right answer."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def version() -> None:
    """The version of mralign."""
    typer.echo(f"mralign {__version__}")


def run(arguments: Sequence[str]) -> int:
    """Exit status of the command that `arguments` name."""
    return guarded(lambda: _dispatch(list(arguments)))


def _dispatch(arguments: list[str]) -> None:
    """Parse and run. Typer's own `main` would turn an interruption into its own exit status."""
    group = get_command(app)
    if _COMPLETES in os.environ:
        group.main(arguments, prog_name=NAME)
    try:
        with group.make_context(NAME, arguments) as context:
            group.invoke(context)
    except typer.Exit:  # after --help, and the like
        return
