"""Options that several commands have, how an option takes several values, and what a shell completes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from mralign.config import RunConfig
from mralign.config.section import Section
from mralign.config.settings_page import settings_of
from mralign.presets import PRESETS, SUITES, TABLES

T = TypeVar("T")


def complete_preset(incomplete: str) -> list[str]:
    """Names of presets that begin so."""
    return _stems(PRESETS, incomplete)


def complete_suite(incomplete: str) -> list[str]:
    """Names of suites that begin so."""
    return _stems(SUITES, incomplete)


def complete_table(incomplete: str) -> list[str]:
    """Names of tables that begin so."""
    return _stems(TABLES, incomplete)


def _stems(directory: Path, incomplete: str) -> list[str]:
    return sorted(path.stem for path in directory.glob("*.yaml") if path.stem.startswith(incomplete))


def complete_setting(incomplete: str) -> list[str]:
    """Sections that begin so; once the section stands, its settings up to the equals sign."""
    return _settings_below(RunConfig, place="", incomplete=incomplete)


def complete_section(incomplete: str) -> list[str]:
    """As `complete_setting`; a section by itself is asked for as well."""
    names = [name for name in RunConfig.model_fields if name.startswith(incomplete)]
    return [*names, *complete_setting(incomplete)]


def _settings_below(section: type[Section], *, place: str, incomplete: str) -> list[str]:
    found = []
    for setting in settings_of(section):
        name = f"{place}{setting.name}"
        inner = setting.section if setting.section and setting.allowed == setting.section.__name__ else None
        if inner is not None and incomplete.startswith(f"{name}."):
            found += _settings_below(inner, place=f"{name}.", incomplete=incomplete)
        elif name.startswith(incomplete):
            found.append(f"{name}." if inner is not None else f"{name}=")
    return found


Preset = Annotated[
    str,
    typer.Option(
        "--preset", metavar="NAME|FILE", help="A preset by name, or a YAML file.", autocompletion=complete_preset
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="section.field=value", help="Settings that win over the preset's.", autocompletion=complete_setting
    ),
]
RunDir = Annotated[str, typer.Argument(metavar="RUN_DIR", help="The directory of a run: a local path or a URI.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
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
