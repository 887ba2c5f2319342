"""Records of imported files, sorted by the part of questions that each belongs to, on disk.

Records enter in the order of their file, a file of the shelf for some tens of megabytes of them; the records of one
part of questions leave, whichever files they lie in. All records of a question lie in one part: so its draws are
numbered, and its rows written, by whoever holds that part alone, and no process holds a whole file. A record whose
question is in no part is dealt to a part by its question's id, and one that cannot be used by its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mralign.rollouts.import_files import Imported
from mralign.rows import Mode
from mralign.rows.columns import schema_of
from mralign.run.arrow_files import open_parquet
from mralign.run.store import Directory, StageDir

_CHARACTERS = 2**25  # of the raw texts in a file of the shelf
_LEAST_ROWS = 64  # of a row group
_DIGEST = 16  # bytes of an id's hash
SHELVED = schema_of(Imported).insert(0, pa.field("place", pa.int32())).append(pa.field("known", pa.bool_()))


class QuestionPlaces:
    """Where the records of each question go: the number of its part, from 0. It holds 20 bytes a question."""

    def __init__(self, ids_by_part: Iterable[Sequence[str]]) -> None:
        digests = [_digests(ids) for ids in ids_by_part]
        sizes = [len(one) for one in digests]
        digest_N = np.concatenate(digests)
        order_N = np.argsort(digest_N)
        self.count = len(sizes)
        self.digest_N = digest_N[order_N]
        self.place_N = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[order_N]

    def find(self, question_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each id the number of a part, and whether the question is in that part."""
        digest_M = _digests(question_ids)
        place_M = (digest_M.view("<u8")[::2] % np.uint64(self.count)).astype(np.int32)
        found_M = np.searchsorted(self.digest_N, digest_M)
        known_M = found_M < len(self.digest_N)
        known_M[known_M] = self.digest_N[found_M[known_M]] == digest_M[known_M]
        place_M[known_M] = self.place_N[found_M[known_M]]
        return place_M, known_M


def _digests(ids: Sequence[str]) -> np.ndarray:
    """(N,) hashes of 16 bytes."""
    joined = b"".join(blake2b(text.encode(), digest_size=_DIGEST).digest() for text in ids)
    return np.frombuffer(joined, dtype=f"S{_DIGEST}")


def shelve(
    records: Iterable[Imported], *, mode: Mode, places: QuestionPlaces, shelf: Directory
) -> Iterator[tuple[str, int]]:
    """Write the files of one mode; the name of each and how many records it holds, as they come. A mark comes last."""
    contents: dict[str, list[int]] = {}
    for number, group in enumerate(_groups(records)):
        name = f"{mode}-{number:06d}.parquet"
        table = _sorted(group, places=places)
        contents[name] = pc.unique(table.column("place")).to_pylist()
        shelf.write_bytes(name, _parquet(table, groups=len(contents[name])))
        yield name, len(group)
    shelf.write_text(mark(mode), json.dumps(contents))


def mark(mode: Mode) -> str:
    """The file that says that all records of a mode are on the shelf, and which parts each file has some of."""
    return f"{mode}.json"


def files_by_place(shelf: Directory) -> dict[int, list[str]]:
    """Which files hold records of each place, thinking on before off, once both marks stand."""
    found: dict[int, list[str]] = {}
    for mode in Mode:
        contents: Mapping[str, Sequence[int]] = json.loads(shelf.read_text(mark(mode)))
        for name, places in contents.items():
            for place in places:
                found.setdefault(place, []).append(name)
    return found


class RecordShelf(StageDir):
    """The files as parts of a stage: what is read is a place and its files, the number of the place first."""

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """The records of a place (schema SHELVED), those of a mode in the order of their file."""
        assert schema == SHELVED and columns is None
        place, *names = parts
        tables = [self._records(name, place=int(place)) for name in names]
        return pa.concat_tables([SHELVED.empty_table(), *tables]).sort_by("number")

    def _records(self, name: str, *, place: int) -> pa.Table:
        with self.filesystem.open_input_file(self.path(name)) as stream:
            file = open_parquet(stream, name=f"{self.uri}/{name}")
            groups = [group for group in range(file.num_row_groups) if _may_hold(file, group, place=place)]
            return file.read_row_groups(groups).filter(pc.field("place") == place).cast(SHELVED)


def _may_hold(file: pq.ParquetFile, group: int, *, place: int) -> bool:
    statistics = file.metadata.row_group(group).column(0).statistics
    return bool(statistics.min <= place <= statistics.max)


def _groups(records: Iterable[Imported]) -> Iterator[list[Imported]]:
    """The records in order, some of them together."""
    group: list[Imported] = []
    characters = 0
    for record in records:
        group.append(record)
        characters += len(record.raw)
        if characters >= _CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _sorted(group: Sequence[Imported], *, places: QuestionPlaces) -> pa.Table:
    """The records as a table of schema SHELVED, in the order of their places."""
    place_M, known_M = places.find([record.question_id for record in group])
    rows: list[dict[str, Any]] = []
    for record, place, known in zip(group, place_M.tolist(), known_M.tolist(), strict=True):
        rows.append({"place": place, "known": known, **vars(record)})
    return pa.Table.from_pylist(rows, schema=SHELVED).sort_by("place")


def _parquet(table: pa.Table, *, groups: int) -> bytes:
    """A file of which one place can be read alone."""
    sink = pa.BufferOutputStream()
    rows = max(_LEAST_ROWS, table.num_rows // groups)
    pq.write_table(table, sink, compression="zstd", row_group_size=rows)
    return bytes(sink.getvalue())
