"""A directory of a store, copied to this machine once for all processes of a user that need it.

A URI enters; a local directory leaves, which stays while this process lives. Every replica of an engine and every
worker of a training needs the model: eight on a node would fetch it eight times, and keep it eight times. So they share
a copy, under a name made of what the store says of the files (names, bytes, times). The first that comes copies; the
others wait for it. Each holds a lock on it that the system drops with the process, however that ends, and whoever finds
a copy that nobody holds deletes it.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath

from pyarrow import fs

from mralign.run.directory import ahead
from mralign.run.disk import DiskFull, full_disk, no_room, own_temporary_directory
from mralign.run.filesystems import open_filesystem

log = logging.getLogger("mralign")

_BLOCK = 8 * 2**20  # bytes that are read of a file at once
_TOLD = 2**30  # bytes of a copy that is announced


def shared_copy(uri: str, *, wanted: Callable[[str], bool] = lambda name: True) -> str:
    """A local directory with the files in and below `uri`; of them those whose relative name is `wanted`.

    Nobody may write there. Raises FileNotFoundError where nothing is, DiskFull, and ValueError for a file whose name
    leads out of the directory.
    """
    filesystem, inner = open_filesystem(uri)
    files = {name: info for name, info in _files(filesystem, inner).items() if wanted(name)}
    if not files:
        raise FileNotFoundError(f"{uri} does not exist, or holds no file that is needed")
    home = _home()
    if home is None or not _dated(files):
        target = own_temporary_directory("copy")
        _copy(uri, filesystem, files, target=Path(target))
        return target
    for other in sorted({path.name.partition(".")[0] for path in home.iterdir()} - {_key(uri, files)}):
        _delete_unless_held(home, other)
    return str(_take(home, _key(uri, files), copy=partial(_copy, uri, filesystem, files)))


def seen_from_outside(uri: str) -> str | None:
    """A text that is another one when the files in and below `uri` have changed, by one listing; None where the store
    does not say when they were written."""
    files = _files(*open_filesystem(uri))
    return _key(uri, files) if files and _dated(files) else None


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

    try:
        for _ in ahead(copy, sorted(files, key=lambda name: -(files[name].size or 0))):
            pass
    except OSError as error:
        if full_disk(error, places=[str(target)]) is None:
            raise
        raise DiskFull(no_room(str(target), size=size)) from error
    finally:
        stopped.set()  # an exception waits for no large file


def _home() -> Path | None:
    """Where this user's copies lie; None where somebody else could write into them."""
    home = Path(tempfile.gettempdir()) / f"mralign-copies-{os.getuid()}"
    with suppress(OSError):
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return home
    return None


_one_at_a_time = threading.Lock()
_held: dict[str, tuple[Path, int]] = {}  # by the key of a copy: where it lies, and the open file that is locked


def _take(home: Path, key: str, *, copy: Callable[..., None]) -> Path:
    """The copy of that name, made if it is not there; this process holds it from now on."""
    place = home / key
    with _one_at_a_time:
        while key not in _held:
            shared = _lock(home, key, fcntl.LOCK_SH)
            if place.is_dir():
                if not _held:
                    atexit.register(_leave, os.getpid())
                _held[key] = (home, shared)
                break
            os.close(shared)
            with _locked(home, key, fcntl.LOCK_EX):
                if not place.is_dir():
                    _clear(home, key)
                    half = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=home))
                    copy(target=half)
                    half.rename(place)
    return place


def _leave(process: int) -> None:
    """Delete the copies that nobody else holds."""
    if os.getpid() != process:  # a fork
        return
    while _held:
        key, (home, descriptor) = _held.popitem()
        os.close(descriptor)
        _delete_unless_held(home, key)


def _delete_unless_held(home: Path, key: str) -> None:
    with suppress(OSError), _locked(home, key, fcntl.LOCK_EX | fcntl.LOCK_NB):
        shutil.rmtree(home / key, ignore_errors=True)
        _clear(home, key)
        _lock_file(home, key).unlink(missing_ok=True)


def _clear(home: Path, key: str) -> None:
    """Delete halves of copies, whose process was killed; call it while nobody else can make one."""
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
        os.close(descriptor)  # whoever deleted the copy meanwhile has deleted the file that we waited for


def _is_file_of(descriptor: int, place: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), place.stat())
    except FileNotFoundError:
        return False
