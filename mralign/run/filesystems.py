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

_ATTEMPTS = 10  # of one request, which is refused, dropped or not answered


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
    filesystem, bucket = fs.FileSystem.from_uri(root)
    return _s3(filesystem.__reduce__()[1][0]), bucket


class _S3(fs.S3FileSystem):  # type: ignore[misc]  # pyarrow has no types
    """S3 without the empty objects that stand for directories: making one takes a request a level."""

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """Nothing: a key needs no directory."""

    def __reduce__(self) -> Any:
        """Ray Train sends its file system to its workers."""
        return _s3, super().__reduce__()[1]


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
