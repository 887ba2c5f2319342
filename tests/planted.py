"""A pickle that runs code when it is loaded: it makes a file, by which a test knows."""

import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class Payload:
    """Unpickled, it makes the directory `mark`."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def planted(mark: Path) -> bytes:
    return pickle.dumps(Payload(mark))


def pickled_column(mark: Path, *, rows: int) -> pa.Array:
    """A column of Ray's extension type for Python objects, each value a payload."""
    import ray.data  # noqa: F401  (registers the type, as every driver of ours does)
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

    return pa.ExtensionArray.from_storage(ArrowPythonObjectType(), pa.array([planted(mark)] * rows, pa.large_binary()))


def planted_parquet(path: Path, mark: Path, *, column: str, **plain: list) -> None:
    """A Parquet file with the columns `plain` and a column of payloads."""
    rows = len(next(iter(plain.values())))
    pq.write_table(pa.table({**plain, column: pickled_column(mark, rows=rows)}), path)
