"""The command `mralign` inside a test's own process: what its parser makes of arguments, and what it prints."""

import logging

from typer.main import get_command

from mralign.cli import commands


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
    root.handlers.clear()  # the command sets its own, on the standard error of now
    try:
        status = commands.run(arguments)
    finally:
        root.handlers[:] = before
    return status, *capsys.readouterr()
