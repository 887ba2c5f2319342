"""All commands of `mralign` by name, and what reads their arguments.

A command is a function whose parameters are its options; typer makes the parser and the help of it. Its module is
imported when the command is wanted: a shell that completes a word waits for none of the others. What a command raises
becomes a sentence and an exit status, see guard.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module

import typer
from typer.core import TyperGroup
from typer.main import get_command

from mralign import __version__

NAME = "mralign"
_COMPLETES = "_MRALIGN_COMPLETE"  # a shell that wants completions sets it

# Where the function of each command is. Those that run stages have the options of the display as well.
RUNS = {
    "align": "mralign.cli.align:align",
    "evaluate": "mralign.cli.evaluate:evaluate",
    "compare": "mralign.cli.compare:compare",
    "study": "mralign.cli.run_study:study",
    "ablate": "mralign.cli.ablate:ablate",
    "taxonomy": "mralign.cli.own_taxonomy:taxonomy",
}
LOOKS = {
    "signal": "mralign.cli.signal_check:signal",
    "distill": "mralign.cli.distill:distill",
    "status": "mralign.cli.status:status",
    "report": "mralign.cli.look:report",
    "view": "mralign.cli.look:view",
    "batches": "mralign.cli.batch_jobs:batches",
    "export": "mralign.cli.export_run:export",
    "fetch": "mralign.cli.fetch:fetch",
    "config": "mralign.cli.settings:config",
    "doctor": "mralign.cli.doctor:doctor",
    "version": "mralign.cli.commands:version",
}
COMMANDS = {**RUNS, **LOOKS}


class Commands(TyperGroup):
    """The group of all commands, each made when it is asked for."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # typer's own kind of context
        return list(COMMANDS)

    def get_command(self, ctx: typer.Context, cmd_name: str):  # type: ignore[no-untyped-def,override]
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = get_command(_alone(cmd_name))
        if cmd_name not in COMMANDS:  # all are made, so that typer can suggest one
            self.commands.update((name, get_command(_alone(name))) for name in COMMANDS)
        return self.commands.get(cmd_name)


def _alone(name: str) -> typer.Typer:
    """An application of this command alone."""
    module, _, function = COMMANDS[name].partition(":")
    command: Callable[..., None] = getattr(import_module(module), function)
    if name in RUNS:
        from mralign.cli.display_options import shown

        command = shown(command)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    alone.command(name)(command)
    return alone


app = typer.Typer(name=NAME, cls=Commands, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def mralign(context: typer.Context) -> None:
    """Align how a reasoning model thinks, so that a right thought ends in a right answer."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def version() -> None:
    """The version of mralign."""
    typer.echo(f"mralign {__version__}")


def run(arguments: Sequence[str]) -> int:
    """Exit status of the command that `arguments` name."""
    if _COMPLETES in os.environ:
        get_command(app).main(list(arguments), prog_name=NAME)  # ends the process
    from mralign.cli.guard import guarded

    return guarded(lambda: _dispatch(list(arguments)))


def _dispatch(arguments: list[str]) -> None:
    """Parse and run. Typer's own `main` would turn an interruption into its own exit status."""
    group = get_command(app)
    try:
        with group.make_context(NAME, arguments) as context:
            group.invoke(context)
    except (typer.Exit, SystemExit):  # after --help, --show-completion and the like
        return
