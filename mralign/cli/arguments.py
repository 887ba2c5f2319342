"""Options that several commands have, and how an option takes several values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import typer

T = TypeVar("T")

Preset = Annotated[str, typer.Option("--preset", metavar="NAME|FILE", help="A preset by name, or a YAML file.")]
Settings = Annotated[
    list[str] | None, typer.Argument(metavar="section.field=value", help="Settings that win over the preset's.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="End the driver that writes there, and go on in its place.")
]


def listed(given: Sequence[str], *, option: str, of: Callable[[str], T], allowed: str) -> tuple[T, ...]:
    """The values of an option that was given several times, or once with commas, or both; each value once.

    `of` makes a value of a word. Where it refuses, ValueError by the option's name says what is `allowed`.
    """
    words = [word.strip() for word in ",".join(given).split(",")]
    found = []
    for word in words:
        try:
            found.append(of(word))
        except (ValueError, KeyError):
            raise ValueError(f"{option} {word!r}: allowed are {allowed}, several with commas between them") from None
    return tuple(dict.fromkeys(found))
