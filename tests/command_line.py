"""The command `mralign` inside a test's own process: what its parser makes of arguments, and what it prints."""

import logging
import sys

from typer.main import get_command

from mralign.cli import commands
from mralign.cli.display import display


def parsed(name, *arguments):
    """The parameters of a command by name, as its function would get them; a fault of usage is raised."""
    group = get_command(commands.app)
    with group.make_context("mralign", ["--show-nothing"], resilient_parsing=True) as context:
        command = group.get_command(context, name)
        assert command is not None, f"there is no command {name}"
        return command.make_context(name, list(arguments), parent=context).params


def ran(capsys, *arguments):
    """Exit status, output and errors of the command."""
    capsys.readouterr()
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers.clear()  # the command sets its own
    stream, display._lines.stream = display._lines.stream, sys.stderr  # that of now, which pytest reads
    try:
        status = commands.run(arguments)
    finally:
        root.handlers[:] = before
        display._lines.stream = stream
    return status, *capsys.readouterr()
