"""File systems by URI: local, those of pyarrow, and those that fsspec knows.

A URI or local path enters; a pyarrow file system and the path inside it leave.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

from mralign.run.recall import Recall

_ATTEMPTS = 10  # of one request, which is refused, dropped or not answered
_THREADS = 32  # by which Arrow asks a store; its own default of 8 lets the rest of our questions wait for each other


def open_filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI or local path, and the path inside it.

    Schemes that pyarrow does not know (https://, hf://, memory://, ...) are opened by fsspec. ValueError for one that
    neither knows, or whose fsspec package is not installed.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if uri.startswith(tuple(_STORES)):
        return _open_store(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        return _open_fsspec(uri)
    return filesystem, path


def is_store(filesystem: fs.FileSystem) -> bool:
    """Whether it is an object store whose client is one of those here: an object is there whole or not at all."""
    return isinstance(filesystem, _ObjectStore)


def files_in(filesystem: fs.FileSystem, path: str, *, recursive: bool) -> list[fs.FileInfo]:
    """The files of a directory, `recursive`: and of those in it; none where it does not exist."""
    selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
    client = filesystem.plain if isinstance(filesystem, _Gcs) else filesystem
    return [info for info in client.get_file_info(selector) if info.is_file]


def _open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """One client a bucket in a process: pyarrow makes a new one only while no request of another is under way."""
    parts = urlsplit(uri)
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    filesystem, bucket = _client(f"{parts.scheme}://{parts.netloc}?{parts.query}", environment)
    return filesystem, bucket + unquote(parts.path).rstrip("/")


@lru_cache(maxsize=64)
def _client(root: str, environment: Sequence[tuple[str, str]]) -> tuple[fs.FileSystem, str]:
    """The client of a bucket, as the environment has it."""
    kind = _STORES[root[: root.index("://") + 3]]
    pa.set_io_thread_count(max(_THREADS, pa.io_thread_count()))
    filesystem, bucket = fs.FileSystem.from_uri(kind.complete(root))
    return _made(kind, filesystem.__reduce__()[1][0]), bucket


class _ObjectStore:
    """A store without the empty objects that stand for directories: making one takes a request a level.

    `recalled`: what this process has read of finished stages.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.recalled = Recall()

    @staticmethod
    def complete(root: str) -> str:
        """The URI of a bucket with what is asked of its client."""
        return root

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Nothing: a key needs no directory."""

    def __reduce__(self) -> Any:
        """Ray Train sends its file system to its workers."""
        parent: Any = super().__reduce__()
        return _made, (type(self), parent[1][0])


class _S3(_ObjectStore, fs.S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """Amazon's, and those that speak its language."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "retry_strategy": fs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS)})

    @staticmethod
    def complete(root: str) -> str:
        """It puts a small object by one request, not by three."""
        if "allow_delayed_open" in root:
            return root
        return root + ("allow_delayed_open=true" if root.endswith("?") else "&allow_delayed_open=true")


class _Gcs(_ObjectStore, fs.GcsFileSystem):  # type: ignore[misc]  # pyarrow has no types
    """Google's. Arrow's client knows a directory there by its empty object alone: a listing has no others
    (apache/arrow#35993), and one without it cannot be deleted. Here a directory is what has something below it.

    `plain`: Arrow's own view. It lists the files of one level, and nothing else, by one request.
    """

    @property
    def plain(self) -> Any:
        return super()

    def get_file_info(self, paths_or_selector: Any) -> Any:
        """What is listed is made from a listing of all levels."""
        if not isinstance(paths_or_selector, fs.FileSelector):
            return super().get_file_info(paths_or_selector)
        home, missing = paths_or_selector.base_dir.rstrip("/"), paths_or_selector.allow_not_found
        selector = fs.FileSelector(home, allow_not_found=missing, recursive=True)
        infos = _with_directories(super().get_file_info(selector), home=home)
        if paths_or_selector.recursive:
            return infos
        return [info for info in infos if "/" not in info.path[len(home) + 1 :]]

    def delete_dir(self, path: str) -> None:
        """All below a directory, and then its empty object, which is missing unless another client has made it."""
        try:
            super().delete_dir(path)
        except FileNotFoundError:
            if super().get_file_info(path).type != fs.FileType.NotFound:
                raise


_STORES: Mapping[str, Any] = {"s3://": _S3, "gs://": _Gcs, "gcs://": _Gcs}
_ENVIRONMENT = ("AWS_", "CLOUD", "GOOGLE_")  # begin the names of variables that a client reads


def _made(kind: Any, options: Mapping[str, Any]) -> fs.FileSystem:
    return kind(**options)


def _with_directories(infos: Sequence[fs.FileInfo], *, home: str) -> list[fs.FileInfo]:
    """All that lies below a directory in order of its path, with the directories that it lies in."""
    found = {}
    for info in infos:
        place = info.path.rstrip("/")
        found[place] = info
        while (place := place.rpartition("/")[0]) not in found and len(place) > len(home):
            found[place] = fs.FileInfo(place, fs.FileType.Directory)
    return [found[place] for place in sorted(found)]


def for_copies(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same store, for whoever copies directories into it by Arrow's `copy_files`.

    Arrow makes each directory first, by a request a level, and does not ask our `create_dir`; here it does. Ray Train
    copies to S3 by one thread, for a fault that Arrow has mended since (apache/arrow#44897). It does not know this one
    for S3 and copies by all of Arrow's threads, 64 MiB of a file at a time.
    """
    return fs.PyFileSystem(_NoDirectories(filesystem)) if is_store(filesystem) else filesystem


class _NoDirectories(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """A store as Arrow calls it through Python, in which directories are not made. Streams are the store's own."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _NoDirectories) and bool(self.store == other.store)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.store.type_name)

    def get_type_name(self) -> str:
        return str(self.store.type_name)

    def normalize_path(self, path: str) -> str:
        return str(self.store.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> Any:
        return self.store.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> Any:
        return self.store.get_file_info(selector)

    def create_dir(self, path: str, recursive: bool) -> None:
        """Nothing: a key needs no directory."""

    def delete_dir(self, path: str) -> None:
        self.store.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self.store.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("nobody deletes all that is in a store")

    def delete_file(self, path: str) -> None:
        self.store.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self.store.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self.store.copy_file(src, dest)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.store.open_input_stream(path, compression=None)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self.store.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Mapping[str, str]) -> pa.NativeFile:
        return self.store.open_output_stream(path, compression=None, metadata=dict(metadata or {}) or None)

    def open_append_stream(self, path: str, metadata: Mapping[str, str]) -> pa.NativeFile:
        return self.store.open_append_stream(path, compression=None, metadata=dict(metadata or {}) or None)


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
