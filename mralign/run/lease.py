"""One driver at a time writes into a run directory.

A directory enters; while a `hold` lasts, no other driver holds it. Two drivers would ask the same rows twice, and each
would spend the whole budget.

The lease is a small file in `<directory>/lease/` that says who writes here. Its name begins with a number that only
ever rises: whoever comes next writes the next number, and the highest number holds. A holder renews its own file and
never touches a file of a higher number, so a late renewal can undo nothing; the last file stays and says `free`.

A lease is free at once if its process ran on this machine and has ended. Of another machine nothing is known but its
file: whoever wants the lease watches that file, by its own clock, until it changes (then it is refused) or until
`STALE_S` have passed (then it takes the lease). So the clocks of two hosts need not agree.

How a number is given to one driver only:
- on a local disk and on NFS by creating its file with O_EXCL;
- elsewhere (s3://, gs://, abfs://, memory://) by a file of one's own name for that number, then a listing: whoever
  finds another file of that number, or of a higher one, withdraws and tries again. pyarrow has no conditional put. This
  is safe on a store whose listings show every finished write, as those of S3, Google and Azure do; on a store whose
  listings lag by more than `_SETTLE_S`, two drivers that start together may both believe that they hold the lease. The
  first to renew then sees the other and ends.

What a lease cannot do: a driver that was suspended for longer than `STALE_S` and wakes up after another has taken its
lease goes on until its next renewal, at most `RENEW_S` later.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pyarrow import fs

from mralign.run import interruption
from mralign.run.store import Directory, absolute

log = logging.getLogger("mralign")

RENEW_S = 10.0  # between two renewals of a holder
STALE_S = 60.0  # without a renewal: six were missed
_HANDOVER_S = 30.0  # for a driver whose lease was taken over: until its next renewal, then 20 s to end
_LOOK_S = 0.5  # between two looks at a lease that is waited for
_SETTLE_S = 1.0  # before the listing that decides, on an object store
_FOLDER = "lease"
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_HELD, _FREE = "held", "free"  # of one length: a renewal writes over the same bytes


@dataclass(frozen=True)
class Holder:
    """Who holds a lease. Times are UTC of the holder's own clock, in ISO 8601."""

    state: str
    job: str
    host: str
    pid: int
    machine: str  # boot and process namespace: within one, (pid, began) is one process for good
    began: int  # clock ticks from the start of the machine to that of the process
    token: str
    taken: str
    renewed: str


@contextmanager
def hold(uri: str, *, take_over: bool = False) -> Iterator[None]:
    """Hold the lease of a run directory, by local path or URI.

    Waits for at most `STALE_S` where a driver of another machine may have been killed. Raises ValueError while another
    driver holds the lease; with `take_over` that driver is told to end instead, and gets `_HANDOVER_S` to do so. If the
    lease is taken from this driver, it ends as by a signal.
    """
    directory = Directory(absolute(uri))
    kept = _Kept(directory, *_take(directory, take_over=take_over))
    thread = threading.Thread(target=kept.renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # The thread frees the lease: an interrupted main thread may be interrupted again here.
        kept.ended.set()
        thread.join()


def holders(uri: str) -> list[Holder]:
    """Who writes into a run directory now, as far as its lease says. Nothing is waited for, and nothing written.

    A driver that was killed on another machine still stands there; its last renewal is then old.
    """
    directory = Directory(absolute(uri))
    names = _names(directory)
    newest = max(map(_number, names), default=0)
    found = [_read(directory, name) for name in names if _number(name) == newest]
    return [holder for holder in found if holder is not None and not _is_free(holder)]


def seconds_since(moment: str) -> float:
    """Seconds since a moment of a Holder, if both hosts' clocks agree."""
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())


