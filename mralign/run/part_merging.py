"""One part in the place of the many that a stream has committed for an upstream part.

A stream commits a part a batch, so that a kill costs little: hundreds of small files an upstream part. When all of them
are there, `merge` writes their rows, in the order of their names, into one part with their rejects and tallies, and
deletes them. That part is as large as what came of an upstream part (2,000 questions: tens to hundreds of MB), is
written row group by row group, and its row groups hold about 8 MB, so that no more is ever in memory at once.

Killed at any moment, the names in one listing tell which parts stand (`part_names.standing_parts`): first a mark is
written, `merging-<key>`, then the new part's rejects and tallies, then the part; from here on it stands for the others.
They are deleted next, the mark last. `finish` does the rest of that for a killed process.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mralign.rows.schema import REJECTS
from mralign.run.part_names import MARK, part_key, part_name, parts_by_upstream, standing_parts, upstream_part
from mralign.run.store import READERS, StageDir

_ROW_GROUP = 8 * 2**20  # bytes of a file that are read at once, and so of a row group


@dataclass(frozen=True)
class Pieces:
    """The parts that answer one upstream part, and the files of their rejects and tallies, each with its bytes.
    `stale`: what lies beside the name of the merged part, of an earlier one that somebody has deleted."""

    upstream: str
    parts: Mapping[str, int]
    rejects: Mapping[str, int]
    tallies: Sequence[str]
    stale: Sequence[str] = ()

    @property
    def merged(self) -> str:
        """The name of the part that will stand in their place."""
        return _merged(self.upstream, self.parts)


def pieces_of(out: StageDir, upstream: Iterable[str]) -> list[Pieces]:
    """What answers those of the upstream parts that have more than one part. One listing tells."""
    sizes = out.sizes()
    found = []
    for part, names in parts_by_upstream(standing_parts(sizes), upstream).items():
        if len(names) > 1:
            rejects = {file: sizes[file] for name in names if (file := f"rejects/{name}") in sizes}
            tallies = [file for name in names if (file := tally_name(name)) in sizes]
            merged = _merged(part, names)
            stale = [file for file in (f"rejects/{merged}", tally_name(merged)) if file in sizes]
            found.append(Pieces(part, {name: sizes[name] for name in names}, rejects, tallies, stale))
    return found


def merge(out: StageDir, pieces: Pieces, *, schema: pa.Schema) -> None:
    """Put one part in the place of several."""
    name = pieces.merged
    out.write_text(_mark(name), "")
    _delete(out, pieces.stale)
    if pieces.rejects:
        _write(out, f"rejects/{name}", pieces.rejects, schema=REJECTS)
    if pieces.tallies:
        out.write_text(tally_name(name), json.dumps(_read_tallies(out, pieces.tallies)))
    _write(out, name, pieces.parts, schema=schema)
    finish_merging(out, pieces)


def finish_merging(out: StageDir, pieces: Pieces) -> None:
    """Delete what the new part stands for, then the mark."""
    _delete(out, [*pieces.parts, *pieces.rejects, *pieces.tallies])
    _delete(out, [_mark(pieces.merged)])


def _merged(upstream: str, parts: Iterable[str]) -> str:
    return part_name(f"{part_key(upstream)}-{_digest(parts)}")


def _mark(part: str) -> str:
    return f"{MARK}{part_key(part)}"


def finish(out: StageDir) -> None:
    """Do the rest for a `merge` that was killed: delete what its part stands for or, without a part, what was to lie
    beside it; then the mark."""
    names = out.sizes()
    marks = [name for name in names if name.startswith(MARK)]
    for mark in marks:
        merged = part_name(mark.removeprefix(MARK))
        whole = merged in names
        _delete(out, [name for name in names if _is_left(name, merged=merged, whole=whole)])
        _delete(out, [mark])
    if marks:
        _delete(out, [name for name in names if name.rpartition("/")[2].startswith("_tmp-")])


def tally_name(part: str) -> str:
    """The file with what each request of a part took."""
    return f"tallies/{part_key(part)}.json"


def _is_left(name: str, *, merged: str, whole: bool) -> bool:
    """Whether a file is left over: of a part that `merged` stands for or, if that is not `whole`, beside itself."""
    folder, _, base = name.rpartition("/")
    if folder not in ("", "rejects", "tallies"):
        return False
    part = part_name(base.removesuffix(".json")) if folder == "tallies" else base
    if not whole:
        return part == merged
    return part.startswith("part-") and part != merged and upstream_part(part) == upstream_part(merged)


def _write(out: StageDir, name: str, files: Mapping[str, int], *, schema: pa.Schema) -> None:
    """One file with the rows of several. A small one is put at once, as a store may be far away."""
    if sum(files.values()) <= _ROW_GROUP:
        (table,) = _tables(out, files, schema=schema)
        out.write_table(name, table)
        return
    with out.new_file(name) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for table in _tables(out, files, schema=schema):
            writer.write_table(table)


def _tables(out: StageDir, files: Mapping[str, int], *, schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of some files in their order: small files together, a large one row group by row group."""
    together: list[str] = []
    for name, size in files.items():
        if together and sum(map(files.__getitem__, together)) + size > _ROW_GROUP:
            yield out.read_files(together, schema=schema)
            together = []
        if size > _ROW_GROUP:
            yield from out.row_groups(name, schema=schema)
        else:
            together.append(name)
    yield out.read_files(together, schema=schema)


def _read_tallies(out: StageDir, files: Sequence[str]) -> dict[str, Any]:
    """What each request took, by its row_id, of all files."""
    with ThreadPoolExecutor(READERS) as readers:
        texts = list(readers.map(out.read_text, files))
    found: dict[str, Any] = {}
    for text in texts:
        found |= json.loads(text)
    return found


def _delete(out: StageDir, names: Sequence[str]) -> None:
    def delete(name: str) -> None:
        with suppress(FileNotFoundError):
            out.delete_file(name)

    with ThreadPoolExecutor(READERS) as deleting:
        list(deleting.map(delete, names))


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
