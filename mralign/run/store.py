"""A run directory on any pyarrow file system: committed Parquet parts and a manifest written last.

Tables enter part by part; `<run>/<stage>/<fingerprint>/` leaves. A part appears under its final name only when it is
whole, and holds what it holds for good; a stage is complete only when its manifest stands. Killing a process at any
moment therefore costs at most the parts that were being written. A store may be far away, so requests are few: a small
object is put by one, a small part is read by two, and many parts at once.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mralign.rows.columns import cast
from mralign.rows.schema import REJECTS
from mralign.run.arrow_files import open_parquet, telling_damage
from mralign.run.disk import DiskFull, full_disk, no_room
from mralign.run.filesystems import open_filesystem
from mralign.run.part_names import part_key, standing_parts

_AT_ONCE = 4 * 2**20  # bytes; S3 is given what is smaller by one request
_WHOLE = 2**20  # bytes of a part that is read by one request; of a larger one first the footer
READERS = 16  # requests of one process to a store at the same time

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself. `parts`: rows and bytes of each committed part, and of its rejects under
    `rejects/<part>`; a run directory from before they were counted has none."""

    stage: str
    fingerprint: str
    config: Mapping[str, Any]
    upstream: Mapping[str, str]
    inputs: Mapping[str, str]
    rows_in: int
    rows_out: int
    rejects: Mapping[str, int]
    seconds: float
    versions: Mapping[str, str]
    figures: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Sequence[int]] = field(default_factory=dict)


