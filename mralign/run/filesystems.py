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
    if uri.startswith("s3://"):
        return _open_s3(uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
        return _open_fsspec(uri)
    return filesystem, path


def _open_s3(uri: str) -> tuple[fs.FileSystem, str]:
    """One client a bucket in a process: pyarrow makes a new one only while no request of another is under way."""
    parts = urlsplit(uri)
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    filesystem, bucket = _s3_client(f"s3://{parts.netloc}?{parts.query}", environment)
    return filesystem, bucket + unquote(parts.path).rstrip("/")


@lru_cache(maxsize=64)
def _s3_client(root: str, environment: Sequence[tuple[str, str]]) -> tuple[fs.FileSystem, str]:
    """The client of a bucket, as the environment has it. It puts a small object by one request, not by three."""
    if "allow_delayed_open" not in root:
        root += "allow_delayed_open=true" if root.endswith("?") else "&allow_delayed_open=true"
    pa.set_io_thread_count(max(_THREADS, pa.io_thread_count()))
    filesystem, bucket = fs.FileSystem.from_uri(root)
    return _s3(filesystem.__reduce__()[1][0]), bucket


class _S3(fs.S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """S3 without the empty objects that stand for directories: making one takes a request a level. `recalled`: what it
    has read of finished stages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.recalled = Recall()

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Nothing: a key needs no directory."""

    def __reduce__(self) -> Any:
        """Ray Train sends its file system to its workers."""
        return _s3, super().__reduce__()[1]


def for_copies(filesystem: fs.FileSystem) -> fs.FileSystem:
    """The same store, for whoever copies directories into it by Arrow's `copy_files`.

    Arrow makes each directory first, by a request a level, and does not ask our `create_dir`; here it does. Ray Train
    copies to S3 by one thread, for a fault that Arrow has mended since (apache/arrow#44897). It does not know this one
    for S3 and copies by all of Arrow's threads, 64 MiB of a file at a time.
    """
    return fs.PyFileSystem(_NoDirectories(filesystem)) if isinstance(filesystem, _S3) else filesystem


class _NoDirectories(fs.FileSystemHandler):  # type: ignore[misc]  # pyarrow has no types
    """A store as Arrow calls it through Python, in which directories are not made. Streams are the store's own."""

    def __init__(self, store: _S3) -> None:
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


def _s3(options: Mapping[str, Any]) -> _S3:
    return _S3(**{**options, "retry_strategy": fs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS)})


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
