"""A directory on any pyarrow file system, by URI: small files are read and written whole.

Bytes and texts enter and leave. A store may be far away, so requests are few: a small object is put by one, and what is
only looked for is asked once.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from mralign.run.disk import DiskFull, full_disk, no_room
from mralign.run.filesystems import is_store, open_filesystem
from mralign.run.recall import Recall

_AT_ONCE = 4 * 2**20  # bytes; a store is given what is smaller at once
READERS = 16  # requests of one process to a store at the same time

_NOTHING = Recall(keeps=False)  # of a file system whose client keeps nothing: a local disk answers at once

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


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

    @property
    def recalled(self) -> Recall:
        """What this process knows of finished stages in the same store; of a local disk nothing is kept."""
        found: Recall = getattr(self.filesystem, "recalled", _NOTHING)
        return found

    def exists(self, name: str = "") -> bool:
        return bool(self.filesystem.get_file_info(self.path(name)).type != fs.FileType.NotFound)

    def holds(self, name: str) -> bool:
        """Whether there is a file of that name, by one request; `exists` may ask a store twice."""
        if not is_store(self.filesystem):
            return bool(self.filesystem.get_file_info(self.path(name)).type == fs.FileType.File)
        try:
            self.filesystem.open_input_stream(self.path(name)).close()
        except FileNotFoundError:
            return False
        return True

    def folders(self) -> set[str]:
        """Names of the directories right below this one; none where it does not exist."""
        selector = fs.FileSelector(self.path(), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        return {info.base_name for info in found if info.type == fs.FileType.Directory}

    def require(self, what: str) -> None:
        """Raise ValueError if there is no file or directory here."""
        if not self.exists():
            raise ValueError(f"{what}: {self.uri} does not exist; correct the path in the configuration")

    def read_text(self, name: str) -> str:
        """The text of a file. FileNotFoundError where there is none, or it is deleted meanwhile."""
        return self._bytes_of(name).decode()

    def _bytes_of(self, name: str) -> bytes:
        place = f"{self.uri}/{name}"
        kept = self.recalled.file(place)
        if kept is not None:
            return kept
        if self.recalled.is_missing(place):
            raise FileNotFoundError(f"{place} does not exist")
        try:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                data = bytes(stream.read())
        except OSError as error:
            if isinstance(error, FileNotFoundError) or self.exists(name):
                raise
            raise FileNotFoundError(f"{self.uri}/{name} was deleted while it was read") from error
        self.recalled.keep_file(place, data)
        return data

    def find_text(self, name: str) -> str | None:
        """The text of a file, None where there is none: to look for it first would be one more request."""
        with suppress(FileNotFoundError):
            return self.read_text(name)
        return None

    def recall(self, name: str) -> None:
        """Read a small file of a finished stage so that it is known when it is asked for; a missing one is none."""
        with suppress(FileNotFoundError):
            self._bytes_of(name)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write whole or not at all: a small object of a store at once, anything else to a temporary name first.

        Also on an object store, where a move is a copy: an upload that is interrupted is closed, and so completed, by
        pyarrow, with whatever had been written. The small object is put by a thread: no signal ends it halfway.
        """
        self.recalled.appears(f"{self.uri}/{name}")
        try:
            if is_store(self.filesystem) and len(data) < _AT_ONCE:
                with ThreadPoolExecutor(1) as writer:
                    writer.submit(self._put, self.path(name), data).result()
                return
            with self.new_file(name) as stream:
                stream.write(data)
        finally:  # another thread may have read what was there before
            self.recalled.forget(f"{self.uri}/{name}")

    @contextmanager
    def new_file(self, name: str) -> Iterator[pa.NativeFile]:
        """An open file to be written in pieces; it gets its name when the block has ended, if nothing failed."""
        self.recalled.appears(f"{self.uri}/{name}")
        self.recalled.forget(f"{self.uri}/{name}")
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

    def write_texts(self, texts: Mapping[str, str]) -> None:
        """Write several files side by side; one that fails leaves the others as they come."""
        for _ in ahead(lambda one: self.write_text(*one), texts.items()):
            pass

    def remove(self) -> None:
        """Delete the directory and everything in it."""
        self.recalled.forget(self.uri)
        try:
            self.filesystem.delete_dir(self.path())
        except OSError:  # a store says in its own way that nothing is there
            if self.exists():
                raise

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri}


def ahead(function: Callable[[_Item], _Made], items: Iterable[_Item], *, at_once: int = READERS) -> Iterator[_Made]:
    """`function` of each item, in their order; it is at work on the next `at_once`, as a store may be far away."""
    running: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(at_once) as readers:
        for item in items:
            running.append(readers.submit(function, item))
            if len(running) == at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
