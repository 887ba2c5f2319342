"""The list of all settings, made from the fields: docs/configuration.md, and what other lists of settings print.

The sections of `RunConfig` enter. A `Setting` a field leaves, with its type, default and description in words, and the
whole page as Markdown: `python -m mralign.config.settings_page > docs/configuration.md`.
"""

from __future__ import annotations

import datetime
import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from mralign.config.run import RunConfig
from mralign.config.section import Section, mark_of

HEAD = """\
# All settings

`mralign config SECTION` prints the same in a terminal, and `mralign config --preset NAME` a whole configuration.
This page is made from the fields in `mralign/config/` by `python -m mralign.config.settings_page`; do not edit it.

A setting is given on the command line as `section.field=value`, the value in YAML, or in a preset: one of
`mralign/presets/*.yaml` by its name, or the path of your own file. The command line wins over the preset, and the
preset over the defaults below. An unknown name or a value that is not allowed ends a run before anything starts,
with what is allowed. The resolved configuration lies in the run directory, `config.yaml`.

**Changes** says what happens to finished stages when you change a setting:

* *result*: the stages that read it are made anew, and those after them; `--dry-run` names them.
* *speed*: it changes time, memory, money, places or what a run tolerates, and no row of a result. Nothing
  is made anew.
* *file*: the path itself does not matter. The stages are made anew when the content of the file is another.
* *each call*: the step that reads it is done at every call anyway.

In a default, ⏎ stands for a new line; of a section, it shows the fields that differ from that section's own table.
"""

_CHANGES = {"": "result", "speed": "speed", "content": "file", "alias": "result", "repeated": "each call"}
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true, false", datetime.date: "date", Any: "any value"}


@dataclass(frozen=True)
class Setting:
    """One field in words. `section`: the class of the sections that it leads to, if it does."""

    name: str
    allowed: str
    default: str
    meaning: str
    changes: str
    section: type[Section] | None


def settings_of(section: type[Section]) -> list[Setting]:
    """The fields of a section, in their order."""
    return [_setting(section, name=name, field=field) for name, field in section.model_fields.items()]


def sections() -> dict[type[Section], list[str]]:
    """Every class of section, and the settings that lead to it; the sections of a run first, in their order."""
    found: dict[type[Section], list[str]] = {}
    todo: list[tuple[type[Section], str]] = [(RunConfig, "")]
    while todo:
        section, place = todo.pop(0)
        for setting in settings_of(section):
            if setting.section is None:
                continue
            name = f"{place}.{setting.name}".lstrip(".")
            if setting.section not in found:
                todo.append((setting.section, name))
            found.setdefault(setting.section, []).append(name)
    return found


def page() -> str:
    """docs/configuration.md."""
    found = sections()
    links = ", ".join(f"[{_title(section, places)}](#{_anchor(section, places)})" for section, places in found.items())
    parts = [HEAD, f"Sections: {links}.\n"]
    for section, places in found.items():
        parts.append("\n".join(_section_lines(section, places=places, found=found)))
    return "\n".join(parts)


def _section_lines(
    section: type[Section], *, places: list[str], found: dict[type[Section], list[str]]
) -> Iterator[str]:
    yield f"## {_title(section, places)}\n"
    if _is_top(places):
        yield RunConfig.model_fields[places[0]].description or ""
    else:
        yield _first_paragraph(section)
        yield f"\nStands at {', '.join(f'`{place}`' for place in places)}."
    yield "\n| Setting | Allowed | Default | Changes | Meaning |"
    yield "|---|---|---|---|---|"
    for setting in settings_of(section):
        allowed = _cell(setting.allowed)
        if setting.section is not None:
            target = setting.section
            allowed = allowed.replace(target.__name__, f"[{target.__name__}](#{_anchor(target, found[target])})")
        default = f"`{_cell(setting.default)}`" if setting.default else ""
        yield f"| `{setting.name}` | {allowed} | {default} | {setting.changes} | {_cell(setting.meaning)} |"
    yield ""


def _setting(section: type[Section], *, name: str, field: FieldInfo) -> Setting:
    inner = _section_in(field.annotation)
    return Setting(
        name=name,
        allowed=_with_bounds(_allowed(field.annotation), field),
        default=_default(field),
        meaning=field.description or "",
        changes=_CHANGES[mark_of(section, name)],
        section=inner,
    )


def _is_top(places: list[str]) -> bool:
    return "." not in places[0]


def _title(section: type[Section], places: list[str]) -> str:
    return places[0] if _is_top(places) else section.__name__


def _anchor(section: type[Section], places: list[str]) -> str:
    return _title(section, places).lower()


def _first_paragraph(section: type[Section]) -> str:
    """The first paragraph of the docstring, on one line."""
    text = (section.__doc__ or "").strip().partition("\n\n")[0]
    return " ".join(text.split())


def _allowed(kind: Any) -> str:
    """The values of a type in words."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if origin is Annotated:
        return _allowed(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _allowed(one) for one in arguments)
    if origin is tuple:
        return _list_of(arguments)
    if origin is dict:
        return f"map of {_allowed(arguments[0])} to {_allowed(arguments[1])}"
    if issubclass(kind, Enum):
        return ", ".join(f"`{one.value}`" for one in kind)
    return str(kind.__name__)


def _list_of(arguments: tuple[Any, ...]) -> str:
    if arguments[-1] is Ellipsis:
        return f"list of {_allowed(arguments[0])}"
    return f"{len(arguments)} of {_allowed(arguments[0])}"


def _with_bounds(allowed: str, field: FieldInfo) -> str:
    """The bounds behind the type, e.g. `number from 0 to 1`."""
    bounds: dict[str, float] = {}
    for mark in field.metadata:
        for name in ("gt", "ge", "lt", "le"):
            if getattr(mark, name, None) is not None:
                bounds[name] = getattr(mark, name)
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    told = " ".join(f"{words[name]} {bounds[name]:g}" for name in words if name in bounds)
    first, null, rest = allowed.partition(" or null")
    return " ".join(filter(None, [first, told])) + null + rest


def _default(field: FieldInfo) -> str:
    """The default as it is written in YAML; empty for a field that must be given."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or (isinstance(value, tuple) and any(isinstance(one, Section) for one in value)):
        return ""
    if isinstance(value, Section):
        return _differing(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    plain = to_jsonable_python(value)
    return plain if isinstance(plain, str) and plain else json.dumps(plain, ensure_ascii=False)


def _differing(value: Section) -> str:
    """The fields of a default section that differ from the defaults of its class, e.g. `top_p: 1`."""
    fields = type(value).model_fields
    told = [name for name in fields if getattr(value, name) != fields[name].get_default(call_default_factory=True)]
    return ", ".join(f"{name}: {to_jsonable_python(getattr(value, name))}" for name in told)


def _section_in(kind: Any) -> type[Section] | None:
    """The class of section that a type holds."""
    if isinstance(kind, type) and issubclass(kind, Section):
        return kind
    found = [_section_in(argument) for argument in get_args(kind)]
    return next((one for one in found if one is not None), None)


def _cell(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return text.replace("\n", "⏎").replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
