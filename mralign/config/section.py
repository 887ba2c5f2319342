"""Base of every section of the configuration, and what of a section counts for the fingerprint of a result.

Every field counts unless it is marked where it is declared (`json_schema_extra=SPEED`). Stages name what they read;
`counted` turns that into JSON without the marked fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from pydantic import BaseModel, ConfigDict, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from pydantic.config import JsonDict
from pydantic_core import to_jsonable_python

# Marks of fields that do not count, by the reason.
SPEED: JsonDict = {"not_counted": "speed"}  # it changes time, memory, money, failures or places, and no row of a result
CONTENT: JsonDict = {"not_counted": "content"}  # a path: the content of the file counts, as an input of the stage
ALIAS: JsonDict = {"not_counted": "alias"}  # it stands for values of other fields, and these count
REPEATED: JsonDict = {
    "not_counted": "repeated"
}  # it is read by a step whose result is never kept: it is made at each call

_COUNTED = "counted fields only"  # the serialization context of `counted`


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _without_what_does_not_count(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if info.context != _COUNTED:
            return values
        return {name: value for name, value in values.items() if not mark_of(type(self), name)}


def mark_of(section: type[Section], name: str) -> str:
    """Why a field does not count: speed, content, alias or repeated; empty for a field that counts."""
    extra = section.model_fields[name].json_schema_extra
    return str(extra.get("not_counted", "")) if isinstance(extra, dict) else ""


def named(config: Section, *names: str) -> dict[str, Any]:
    """Sections and fields of `config` by their dotted names, e.g. `rollouts`, `run.seed`."""
    return {name: attrgetter(name)(config) for name in names}


def counted(read: Mapping[str, Any], *, ignores: Sequence[str] = ()) -> dict[str, Any]:
    """The sections and values in `read` (by dotted name) as JSON, without the fields that are marked and those that
    `ignores` names."""
    tree: dict[str, Any] = to_jsonable_python(dict(read), context=_COUNTED)
    for name in ignores:
        _drop(tree, name)
    return tree


def _drop(tree: dict[str, Any], name: str) -> None:
    """Remove the entry of a dotted name; the keys of `tree` may hold dots themselves."""
    tree.pop(name, None)
    for key, value in tree.items():
        if isinstance(value, dict) and name.startswith(f"{key}."):
            _drop(value, name.removeprefix(f"{key}."))
