"""The options that every command has: what is shown while it works.

A command enters; the same command with these options leaves. What the user gives goes to the display.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from mralign.cli.display import Wishes, display

_FORMATS = ("text", "json")
_OPTIONS = {
    "json": Annotated[
        bool, typer.Option("--json", help="Events as lines of JSON on standard output, and nothing else there.")
    ],
    "verbose": Annotated[
        bool, typer.Option("--verbose", "-v", help="Show also what other packages print; the log file has it anyway.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", help="Show only the result, or why it stopped.")],
    "log_format": Annotated[
        str, typer.Option("--log-format", metavar="text|json", help="Lines of the log, in its file and on the screen.")
    ],
}
_DEFAULTS = {"json": False, "verbose": False, "quiet": False, "log_format": "text"}


def shown(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of the display."""

    @wraps(command)
    def with_options(*arguments: Any, **given: Any) -> None:
        display.wishes = wishes_of({name: given.pop(name) for name in _OPTIONS})
        command(*arguments, **given)

    signature = inspect.signature(command, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_DEFAULTS[name], annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    parameters = [*signature.parameters.values(), *more]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {one.name: one.annotation for one in parameters}
    return with_options


def wishes_of(given: dict[str, Any]) -> Wishes:
    """What the options ask for. Raises ValueError for options that exclude each other, and for an unknown format."""
    wishes = Wishes(**given)
    if wishes.quiet and wishes.verbose:
        raise ValueError("--quiet and --verbose exclude each other; give one of them")
    if wishes.log_format not in _FORMATS:
        raise ValueError(f"--log-format {wishes.log_format}: allowed are {' and '.join(_FORMATS)}")
    return wishes
