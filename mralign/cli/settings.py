"""`mralign config`: the configuration that a run would have, what every setting means, and a schema for editors.

The fields of the sections in mralign/config/ enter, with their descriptions; text leaves.
"""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer

from mralign.cli.arguments import complete_preset, complete_section, complete_suite
from mralign.config import RunConfig, load, to_yaml
from mralign.config.section import Section
from mralign.config.settings_page import Setting, sections, settings_of
from mralign.presets import PRESETS, SUITES

_MARKS = {"result": "", "speed": "changes speed only", "file": "a path: its content counts"}
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def config(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SECTION|section.field=value",
            help="A section, or a setting, to be explained; or settings that win over the preset's.",
            autocompletion=complete_section,
        ),
    ] = None,
    *,
    preset: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="A preset by name, or a YAML file.", autocompletion=complete_preset),
    ] = "miniworld",
    suite: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="A suite in place of the preset.", autocompletion=complete_suite),
    ] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print a JSON schema of presets, for editors.")] = False,
) -> None:
    """The configuration of a preset with all its defaults; or what the settings of a section mean.

    `mralign config --preset paper` prints YAML that is a preset itself. `mralign config training` lists every setting
    of a section: what is allowed, its default, its meaning. An editor that knows YAML completes and checks a preset by
    the schema that --schema prints.
    """
    given = words or []
    asked = [word for word in given if "=" not in word]
    if schema:
        print(schema_text(), end="")
    elif asked:
        print("\n\n".join(explained(word) for word in asked))
    else:
        overrides = [word for word in given if "=" in word]
        chosen = load(suite or preset, overrides=overrides, presets_dir=SUITES if suite else PRESETS)
        print(to_yaml(chosen), end="")


def schema_text() -> str:
    """A JSON schema of presets and suites; editors show its descriptions and complete by it."""
    found: dict[str, Any] = {"$schema": _DRAFT, **RunConfig.model_json_schema(), "title": "a preset of mralign"}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def explained(name: str) -> str:
    """What a section and its settings mean, or one setting of it, by dotted name.

    Raises ValueError for a name that is neither, with those that are near to it.
    """
    by_place = places()
    if name in by_place:
        return "\n".join(_about(by_place[name], name=name))
    home, _, field = name.rpartition(".")
    if home not in by_place:
        raise ValueError(_unknown(name, near=name, allowed=list(RunConfig.model_fields)))
    settings = {setting.name: setting for setting in settings_of(by_place[home])}
    if field not in settings:
        raise ValueError(_unknown(name, near=field, allowed=list(settings), home=f"in {home} "))
    return "\n".join(_setting_lines(settings[field], place=home))


def _unknown(name: str, *, near: str, allowed: Sequence[str], home: str = "") -> str:
    close = difflib.get_close_matches(near, allowed, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"no section or setting {name!r}: {hint}allowed {home}are {', '.join(allowed)}"


def places() -> dict[str, type[Section]]:
    """Every section by its dotted name, those inside of others included."""
    found: dict[str, type[Section]] = {}
    for section, names in sections().items():
        found |= dict.fromkeys(names, section)
    return found


def _about(section: type[Section], *, name: str) -> Iterator[str]:
    yield " ".join((section.__doc__ or name).split())
    for setting in settings_of(section):
        yield ""
        yield from _setting_lines(setting, place=name)


def _setting_lines(setting: Setting, *, place: str) -> Sequence[str]:
    """A setting: its name and default, what is allowed, what it means."""
    name = f"{place}.{setting.name}"
    head = f"{name}={setting.default}" if setting.default else f"{name}   (must be given)"
    shown = head.replace("\n", "⏎")
    told = [f"allowed: {setting.allowed.replace('`', '')}"]
    if setting.section is not None:
        told = [f"a section of its own: mralign config {name}"]
        shown = name
    told += [mark for mark in [_MARKS.get(setting.changes, setting.changes)] if mark]
    body = textwrap.wrap(setting.meaning, width=100, break_long_words=False)
    return [shown, *(f"    {line}" for line in [*body, "; ".join(told)])]
