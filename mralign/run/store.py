"""A run directory on any pyarrow file system: committed Parquet parts and a manifest written last.

Tables enter part by part; `<run>/<stage>/<fingerprint>/` leaves. A part appears under its final name only when it is
whole, and holds what it holds for good; a stage is complete only when its manifest stands. Killing a process at any
moment therefore costs at most the parts that were being written. A store may be far away, so requests are few: a small
object is put by one, a small part is read by two, and many parts at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from itertools import chain
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mralign.rows.columns import cast
from mralign.rows.schema import REJECTS
from mralign.run.arrow_files import open_parquet, telling_damage
from mralign.run.directory import READERS, Directory, absolute, ahead
from mralign.run.filesystems import files_in
from mralign.run.manifest import Manifest, fingerprint
from mralign.run.part_names import part_key, standing_parts

__all__ = ["READERS", "Directory", "Manifest", "StageDir", "absolute", "ahead", "fingerprint", "parts_of"]

_LISTED = {True: "?all", False: "?here"}  # no file has such a name; a finished stage's listing is kept under it
_WHOLE = 2**20  # bytes of a part that is read by one request; of a larger one first the footer


class _Listing:
    """Bytes of every file, once they were asked for; for any thread. Whoever changes a file waits for a listing that is
    under way, which may not show it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._sizes: dict[str, int] | None = None

    def sizes(self, ask: Callable[[], dict[str, int]]) -> dict[str, int]:
        """A copy; `ask` makes the listing, once."""
        with self._lock:
            if self._sizes is None:
                self._sizes = ask()
            return dict(self._sizes)

    def note(self, name: str, size: int | None) -> None:
        """A file has so many bytes now, or is gone."""
        with self._lock:
            if self._sizes is not None and size is not None:
                self._sizes[name] = size
            elif self._sizes is not None:
                self._sizes.pop(name, None)


