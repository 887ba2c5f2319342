"""A directory of a store, copied to this machine once for all processes of a user that need it.

A URI enters; a local directory leaves, which stays while this process lives. Every replica of an engine and every
worker of a training needs the model: eight on a node would fetch it eight times, and keep it eight times. So they share
a copy, under a name made of what the store says of the files (names, bytes, times). The first that comes copies; the
others wait for it. Each holds a lock on it that the system drops with the process, however that ends, and whoever finds
a copy that nobody holds deletes it.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from pyarrow import fs

from mralign.run.directory import READERS
from mralign.run.disk import DiskFull, full_disk, no_room, own_temporary_directory
from mralign.run.filesystems import open_filesystem

log = logging.getLogger("mralign")

_BLOCK = 8 * 2**20  # bytes that are read of a file at once
_TOLD = 2**30  # bytes of a copy that is announced
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what some shared file systems answer


def shared_copy(uri: str, *, wanted: Callable[[str], bool] = lambda name: True) -> str:
    """A local directory with the files in and below `uri`; of them those whose relative name is `wanted`.

    Nobody may write there. Raises FileNotFoundError where nothing is, DiskFull, and ValueError for a file whose name
    leads out of the directory.
    """
    filesystem, inner = open_filesystem(uri)
    files = {name: info for name, info in _files(filesystem, inner).items() if wanted(name)}
    if not files:
        raise FileNotFoundError(f"{uri} does not exist, or holds no file that is needed")
    copy = partial(_copy, uri, filesystem, files)
    home = _home()
    if home is not None and _dated(files):
        try:
            return str(_shared(home, _key(uri, files), files=files, copy=copy))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
    target = Path(own_temporary_directory("copy"))
    copy(target=target)
    return str(target)


def seen_from_outside(uri: str) -> str | None:
    """A text that is another one when the files in and below `uri` have changed, by one listing; None where the store
    does not say when they were written."""
    files = _files(*open_filesystem(uri))
    return _key(uri, files) if files and _dated(files) else None


def bytes_of(uri: str, *, wanted: Callable[[str], bool]) -> int:
    """Bytes of the files in and below `uri` whose relative name is `wanted`, by one listing."""
    files = _files(*open_filesystem(uri))
    return sum(info.size or 0 for name, info in files.items() if wanted(name))


def copy_tree(filesystem: fs.FileSystem, inner: str, *, target: Path) -> None:
    """Copy the files in and below a directory of a file system to the local directory `target`. Raises as
    `shared_copy`."""
    files = _files(filesystem, inner)
    if not files:
        raise FileNotFoundError(f"{inner} does not exist, or holds no file")
    _copy(inner, filesystem, files, target=target)


def _files(filesystem: fs.FileSystem, inner: str) -> dict[str, fs.FileInfo]:
    """The files in and below a directory by their names from there, by one listing."""
    found = filesystem.get_file_info(fs.FileSelector(inner, recursive=True, allow_not_found=True))
    files = {info.path.removeprefix(inner).lstrip("/"): info for info in found if info.type == fs.FileType.File}
    for name in files:
        if ".." in PurePosixPath(name).parts:
            raise ValueError(f"{inner} holds a file named {name!r}, which would lie outside of a copy; rename it")
    return files


def _dated(files: Mapping[str, fs.FileInfo]) -> bool:
    """Whether the store says of each when it was written: else nothing tells that one has changed."""
    return all(info.mtime_ns for info in files.values())


def _key(uri: str, files: Mapping[str, fs.FileInfo]) -> str:
    told = sorted((name, info.size, info.mtime_ns) for name, info in files.items())
    return hashlib.sha256(json.dumps([uri, told]).encode()).hexdigest()[:24]


def _copy(uri: str, filesystem: fs.FileSystem, files: Mapping[str, fs.FileInfo], *, target: Path) -> None:
    size = sum(max(0, info.size or 0) for info in files.values())
    if size >= _TOLD:
        log.info("copying %s to this machine, %.1f GiB", uri, size / 2**30)
    stopped = threading.Event()

    def copy(name: str) -> None:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        with filesystem.open_input_stream(files[name].path, compression=None) as source, place.open("wb") as out:
            while not stopped.is_set() and (block := source.read(_BLOCK)):
                out.write(block)
        if not stopped.is_set() and not _is_whole(place, files[name]):
            raise OSError(f"{uri}: {name} has another size than it was listed with; it was cut short, or replaced")

    try:
        with ThreadPoolExecutor(READERS) as copying:
            try:
                largest_first = sorted(files, key=lambda name: -(files[name].size or 0))
                for done in as_completed([copying.submit(copy, name) for name in largest_first]):
                    done.result()
            finally:
                stopped.set()  # whatever is raised waits for no large file
    except OSError as error:
        if full_disk(error, places=[str(target)]) is None:
            raise
        raise DiskFull(no_room(str(target), size=size)) from error


def _is_whole(place: Path, info: fs.FileInfo) -> bool:
    return info.size is None or (place.is_file() and place.stat().st_size == info.size)


def _home() -> Path | None:
    """Where this user's copies of this machine lie (others may share the disk, and know nothing of our locks); None
    where somebody else could write into them."""
    home = Path(tempfile.gettempdir()) / f"mralign-copies-{os.getuid()}-{platform.node()}"
    with suppress(OSError):
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return home
    return None


_threads: dict[str, threading.Lock] = {}  # by the key of a copy: one thread of this process at a time asks for it
_held: dict[str, tuple[Path, int]] = {}  # by the key of a copy: where it lies, and the open file that is locked


def _shared(home: Path, key: str, *, files: Mapping[str, fs.FileInfo], copy: Callable[..., None]) -> Path:
    """The copy of that name, made if it is not there; this process holds it from now on. Others that nobody holds are
    deleted."""
    with _threads.setdefault(key, threading.Lock()):
        _delete_unheld(home, but=key)
        while key not in _held:
            shared = _lock(home, key, fcntl.LOCK_SH)
            if _stands(home / key, files):
                if not _held:
                    atexit.register(_leave, os.getpid())
                _held[key] = (home, shared)
                break
            _unlock(shared)
            with _locked(home, key, fcntl.LOCK_EX):
                if not _stands(home / key, files):
                    _make(home, key, copy=copy)
    return home / key


def _stands(place: Path, files: Mapping[str, fs.FileInfo]) -> bool:
    """Whether a copy is there with all of its files: a power cut or who tidies up /tmp may have taken some."""
    return place.is_dir() and all(_is_whole(place / name, info) for name, info in files.items())


def _make(home: Path, key: str, *, copy: Callable[..., None]) -> None:
    """Make a copy while nobody else can. It gets its name when it is whole; a half of one is deleted."""
    _clear(home, key)
    half = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=home))
    try:
        copy(target=half)
        half.rename(home / key)
    except BaseException:
        shutil.rmtree(half, ignore_errors=True)
        raise


def _leave(process: int) -> None:
    """Delete the copies that nobody holds any more: one's own, and those of workers that were killed at a run's end."""
    if os.getpid() != process:  # a fork
        return
    homes = {home for home, _ in _held.values()}
    while _held:
        _unlock(_held.popitem()[1][1])
    for home in homes:
        with suppress(OSError):  # somebody has tidied up /tmp
            _delete_unheld(home)


def _delete_unheld(home: Path, *, but: str = "") -> None:
    for key in sorted({path.name.partition(".")[0] for path in home.iterdir()} - {but}):
        _delete_unless_held(home, key)


def _delete_unless_held(home: Path, key: str) -> None:
    with suppress(OSError), _locked(home, key, fcntl.LOCK_EX | fcntl.LOCK_NB):
        _clear(home, key)
        _lock_file(home, key).unlink(missing_ok=True)


def _clear(home: Path, key: str) -> None:
    """Delete a copy and halves of it, whose processes were killed; call it while nobody else can make one. It loses its
    name first: a kill on the way leaves no half of it under that."""
    if (home / key).exists():
        (home / key).rename(home / f"{key}.{uuid.uuid4().hex}")
    for half in home.glob(f"{key}.*"):
        if half != _lock_file(home, key):
            shutil.rmtree(half, ignore_errors=True)


def _lock_file(home: Path, key: str) -> Path:
    return home / f"{key}.lock"


@contextmanager
def _locked(home: Path, key: str, how: int) -> Iterator[None]:
    descriptor = _lock(home, key, how)
    try:
        yield
    finally:
        _unlock(descriptor)


def _unlock(descriptor: int) -> None:
    """Give up a lock; to close its file is not enough where a fork has it open as well."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _lock(home: Path, key: str, how: int) -> int:
    """The open and locked file of a copy; the lock ends with it, or with the process. Raises BlockingIOError where
    others hold it and `how` does not wait."""
    while True:
        descriptor = os.open(_lock_file(home, key), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, how)
            if _is_file_of(descriptor, _lock_file(home, key)):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        _unlock(descriptor)  # whoever deleted the copy meanwhile has deleted the file that we waited for


def _is_file_of(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
