"""A run directory on any pyarrow file system: committed Parquet parts and a manifest written last.

Tables enter part by part; `<run>/<stage>/<fingerprint>/` leaves. A part appears under its final name only when it is
whole, and holds what it holds for good; a stage is complete only when its manifest stands. Killing a process at any
moment therefore costs at most the parts that were being written.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from mralign.rows.columns import cast
from mralign.rows.schema import REJECTS
from mralign.run.arrow_files import open_parquet
from mralign.run.disk import DiskFull, full_disk, no_room

_SAMPLED_ABOVE = 64 * 2**20
_BLOCK = 2**20
_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt")
_PART = re.compile(r"(rejects/)?part-[^/]*\.parquet")
_READERS = 16  # footers that are read at once
# What Arrow says of a file that is damaged; other errors of a file system may pass.
_BROKEN = re.compile(
    r"thrift|corrupt|decompress|magic bytes|parquet footer|end of stream|data page|page (header|was|size)|file size is",
    re.IGNORECASE,
)


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


class DamagedPart(pa.ArrowInvalid):  # type: ignore[misc]  # pyarrow has no types
    """A committed part is no Parquet file any more: a disk or somebody's hand has changed it."""


def fingerprint(
    *, stage: str, version: int, config: Any, upstream: Mapping[str, str], inputs: Mapping[str, str]
) -> str:
    """Sixteen hex digits that change when anything that matters to the stage changes."""
    text = json.dumps([stage, version, config, dict(upstream), dict(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(path: str) -> str:
    """Content digest of a file, or of the regular files in and below a directory (names and contents).

    Files are read whole, except model weights above 64 MiB: of those, the size and 64 blocks of 1 MiB spread evenly
    from first to last byte. Of a generation_config.json only the end tokens count: we sample by our own settings, and
    a file that is mended so that others can read it makes no other model; a README.md counts for nothing. A path that
    does not exist (a hub name, hub://...) is its own digest.
    """
    if path.startswith("hub://"):
        return f"name:{path}"
    filesystem, inner = open_filesystem(path)
    info = filesystem.get_file_info(inner)
    if info.type == fs.FileType.NotFound:
        return f"name:{path}"
    if info.type == fs.FileType.File:
        return _digest_file(filesystem, info)
    found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    files = [info for info in found if info.type == fs.FileType.File]
    counted = [info for info in files if info.base_name != "README.md"]  # a card is completed when results are there
    lines = [f"{info.path.removeprefix(inner).lstrip('/')} {_digest_file(filesystem, info)}" for info in counted]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI or local path, and the path inside it.

    Schemes that pyarrow does not know (https://, hf://, memory://, ...) are opened by fsspec. ValueError for one that
    neither knows, or whose fsspec package is not installed.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), absolute(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        return _open_fsspec(uri)
    return filesystem, path


def _open_fsspec(uri: str) -> tuple[fs.FileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        filesystem, path = url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{uri} cannot be opened: {error}; allowed are local paths, the URIs of pyarrow (file://, s3://, gs://, "
            f"abfs://, hdfs://) and the URLs of installed fsspec file systems (https://, ...)"
        ) from error
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), path


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
        with self.filesystem.open_input_stream(self.path(name)) as stream:
            return bytes(stream.read()).decode()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write whole or not at all: to a temporary name first, then moved.

        Also on an object store, where a move is a copy: an upload that is interrupted is closed, and so completed, by
        pyarrow, with whatever had been written.
        """
        target = self.path(name)
        parent = target.rsplit("/", 1)[0]
        temporary = f"{parent}/_tmp-{uuid.uuid4().hex}"
        try:
            with self._create(temporary, parent=parent) as stream:
                stream.write(data)
            self.filesystem.move(temporary, target)
        except OSError as error:
            self._forget(temporary)
            if full_disk(error) is None:
                raise
            raise DiskFull(no_room(self.path())) from error

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

    def parts(self, group: str = "") -> list[str]:
        """Names of the committed parts, sorted; with `group`, of those whose key is `group` or begins `group-`."""
        selector = fs.FileSelector(self.path(), allow_not_found=True)
        names = [info.base_name for info in self.filesystem.get_file_info(selector)]
        names = sorted(n for n in names if n.startswith("part-") and n.endswith(".parquet"))
        return [n for n in names if not group or f"{part_key(n)}-".startswith(f"{group}-")]

    def rows(self, part: str) -> int:
        """Number of rows of a committed part, from its footer."""
        return self._rows(part)

    def counts(self, parts: Sequence[str] | None = None) -> dict[str, int]:
        """Number of rows of the given committed parts, or of all: from the manifest of a finished stage, else from
        their footers, many of which are read at once as a store may be far away."""
        names = self.parts() if parts is None else list(parts)
        manifest = self.manifest()
        known = manifest.parts if manifest is not None else {}
        missing = [name for name in names if name not in known]
        found = dict(zip(missing, self._rows_of(missing), strict=True))
        return {name: found[name] if name in found else known[name][0] for name in names}

    def _rows_of(self, names: Sequence[str]) -> list[int]:
        with ThreadPoolExecutor(_READERS) as readers:
            return list(readers.map(self._rows, names))

    def columns(self, part: str) -> list[str]:
        """Names of the columns of a committed part, from its footer."""
        with self.filesystem.open_input_file(self.path(part)) as stream:
            return list(pq.read_schema(stream).names)

    def reject_rows(self, part: str) -> int:
        """Number of rejects of a committed part."""
        return self._rows(f"rejects/{part}") if self.exists(f"rejects/{part}") else 0

    def _rows(self, name: str) -> int:
        with self.filesystem.open_input_file(self.path(name)) as stream:
            return int(pq.ParquetFile(stream).metadata.num_rows)

    def commit(self, part: str, table: pa.Table, *, schema: pa.Schema, rejects: pa.Table | None = None) -> None:
        """Commit one part and its rejects; committing the same part again replaces it."""
        if rejects is not None:
            self.commit_rejects(part, rejects)
        self.write_bytes(part, _parquet(cast(table, schema)))

    def commit_rejects(self, part: str, rejects: pa.Table) -> None:
        """Replace the rejects of a part."""
        name = f"rejects/{part}"
        if rejects.num_rows:
            self.write_bytes(name, _parquet(cast(rejects, REJECTS)))
        elif self.exists(name):
            self.filesystem.delete_file(self.path(name))

    def read(self, *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """All committed rows, parts in the order of their names."""
        return self.read_parts(self.parts(), schema=schema, columns=columns)

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns])
        return self._read_all(parts, schema=wanted)

    def read_rejects(self, parts: Sequence[str] | None = None, *, columns: Sequence[str] | None = None) -> pa.Table:
        """The rejects of the given committed parts, or of all."""
        wanted = REJECTS if columns is None else pa.schema([REJECTS.field(c) for c in columns])
        found = [f"rejects/{part}" for part in self._with_rejects(parts)]
        return self._read_all(found, schema=wanted)

    def _read_all(self, names: Sequence[str], *, schema: pa.Schema) -> pa.Table:
        """The rows of some files, in their order; many are read at once, as a store may be far away."""

        def read(name: str) -> pa.Table:
            return self._read(name, columns=schema.names).select(schema.names).cast(schema)

        with ThreadPoolExecutor(_READERS) as readers:
            return pa.concat_tables([schema.empty_table(), *readers.map(read, names)])

    def _with_rejects(self, parts: Sequence[str] | None) -> list[str]:
        """Those of the parts that have rejects; of all parts, by one listing: on an object store each look is a
        request."""
        if parts is not None:
            return [part for part in parts if self.exists(f"rejects/{part}")]
        selector = fs.FileSelector(self.path("rejects"), allow_not_found=True)
        there = {info.base_name for info in self.filesystem.get_file_info(selector)}
        return [part for part in self.parts() if part in there]

    def manifest(self) -> Manifest | None:
        """The manifest, or None while the stage is unfinished. Raises ValueError for one that cannot be read."""
        try:
            return Manifest(**json.loads(self.read_text("manifest.json")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self.uri}/manifest.json cannot be read ({error}); delete it and run the same command again: the "
                f"stage goes on from its committed parts"
            ) from None

    def standing(self) -> tuple[Manifest | None, list[str]]:
        """The manifest of a stage all of whose parts are there; else None, and the parts that are missing or have
        another size than they were committed with. One listing tells."""
        sizes = self._sizes()
        manifest = self.manifest() if "manifest.json" in sizes else None
        if manifest is None:
            return None, []
        damaged = [name for name, (_, size) in manifest.parts.items() if sizes.get(name) != size]
        return (None if damaged else manifest), damaged

    def seal(self, manifest: Manifest) -> Manifest:
        """Write the manifest, with rows and sizes of what is committed: from now on the stage is complete. Returns it
        as it was written."""
        sizes = self._sizes()
        names = sorted(name for name in sizes if _PART.fullmatch(name))
        rows = self._rows_of(names)
        parts = {name: [count, sizes[name]] for name, count in zip(names, rows, strict=True)}
        sealed = replace(manifest, parts=parts)
        self.write_text("manifest.json", json.dumps(asdict(sealed), indent=1))
        return sealed

    def unseal(self, damaged: Sequence[str]) -> None:
        """Forget that the stage was finished, and what is left of its damaged parts: the stage makes them anew."""
        for name in ("manifest.json", *damaged):
            with suppress(FileNotFoundError):
                self.filesystem.delete_file(self.path(name))

    def _sizes(self) -> dict[str, int]:
        """Bytes of every file in and below the directory, by its name from here."""
        selector = fs.FileSelector(self.path(), allow_not_found=True, recursive=True)
        infos = self.filesystem.get_file_info(selector)
        return {info.path.removeprefix(self.path()).lstrip("/"): info.size for info in infos if info.is_file}

    def _read(self, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        try:
            with self.filesystem.open_input_file(self.path(name)) as stream:
                return open_parquet(stream, name=f"{self.uri}/{name}").read(columns=columns)
        except (pa.ArrowInvalid, OSError) as error:
            of_the_store = isinstance(error, OSError) and not _BROKEN.search(str(error))
            if of_the_store or isinstance(error, FileNotFoundError):
                raise
            raise DamagedPart(
                f"{self.uri}/{name} cannot be read: {str(error).splitlines()[0]}. Delete that file and run the same "
                f"command again: what it held is made anew"
            ) from error


def part_name(key: str) -> str:
    """File name of the part identified by `key` (a number or a content hash)."""
    return f"part-{key}.parquet"


def part_key(name: str) -> str:
    """The key in the file name of a part: `part_name` backwards."""
    return name.removeprefix("part-").removesuffix(".parquet")


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def _ends(data: bytes) -> bytes:
    """The end tokens in a generation configuration; all of it where it is no JSON object."""
    try:
        values = json.loads(data)
    except ValueError:
        return data
    return json.dumps(values.get("eos_token_id")).encode() if isinstance(values, dict) else data


def _digest_file(filesystem: fs.FileSystem, info: fs.FileInfo) -> str:
    if info.base_name == "generation_config.json":
        with filesystem.open_input_file(info.path) as stream:
            return hashlib.sha256(_ends(bytes(stream.read()))).hexdigest()
    hasher = hashlib.sha256(str(info.size).encode())
    with filesystem.open_input_file(info.path) as stream:
        if info.size > _SAMPLED_ABOVE and info.base_name.endswith(_WEIGHTS):
            for block in range(64):
                stream.seek(block * (info.size - _BLOCK) // 63)
                hasher.update(stream.read(_BLOCK))
        else:
            while data := stream.read(16 * _BLOCK):
                hasher.update(data)
    return hasher.hexdigest()