@dataclass(frozen=True)
class StageDir(Directory):
    """`<run>/<stage>/<fingerprint>`: parts, rejects, manifest."""

    stage: str = ""
    fingerprint: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "stage": self.stage, "fingerprint": self.fingerprint}

    @cached_property
    def _known_rows(self) -> dict[tuple[str, int], int]:
        """Rows by name and size of the files that this process has written or looked into."""
        return {}

    @cached_property
    def _known_manifest(self) -> list[Manifest]:
        """The manifest, once this process has seen it."""
        return []

    @property
    def was_empty(self) -> bool:
        """Whether `standing` found nothing at all here: a stage that begins need not list what it may skip."""
        return bool(self._found_empty)

    def begun(self) -> None:
        """A stage has worked here: what `standing` found is of yesterday, and so is what `quiet` has listed."""
        self._found_empty.clear()
        self._quiet.clear()

    def quiet(self) -> None:
        """From now on nobody writes here but through this object: `sizes` lists once, and follows what it writes; a
        far store is asked once for what is read."""
        self.recalled.forget(self.uri)
        self.recalled.fix(self.uri)
        self._quiet[:] = [_Listing()]

    def loud(self) -> None:
        """Other processes write here again: every look is a listing."""
        self._quiet.clear()
        self.recalled.forget(self.uri)

    @cached_property
    def _quiet(self) -> list[_Listing]:
        """[what one listing shows] while it is quiet; a listing that comes late belongs to a time that is over."""
        return []

    @cached_property
    def _found_empty(self) -> list[bool]:
        """[True] once `standing` has found nothing."""
        return []

    def parts(self, group: str = "") -> list[str]:
        """Names of the committed parts, sorted; with `group`, of those whose key is `group` or begins `group-`.

        Those of a stage that this process knows to be finished are the ones that its manifest names.
        """
        return parts_of(standing_parts(self._sealed() or self.sizes(recursive=False)), group)

    def _sealed(self) -> Mapping[str, Sequence[int]]:
        """Rows and bytes of the files of a stage that this process knows to be finished; else nothing."""
        known = self._known()
        return known.parts if known is not None else {}

    def _known(self) -> Manifest | None:
        """The manifest, if this process has seen it."""
        if self._known_manifest:
            return self._known_manifest[0]
        return self.recalled.manifest(self.uri)

    def _know(self, manifest: Manifest) -> Manifest:
        self._known_manifest[:] = [manifest]
        self.recalled.keep_manifest(self.uri, manifest)
        return manifest

    def _unknow(self) -> None:
        self._known_manifest.clear()
        self.recalled.forget(self.uri)

    def rows(self, part: str) -> int:
        """Number of rows of a committed part, from its footer."""
        return self._rows(part)

    def counts(self, parts: Sequence[str] | None = None) -> dict[str, int]:
        """Number of rows of the given committed parts, or of all: from the manifest of a finished stage, else from
        their footers, each of which is read once."""
        if parts is not None and not parts:
            return {}
        known, sizes = self._sealed(), {}
        if not known:
            sizes = self.sizes(recursive=False)
            known = self._sealed() if "manifest.json" in sizes and self.manifest() is not None else {}
        if known and parts is None:
            parts = standing_parts(known)
        if parts is not None and all(name in known for name in parts):
            return {name: known[name][0] for name in parts}
        sizes = sizes or self.sizes(recursive=False)
        names = standing_parts(sizes) if parts is None else list(parts)
        found = self._rows_of({name: sizes.get(name, -1) for name in names if name not in known})
        return {name: found[name] if name in found else known[name][0] for name in names}

    def _rows_of(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Number of rows of some files, by name; `sizes`: their bytes, as a listing has them."""
        missing = [name for name, size in sizes.items() if (name, size) not in self._known_rows]
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(self._rows, missing))
        return {name: self._known_rows[name, size] for name, size in sizes.items()}

    def know_rows(self, part: str, *, rows: int, size: int) -> None:
        """Another process has committed a part of so many rows and bytes: its footer need not be read."""
        self._known_rows[part, size] = rows

    def columns(self, part: str) -> list[str]:
        """Names of the columns of a committed part, from its footer."""
        kept = self.recalled.file(f"{self.uri}/{part}")
        if kept is not None:
            return list(pq.read_schema(pa.BufferReader(kept)).names)
        with self.filesystem.open_input_file(self.path(part)) as stream:
            return list(pq.read_schema(stream).names)

    def _rows(self, name: str) -> int:
        with self.filesystem.open_input_file(self.path(name)) as stream:
            rows = int(pq.ParquetFile(stream).metadata.num_rows)
            self._known_rows[name, stream.size()] = rows
        return rows

    def commit(self, part: str, table: pa.Table, *, schema: pa.Schema, rejects: pa.Table | None = None) -> int:
        """Commit one part and its rejects; committing the same part again replaces it. Returns the part's bytes."""
        if rejects is not None:
            self.commit_rejects(part, rejects)
        return self.write_table(part, cast(table, schema))

    def commit_all(self, parts: Mapping[str, pa.Table], *, schema: pa.Schema) -> None:
        """Commit several parts side by side."""
        for _ in ahead(lambda one: self.commit(*one, schema=schema), parts.items()):
            pass

    def write_table(self, name: str, table: pa.Table) -> int:
        """Write a table as a file of any name here, whole or not at all; its bytes."""
        data = _parquet(table)
        self.write_bytes(name, data)
        self._known_rows[name, len(data)] = table.num_rows
        return len(data)

    def commit_rejects(self, part: str, rejects: pa.Table) -> None:
        """Replace the rejects of a part."""
        name = f"rejects/{part}"
        if rejects.num_rows:
            self.write_table(name, cast(rejects, REJECTS))
        else:
            with suppress(FileNotFoundError):
                self.delete_file(name)

    def read(self, *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """All committed rows, parts in the order of their names."""
        return self.read_parts(self.parts(), schema=schema, columns=columns)

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        return self.read_files(parts, schema=wanted)

    def read_rejects(self, parts: Sequence[str] | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The rejects of the given committed parts, or of all."""
        wanted = REJECTS if columns is None else pa.schema([REJECTS.field(c) for c in columns])
        if parts is not None and len(parts) == 1 and not self._sealed() and not self._quiet:
            with suppress(FileNotFoundError):
                return self.read_files([f"rejects/{parts[0]}"], schema=wanted)
            return wanted.empty_table()
        return self.read_files([f"rejects/{part}" for part in self.with_rejects(parts)], schema=wanted)

    def read_files(self, names: Sequence[str], *, schema: pa.Schema) -> pa.Table:
        """The rows of some files, in their order; many are read at once, as a store may be far away."""

        def read(name: str) -> pa.Table:
            return self._read(name, columns=schema.names).select(schema.names).cast(schema)

        with ThreadPoolExecutor(READERS) as readers:
            return pa.concat_tables([schema.empty_table(), *readers.map(read, names)])

    def with_rejects(self, parts: Sequence[str] | None) -> list[str]:
        """Those of the parts, or of all, that have rejects: by one listing, as each look is a request."""
        there = {name.removeprefix("rejects/") for name in self._sealed() if name.startswith("rejects/")}
        if not self._sealed():
            there = self._listed_rejects()
        if not there:
            return []
        return [part for part in (self.parts() if parts is None else parts) if part in there]

    def _listed_rejects(self) -> set[str]:
        if self._quiet:
            return {name.removeprefix("rejects/") for name in self.sizes() if name.startswith("rejects/")}
        return {info.base_name for info in files_in(self.filesystem, self.path("rejects"), recursive=False)}

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is unfinished. Raises ValueError for one that cannot be read."""
        return self._known() or self._read_manifest()

    def _read_manifest(self) -> Manifest | None:
        self._unknow()
        try:
            return self._know(Manifest(**json.loads(self.read_text("manifest.json"))))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.uri}/manifest.json cannot be read ({error}); delete it and run the same command again: the "
                f"stage goes on from its committed parts"
            ) from None

    def standing(self) -> tuple[Manifest | None, list[str]]:
        """The manifest of a stage all of whose parts are there; else None, and the files that are missing or have
        another size than they were committed with, or the manifest that cannot be read. One listing tells."""
        self._unknow()
        sizes = self.sizes()
        self._found_empty[:] = [] if sizes else [True]
        try:
            manifest = self._read_manifest() if "manifest.json" in sizes else None
        except ValueError:
            return None, ["manifest.json"]
        if manifest is None:
            return None, []
        damaged = [name for name, (_, size) in manifest.parts.items() if sizes.get(name) != size]
        if damaged:
            self._unknow()
        return (None if damaged else manifest), damaged

    def seal(self, manifest: Manifest, *, sizes: Mapping[str, int] | None = None) -> Manifest:
        """Write the manifest, with rows and sizes of what is committed, and return it: the stage is complete.

        `sizes`: what `self.sizes()` says, for a caller that has asked since the last part was committed.
        """
        sizes = self.sizes() if sizes is None else sizes
        standing = standing_parts(sizes)
        names = sorted([*standing, *(name for part in standing if (name := f"rejects/{part}") in sizes)])
        rows = self._rows_of({name: sizes[name] for name in names})
        sealed = replace(manifest, parts={name: [rows[name], sizes[name]] for name in names})
        self.write_text("manifest.json", json.dumps(asdict(sealed), indent=1))
        return self._know(sealed)

    def unseal(self, damaged: Sequence[str]) -> None:
        """Forget that the stage was finished, and its damaged parts with their rejects: the stage makes them anew.

        The manifest goes last. Until then a stage that is looked at again is found damaged, and unsealed again.
        """
        parts = dict.fromkeys(name.removeprefix("rejects/") for name in damaged)
        for name in [*chain.from_iterable((part, f"rejects/{part}") for part in parts), "manifest.json"]:
            with suppress(FileNotFoundError):
                self.delete_file(name)
        self._unknow()

    def sizes(self, *, recursive: bool = True) -> dict[str, int]:
        """Bytes of every file in the directory (`recursive`: and below it), by its name from here."""
        for listing in self._quiet:
            there = listing.sizes(partial(self._list, recursive=True))
            return {name: size for name, size in there.items() if recursive or "/" not in name}
        return self._list(recursive=recursive)

    def _list(self, *, recursive: bool) -> dict[str, int]:
        place = f"{self.uri}/{_LISTED[recursive]}"
        kept = self.recalled.file(place)
        if kept is not None:
            return dict(json.loads(kept))
        if self.recalled.is_missing(self.uri):
            return {}
        infos = files_in(self.filesystem, self.path(), recursive=recursive)
        found = {info.path.removeprefix(self.path()).lstrip("/"): info.size for info in infos}
        if self.recalled.keeps:
            self.recalled.keep_file(place, json.dumps(found).encode())
        return found

    def delete_file(self, name: str) -> None:
        """Delete a file; FileNotFoundError where there is none."""
        self.filesystem.delete_file(self.path(name))
        self._changed(name, None)

    def _changed(self, name: str, size: int | None) -> None:
        """A file has so many bytes now, or is gone: what is known of listings follows."""
        self.recalled.forget(f"{self.uri}/{name}")
        folder = f"{self.uri}/{name}".rpartition("/")[0]
        while len(folder) >= len(self.uri):
            for listing in _LISTED.values():
                self.recalled.forget(f"{folder}/{listing}")
            folder = folder.rpartition("/")[0]
        for known in self._quiet:
            known.note(name, size)

    def find_text(self, name: str) -> str | None:
        """As that of a directory."""
        if self._quiet and name not in self.sizes():
            return None
        return super().find_text(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """As that of a directory."""
        super().write_bytes(name, data)
        self._changed(name, len(data))

    def _read(self, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        place = f"{self.uri}/{name}"
        kept = self.recalled.file(place)
        if kept is not None:
            return open_parquet(pa.BufferReader(kept), name=place).read(columns=columns)
        with self._opened_part(name) as stream:
            size = stream.size()
            whole = stream.read(size) if size <= _WHOLE else None
            source = stream if whole is None else pa.BufferReader(whole)
            table = open_parquet(source, name=place).read(columns=columns)
        if whole is not None:
            self.recalled.keep_file(place, whole)
        self._known_rows[name, size] = table.num_rows
        return table

    def row_groups(self, name: str, *, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of a file, a row group at a time."""
        with self._opened_part(name) as stream:
            file = open_parquet(stream, name=f"{self.uri}/{name}")
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=schema.names).select(schema.names).cast(schema)

    @contextmanager
    def _opened_part(self, name: str) -> Iterator[pa.NativeFile]:
        """An open file; of a damaged one is told what to do."""
        with telling_damage(f"{self.uri}/{name}"), self.filesystem.open_input_file(self.path(name)) as stream:
            yield stream


def parts_of(names: Sequence[str], group: str = "") -> list[str]:
    """Those of the parts whose key is `group` or begins `group-`; all without a group."""
    return [name for name in names if not group or f"{part_key(name)}-".startswith(f"{group}-")]


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