class _Kept:
    """A lease that is ours, renewed by a thread until `ended` is set."""

    def __init__(self, directory: Directory, name: str, holder: Holder) -> None:
        self.directory, self.name, self.holder = directory, name, holder
        self.ended = threading.Event()

    def renew(self) -> None:
        """Renew the lease until it is given back or lost."""
        while not self.ended.wait(RENEW_S):
            if self._is_lost():
                return
            self._write(_HELD)
        if not self._is_lost():
            self._write(_FREE)

    def _write(self, state: str) -> None:
        self.holder = replace(self.holder, state=state, renewed=_now())
        try:
            _overwrite(self.directory, self.name, self.holder)
        except OSError as error:
            log.warning("the lease of %s could not be renewed: %s", self.directory.uri, error)

    def _is_lost(self) -> bool:
        """Whether another driver has taken this lease, or somebody has deleted it; if so, this run is ended."""
        try:
            names = _names(self.directory)
        except OSError as error:
            log.warning("the lease of %s could not be looked at: %s", self.directory.uri, error)
            return False
        if self.name in names and max(map(_number, names)) == _number(self.name):
            return False
        others = [_read(self.directory, name) for name in names if _number(name) > _number(self.name)]
        by = ", ".join(_who(other) for other in others if other) or "somebody who deleted it"
        log.error("the lease of %s was taken from this run by %s; this run ends", self.directory.uri, by)
        if not self.ended.is_set():
            interruption.end_run()
        return True


def _take(directory: Directory, *, take_over: bool) -> tuple[str, Holder]:
    """The name and content of a lease that is ours now."""
    seen: dict[str, str] | None = None
    since = time.monotonic()
    while True:
        interruption.check()
        names = _names(directory)
        number = max(map(_number, names), default=0)
        texts = {name: directory.find_text(f"{_FOLDER}/{name}") for name in names if _number(name) == number}
        held = {name: text for name, text in texts.items() if text is not None and not _is_free(_parse(text))}
        stale = held == seen and time.monotonic() - since >= STALE_S
        if not held or stale or take_over:
            with _refused_if_unwritable(directory):
                taken = _create(directory, number + 1)
            if taken is not None:
                if held and not stale:
                    _await_end(directory, list(held))
                _forget_older(directory, number + 1)
                return taken
            seen, take_over = None, False  # another driver was quicker, and it is not the one that was meant
            continue
        holders = [_parse(text) for text in held.values()]
        renewed = seen is not None and held != seen
        if renewed or any(_is_here(holder) for holder in holders):
            raise ValueError(_refusal(directory, holders))
        if seen is None:
            seen, since = held, time.monotonic()
            log.info("%s; waiting up to %.0f s to see whether it still runs", _held_by(directory, holders), STALE_S)
        time.sleep(_LOOK_S)