def fingerprint(
    *, stage: str, version: int, config: Any, upstream: Mapping[str, str], inputs: Mapping[str, str]
) -> str:
    """Sixteen hex digits that change when anything that matters to the stage changes."""
    text = json.dumps([stage, version, config, dict(upstream), dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def absolute(uri: str) -> str:
    """A URI unchanged, a local path made absolute: workers have another working directory than the driver."""
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


@dataclass(frozen=True)
class Directory:
    """A directory (or file) by URI; cheap to copy and to send to another process."""

    uri: str

    @cached_property
    def _opened(self) -> tuple[fs.FileSystem, str]:
        return open_filesystem(self.uri)

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._opened[0]

    def path(self, name: str = "") -> str:
        """Path of `name` inside the file system."""
        return f"{self._opened[1]}/{name}" if name else self._opened[1]

    def exists(self, name: str = "") -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound)

    def require(self, what: str) -> None:
        """Raise ValueError if there is no file or directory here."""
        if not self.exists():
            raise ValueError(f"{what}: {self.uri} does not exist; correct the path in the configuration")

    def read_text(self, name: str) -> str:
        """The text of a file. FileNotFoundError where there is none, or it is deleted meanwhile."""
        try:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read()).decode()
        except OSError as error:
            if isinstance(error, FileNotFoundError) or self.exists(name):
                raise
            raise FileNotFoundError(f"{self.uri}/{name} was deleted while it was read") from error

    def find_text(self, name: str) -> str | None:
        """The text of a file, None where there is none: to look for it first would be one more request."""
        with suppress(FileNotFoundError):
            return self.read_text(name)
        return None

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write whole or not at all: a small object of S3 by one request, anything else to a temporary name first.

        Also on an object store, where a move is a copy: an upload that is interrupted is closed, and so completed, by
        pyarrow, with whatever had been written. The one request is made by a thread: no signal ends it halfway.
        """
        if self.filesystem.type_name == "s3" and len(data) < _AT_ONCE:
            with ThreadPoolExecutor(1) as writer:
                writer.submit(self._put, self.path(name), data).result()
            return
        with self.new_file(name) as stream:
            stream.write(data)

    @contextmanager
    def new_file(self, name: str) -> Iterator[pa.NativeFile]:
        """An open file to be written in pieces; it gets its name when the block has ended, if nothing failed."""
        target = self.path(name)
        parent = target.rsplit("/", 1)[0]
        temporary = f"{parent}/_tmp-{uuid.uuid4().hex}"
        try:
            with self._create(temporary, parent=parent) as stream:
                yield stream
            self.filesystem.move(temporary, target)
        except BaseException as error:
            self._forget(temporary)
            if not isinstance(error, OSError) or full_disk(error) is None:
                raise
            raise DiskFull(no_room(self.path())) from error

    def _put(self, path: str, data: bytes) -> None:
        with self.filesystem.open_output_stream(path) as stream:
            stream.write(data)

    def _create(self, path: str, *, parent: str) -> pa.NativeFile:
        """An open new file. Its directory is made only if it is missing: on S3 that takes a request a level."""
        try:
            return self.filesystem.open_output_stream(path)
        except FileNotFoundError:
            self.filesystem.create_dir(parent, recursive=True)
            return self.filesystem.open_output_stream(path)

    def _forget(self, path: str) -> None:
        """Delete what a failed write has left; where that cannot be reached either, the first fault is told."""
        with suppress(OSError):
            self.filesystem.delete_file(path)

    def write_text(self, name: str, text: str) -> None:
        self.write_bytes(name, text.encode())

    def remove(self) -> None:
        """Delete the directory and everything in it."""
        if self.exists():
            self.filesystem.delete_dir(self.path())

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}


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

    def parts(self, group: str = "") -> list[str]:
        """Names of the committed parts, sorted; with `group`, of those whose key is `group` or begins `group-`.

        Those of a stage that this process knows to be finished are the ones that its manifest names.
        """
        names = standing_parts(self._sealed() or self.sizes(recursive=False))
        return [n for n in names if not group or f"{part_key(n)}-".startswith(f"{group}-")]

    def _sealed(self) -> Mapping[str, Sequence[int]]:
        """Rows and bytes of the files of a stage that this process knows to be finished; else nothing."""
        return self._known_manifest[0].parts if self._known_manifest else {}

    def rows(self, part: str) -> int:
        """Number of rows of a committed part, from its footer."""
        return self._rows(part)

    def counts(self, parts: Sequence[str] | None = None) -> dict[str, int]:
        """Number of rows of the given committed parts, or of all: from the manifest of a finished stage, else from
        their footers, each of which is read once."""
        self.manifest()
        known = self._sealed()
        if known and parts is None:
            parts = standing_parts(known)
        if parts is not None and all(name in known for name in parts):
            return {name: known[name][0] for name in parts}
        sizes = self.sizes(recursive=False)
        names = standing_parts(sizes) if parts is None else list(parts)
        found = self._rows_of({name: sizes.get(name, -1) for name in names if name not in known})
        return {name: found[name] if name in found else known[name][0] for name in names}

    def _rows_of(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Number of rows of some files, by name; `sizes`: their bytes, as a listing has them."""
        missing = [name for name, size in sizes.items() if (name, size) not in self._known_rows]
        with ThreadPoolExecutor(READERS) as readers:
            list(readers.map(self._rows, missing))
        return {name: self._known_rows[name, size] for name, size in sizes.items()}

    def columns(self, part: str) -> list[str]:
        """Names of the columns of a committed part, from its footer."""
        with self.filesystem.open_input_file(self.path(part)) as stream:
            return list(pq.read_schema(stream).names)

    def reject_rows(self, part: str) -> int:
        """Number of rejects of a committed part."""
        return self._rows(f"rejects/{part}") if self.exists(f"rejects/{part}") else 0

    def _rows(self, name: str) -> int:
        with self.filesystem.open_input_file(self.path(name)) as stream:
            rows = int(pq.ParquetFile(stream).metadata.num_rows)
            self._known_rows[name, stream.size()] = rows
        return rows

    def commit(self, part: str, table: pa.Table, *, schema: pa.Schema, rejects: pa.Table | None = None) -> None:
        """Commit one part and its rejects; committing the same part again replaces it."""
        if rejects is not None:
            self.commit_rejects(part, rejects)
        self._write_table(part, cast(table, schema))

    def _write_table(self, name: str, table: pa.Table) -> None:
        data = _parquet(table)
        self.write_bytes(name, data)
        self._known_rows[name, len(data)] = table.num_rows

    def commit_rejects(self, part: str, rejects: pa.Table) -> None:
        """Replace the rejects of a part."""
        name = f"rejects/{part}"
        if rejects.num_rows:
            self._write_table(name, cast(rejects, REJECTS))
        else:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(name))

    def read(self, *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """All committed rows, parts in the order of their names."""
        return self.read_parts(self.parts(), schema=schema, columns=columns)

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        return self.read_files(parts, schema=wanted)

    def read_rejects(self, parts: Sequence[str] | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The rejects of the given committed parts, or of all."""
        wanted = REJECTS if columns is None else pa.schema([REJECTS.field(c) for c in columns])
        if parts is not None and len(parts) == 1:
            with suppress(FileNotFoundError):
                return self.read_files([f"rejects/{parts[0]}"], schema=wanted)
            return wanted.empty_table()
        return self.read_files([f"rejects/{part}" for part in self._with_rejects(parts)], schema=wanted)

    def read_files(self, names: Sequence[str], *, schema: pa.Schema) -> pa.Table:
        """The rows of some files, in their order; many are read at once, as a store may be far away."""

        def read(name: str) -> pa.Table:
            return self._read(name, columns=schema.names).select(schema.names).cast(schema)

        with ThreadPoolExecutor(READERS) as readers:
            return pa.concat_tables([schema.empty_table(), *readers.map(read, names)])

    def _with_rejects(self, parts: Sequence[str] | None) -> list[str]:
        """Those of the parts, or of all, that have rejects: by one listing, as each look is a request."""
        there = {name.removeprefix("rejects/") for name in self._sealed() if name.startswith("rejects/")}
        if not self._sealed():
            selector = fs.FileSelector(self.path("rejects"), allow_not_found=True)
            there = {info.base_name for info in self.filesystem.get_file_info(selector)}
        if not there:
            return []
        return [part for part in (self.parts() if parts is None else parts) if part in there]

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is unfinished. Raises ValueError for one that cannot be read."""
        return self._known_manifest[0] if self._known_manifest else self._read_manifest()

    def _read_manifest(self) -> Manifest | None:
        self._known_manifest.clear()
        try:
            self._known_manifest.append(Manifest(**json.loads(self.read_text("manifest.json"))))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.uri}/manifest.json cannot be read ({error}); delete it and run the same command again: the "
                f"stage goes on from its committed parts"
            ) from None
        return self._known_manifest[0]

    def standing(self) -> tuple[Manifest | None, list[str]]:
        """The manifest of a stage all of whose parts are there; else None, and the files that are missing or have
        another size than they were committed with, or the manifest that cannot be read. One listing tells."""
        sizes = self.sizes()
        try:
            manifest = self._read_manifest() if "manifest.json" in sizes else None
        except ValueError:
            return None, ["manifest.json"]
        if manifest is None:
            return None, []
        damaged = [name for name, (_, size) in manifest.parts.items() if sizes.get(name) != size]
        if damaged:
            self._known_manifest.clear()
        return (None if damaged else manifest), damaged

    def seal(self, manifest: Manifest) -> Manifest:
        """Write the manifest, with rows and sizes of what is committed, and return it: the stage is complete."""
        sizes = self.sizes()
        standing = standing_parts(sizes)
        names = sorted([*standing, *(name for part in standing if (name := f"rejects/{part}") in sizes)])
        rows = self._rows_of({name: sizes[name] for name in names})
        sealed = replace(manifest, parts={name: [rows[name], sizes[name]] for name in names})
        self.write_text("manifest.json", json.dumps(asdict(sealed), indent=1))
        self._known_manifest[:] = [sealed]
        return sealed

    def unseal(self, damaged: Sequence[str]) -> None:
        """Forget that the stage was finished, and its damaged parts with their rejects: the stage makes them anew.

        The manifest goes last. Until then a stage that is looked at again is found damaged, and unsealed again.
        """
        parts = dict.fromkeys(name.removeprefix("rejects/") for name in damaged)
        for name in [*chain.from_iterable((part, f"rejects/{part}") for part in parts), "manifest.json"]:
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(name))
        self._known_manifest.clear()

    def sizes(self, *, recursive: bool = True) -> dict[str, int]:
        """Bytes of every file in the directory (`recursive`: and below it), by its name from here."""
        selector = fs.FileSelector(self.path(), allow_not_found=True, recursive=recursive)
        infos = self.filesystem.get_file_info(selector)
        return {info.path.removeprefix(self.path()).lstrip("/"): info.size for info in infos if info.is_file}

    def _read(self, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        with self._opened_part(name) as stream:
            size = stream.size()
            source = pa.BufferReader(stream.read_buffer(size)) if size <= _WHOLE else stream
            table = open_parquet(source, name=f"{self.uri}/{name}").read(columns=columns)
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


def ahead(function: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """`function` of each item, in their order; it is at work on the next `READERS`, as a store may be far away."""
    running: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(READERS) as readers:
        for item in items:
            running.append(readers.submit(function, item))
            if len(running) == READERS:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
