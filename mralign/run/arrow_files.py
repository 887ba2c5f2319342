"""Parquet and Arrow files from anywhere, opened without running what they hold.

A file enters; its tables leave. Arrow lets a column name an extension type, and Ray registers one whose values are
Python pickles: once Ray Data is loaded, reading such a column runs whatever code the file's author put there. Only the
types that Arrow itself defines (`arrow.*`) are let in. A file that is damaged is told from one that cannot be reached.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_PIECE = 2**20  # bytes
# What Arrow says of a file that is damaged; other errors of a file system may pass.
_BROKEN = re.compile(
    r"thrift|corrupt|decompress|magic bytes|parquet footer|end of stream|data page|page (header|was|size)|file size is",
    re.IGNORECASE,
)


class DamagedPart(pa.ArrowInvalid):  # type: ignore[misc]  # pyarrow has no types
    """A committed part is no Parquet file any more: a disk or somebody's hand has changed it."""


@contextmanager
def telling_damage(place: str) -> Iterator[None]:
    """Raise DamagedPart where Arrow says within the block that the file at `place` is damaged."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        of_the_store = isinstance(error, OSError) and not _BROKEN.search(str(error))
        if of_the_store or isinstance(error, FileNotFoundError):
            raise
        raise DamagedPart(
            f"{place} cannot be read: {str(error).splitlines()[0]}. Delete that file and run the same command again: "
            f"what it held is made anew"
        ) from error


def open_parquet(source: Any, *, name: str, streamed: bool = False) -> pq.ParquetFile:
    """The Parquet file in `source` (a stream or buffer), called `name` in errors.

    `streamed`: its columns are read in pieces of 1 MiB as batches are taken, so that memory does not grow with the row
    groups. Otherwise they are read in few large requests, which an object store wants.
    Raises ValueError for a column of a foreign extension type, pa.ArrowInvalid for what is no Parquet.
    """
    file = pq.ParquetFile(source, pre_buffer=not streamed, buffer_size=_PIECE if streamed else 0)
    check_types(file.schema_arrow, name=name)
    return file


def open_ipc(path: str) -> pa.Table:
    """The table in the local Arrow IPC file `path`, mapped into memory. Raises as `open_parquet`."""
    reader = pa.ipc.open_file(pa.memory_map(path))
    check_types(reader.schema, name=path)
    return reader.read_all()


def check_types(schema: pa.Schema, *, name: str) -> None:
    """Raise ValueError if a column of `schema`, or a type inside it, has an extension type that is not Arrow's own."""
    for field in schema:
        foreign = _foreign_extension(field.type)
        if foreign is not None:
            raise ValueError(
                f"{name}: column {field.name!r} has the extension type {foreign}, whose values may run code when they "
                f"are read; allowed are Arrow's own types. Write the file again with plain columns"
            )


def _foreign_extension(kind: pa.DataType) -> str | None:
    """The name of the first extension type in `kind` that is not Arrow's own, or None."""
    if isinstance(kind, pa.BaseExtensionType):
        if not kind.extension_name.startswith("arrow."):
            return str(kind.extension_name)
        return _foreign_extension(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _foreign_extension(kind.value_type)
    for place in range(kind.num_fields):
        found = _foreign_extension(kind.field(place).type)
        if found is not None:
            return found
    return None