@contextmanager
def _refused_if_unwritable(directory: Directory) -> Iterator[None]:
    """Raise ValueError where nothing may be written into the directory."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise ValueError(
            f"nothing can be written into {directory.uri}: {error}; give another directory, or the right to write"
        ) from error


def _create(directory: Directory, number: int) -> tuple[str, Holder] | None:
    """Try to be the one that has this number; None if another driver has it."""
    holder = _ourselves()
    directory.filesystem.create_dir(directory.path(_FOLDER), recursive=True)
    if isinstance(directory.filesystem, fs.LocalFileSystem):
        name = f"{number:06d}.json"
        if not _create_exclusively(directory.path(f"{_FOLDER}/{name}"), _bytes(holder)):
            return None
    else:
        name = f"{number:06d}-{holder.token}.json"
        _overwrite(directory, name, holder)
        time.sleep(_SETTLE_S)
    rivals = [other for other in _names(directory) if other != name and _number(other) >= number]
    if not rivals:
        return name, holder
    with suppress(FileNotFoundError):  # whoever has a higher number deletes it as well
        directory.filesystem.delete_file(directory.path(f"{_FOLDER}/{name}"))
    time.sleep(random.uniform(0, 2 * _SETTLE_S))
    return None


def _create_exclusively(path: str, data: bytes) -> bool:
    """Write a new local file; False if one of that name is there."""
    try:
        with open(path, "xb") as stream:  # O_EXCL
            stream.write(data)
    except FileExistsError:
        return False
    except OSError:  # a full disk: no file is left that says nothing
        with suppress(FileNotFoundError):
            os.unlink(path)
        raise
    return True


def _overwrite(directory: Directory, name: str, holder: Holder) -> None:
    """Write our own lease file.

    On a local disk the bytes of the file itself are replaced. That needs no room on a full disk, and a client of NFS
    that opens the file sees the change; a file put in its place might hide behind a cached directory.
    """
    path = directory.path(f"{_FOLDER}/{name}")
    if isinstance(directory.filesystem, fs.LocalFileSystem):
        with open(path, "r+b") as stream:
            stream.write(_bytes(holder))
            stream.truncate()
        return
    with directory.filesystem.open_output_stream(path) as stream:
        stream.write(_bytes(holder))


def _await_end(directory: Directory, names: list[str]) -> None:
    """Wait until the driver from which the lease was taken has given it back, or had the time to."""
    log.warning("the lease of %s is taken over; its driver has %.0f s to end", directory.uri, _HANDOVER_S)
    deadline = time.monotonic() + _HANDOVER_S
    while time.monotonic() < deadline:
        holders = [_read(directory, name) for name in names]
        if all(holder is not None and _is_free(holder) for holder in holders):
            return
        time.sleep(_LOOK_S)


def _forget_older(directory: Directory, number: int) -> None:
    """Delete what former holders have left."""
    for name in _names(directory):
        if _number(name) < number:
            with suppress(OSError):
                directory.filesystem.delete_file(directory.path(f"{_FOLDER}/{name}"))


def _names(directory: Directory) -> list[str]:
    selector = fs.FileSelector(directory.path(_FOLDER), allow_not_found=True)
    try:
        infos = directory.filesystem.get_file_info(selector)
    except FileNotFoundError:  # pyarrow found no folder, and then that another driver had made it meanwhile
        infos = directory.filesystem.get_file_info(selector)
    found = [info.base_name for info in infos]
    return [name for name in found if name[:6].isdecimal() and name.endswith(".json")]


def _number(name: str) -> int:
    return int(name[:6])


def _parse(text: str) -> Holder | None:
    """The holder; None for a file that is being written, or whose writer was killed before it had written."""
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _read(directory: Directory, name: str) -> Holder | None:
    text = directory.find_text(f"{_FOLDER}/{name}")
    return None if text is None else _parse(text)


def _bytes(holder: Holder) -> bytes:
    return json.dumps(asdict(holder), indent=1).encode()


def _ourselves() -> Holder:
    now = _now()
    pid = os.getpid()
    return Holder(
        state=_HELD,
        job=_job(),
        host=socket.gethostname(),
        pid=pid,
        machine=_machine(),
        began=_began(pid) or 0,
        token=uuid.uuid4().hex,
        taken=now,
        renewed=now,
    )


def _job() -> str:
    """The command by name, without its arguments: these may hold a key."""
    name = Path(sys.argv[0]).name
    command = next(iter(sys.argv[1:]), "")
    return f"mralign {command}" if name in ("mralign", "__main__.py") and command.isalpha() else name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _machine() -> str:
    """Names the system in which process ids are unique: containers of one host have ids of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _began(pid: int) -> int | None:
    """Clock ticks from the start of the machine to that of the process; None if there is no such process.

    psutil gives the time of day at which it began, which moves when the clock is set. 0: the process hides.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # another user's
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0
    return None if state in ("Z", "X") else int(rest[18])  # field 22 of the file


def _is_here(holder: Holder | None) -> bool:
    """Whether it is, or was, a process of this machine."""
    return holder is not None and bool(holder.machine) and holder.machine == _machine()


def _is_free(holder: Holder | None) -> bool:
    """Whether the holder has given the lease back, or was a process of this machine that has ended."""
    if holder is None:
        return False
    if holder.state == _FREE:
        return True
    return _is_here(holder) and _began(holder.pid) not in (holder.began, 0)


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "a driver that has not written its name"
    return f"{holder.job} on host {holder.host}, pid {holder.pid}"


def _age(moment: str) -> str:
    """How long ago that was, if both hosts' clocks agree."""
    seconds = seconds_since(moment)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _held_by(directory: Directory, holders: list[Holder | None]) -> str:
    """Which drivers write into the directory, and how old their leases are."""
    told = []
    for holder in holders:
        ages = f", lease {_age(holder.taken)} old, renewed {_age(holder.renewed)} ago" if holder else ""
        told.append(f"{_who(holder)}{ages}")
    return f"another driver writes into {directory.uri}: {'; '.join(told)}"


def _refusal(directory: Directory, holders: list[Holder | None]) -> str:
    return (
        f"{_held_by(directory, holders)}. Two at once would pay for the same rows twice. Wait for it, or end it: the "
        f"directory is then free at once, or after {STALE_S:.0f} s if it was killed on another machine. Or give "
        f"another directory. Or take this one with --take-over: the other driver then ends, and what it has committed "
        f"stays"
    )
