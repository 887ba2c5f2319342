"""Row classes and Arrow tables: a schema follows from the fields of a class, a table from its rows, and rows from it.

A field is a text, a number, a truth value, a member of a StrEnum or IntEnum, a list, or another row class (a struct).
Int8, Int32 and Float32 say that a column is narrower than Python's own type. Every column of a schema may hold null,
as the committed tables do; `X | None` says which fields of a row may, and `to_table` refuses null in the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from enum import IntEnum, StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

Int8 = Annotated[int, pa.int8()]
Int32 = Annotated[int, pa.int32()]
Float32 = Annotated[float, pa.float32()]

_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
_Row = TypeVar("_Row")


@cache
def schema_of(row_class: type) -> pa.Schema:
    """The Arrow schema of a row class (a dataclass): one column a field, in their order.

    Raises TypeError for a field whose annotation has no Arrow type.
    """
    return pa.schema([(name, _arrow_type(hint)) for name, hint in _hints(row_class).items()])


def to_table(rows: Iterable[_Row], row_class: type[_Row]) -> pa.Table:
    """Rows as a table of `schema_of(row_class)`.

    Raises ValueError if a row lacks a value where its class allows no None.
    """
    kind: Any = row_class  # mypy does not take type[_Row] for hashable
    values = [vars(row) for row in rows]
    nested = _nested_fields(kind)
    if nested:
        values = [row | {name: _plain(row[name]) for name in nested} for row in values]
    table = pa.Table.from_pylist(values, schema=schema_of(kind))
    for name, hint in _hints(kind).items():
        missing = table.column(name).null_count
        if missing and not _may_be_none(hint):
            raise ValueError(
                f"{missing} of {len(values)} rows of {row_class.__name__} have no {name}; allowed is a value in each: "
                f"give one, or let the class say that it may be None"
            )
    return table


def from_table(table: pa.Table, row_class: type[_Row]) -> list[_Row]:
    """The rows of a table that has at least the columns of the fields without a default; further columns are left out.

    Raises TypeError for a missing column.
    """
    kind: Any = row_class
    readers = {name: reader for name, reader in _readers(kind).items() if name in table.column_names}
    values = table.select(list(readers)).to_pylist()
    for name, reader in readers.items():
        if reader is not _as_it_is:
            for row in values:
                row[name] = reader(row[name])
    return [row_class(**row) for row in values]


def cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return `table` with exactly the columns and types of `schema`, in its order.

    Raises ValueError naming the missing and the unexpected columns.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    unexpected = [name for name in table.column_names if name not in schema.names]
    if missing or unexpected:
        raise ValueError(
            f"table does not fit its schema: missing columns {missing}, unexpected columns {unexpected}; "
            f"allowed are {schema.names}"
        )
    return table.select(schema.names).cast(schema)


@cache
def _hints(row_class: type) -> dict[str, Any]:
    """The annotation of each field, with what `Annotated` adds to it."""
    hints = get_type_hints(row_class, include_extras=True)
    return {field.name: hints[field.name] for field in fields(row_class)}


def _may_be_none(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType) and NoneType in get_args(hint)


def _without_none(hint: Any) -> Any:
    """X of `X | None`; any other annotation as it is."""
    if not _may_be_none(hint):
        return hint
    others = [member for member in get_args(hint) if member is not NoneType]
    return others[0] if len(others) == 1 else hint


def _arrow_type(hint: Any) -> pa.DataType:
    hint = _without_none(hint)
    if get_origin(hint) is Annotated:
        return get_args(hint)[1]
    if get_origin(hint) is list:
        return pa.list_(_arrow_type(get_args(hint)[0]))
    if is_dataclass(hint) and isinstance(hint, type):
        return pa.struct(list(schema_of(hint)))
    if _is_enum(hint, StrEnum):
        return pa.string()
    if _is_enum(hint, IntEnum):
        return pa.int8()
    if hint in _PLAIN:
        return _PLAIN[hint]
    raise TypeError(f"{hint} has no Arrow type; see the types that mralign.rows.columns knows")


def _is_enum(hint: Any, kind: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, kind)


@cache
def _nested_fields(row_class: type) -> tuple[str, ...]:
    """The fields that hold row classes, alone or in a list."""
    types = {field.name: field.type for field in schema_of(row_class)}
    return tuple(name for name, kind in types.items() if _holds_struct(kind))


def _holds_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and _holds_struct(kind.value_type))


def _plain(value: Any) -> Any:
    """A row class as a dictionary, and a list of them as a list of dictionaries: Arrow takes those."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        return {name: _plain(inner) for name, inner in vars(value).items()}
    return value


@cache
def _readers(row_class: type) -> dict[str, Callable[[Any], Any]]:
    """For each field, what makes its value of the Python value of a column."""
    return {name: _reader(hint) for name, hint in _hints(row_class).items()}


def _reader(hint: Any) -> Callable[[Any], Any]:
    hint = _without_none(hint)
    if _is_enum(hint, StrEnum) or _is_enum(hint, IntEnum):
        return lambda value: None if value is None else hint(value)
    if is_dataclass(hint) and isinstance(hint, type):
        readers = _readers(hint)
        return lambda value: None if value is None else hint(**{name: readers[name](v) for name, v in value.items()})
    if get_origin(hint) is list:
        item = _reader(get_args(hint)[0])
        if item is not _as_it_is:
            return lambda values: None if values is None else [item(value) for value in values]
    return _as_it_is


def _as_it_is(value: Any) -> Any:
    return value
