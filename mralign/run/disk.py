"""A disk without room: how it is known, and what is said of it.

An exception enters, from whatever library was writing; the sentence for the user leaves, or None where it is about
something else. Libraries spell the same fault in their own ways, and some hide it, so that besides the error's chain
the room on the disk itself is looked at.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_SPELLINGS = ("no space left on device", "os error 28", "errno 28", "disk quota exceeded", "os error 122")
_SENTENCE = re.compile(r"no space left(?: for [\d,]+ MiB)? on the disk of .+?: it goes on where it was")
_NO_ROOM = 2**20  # bytes; a write that failed beside so few has most likely failed for them


class DiskFull(OSError):
    """Nothing more can be written where the message says."""


def no_room(place: str, *, size: int | None = None) -> str:
    """The sentence for the user. `size`: bytes that were to be written."""
    wanted = "" if size is None else f" for {size / 2**20:,.0f} MiB"
    return (
        f"no space left{wanted} on the disk of {place}; make room there (or raise the quota) and run the same command "
        f"again: it goes on where it was"
    )


def full_disk(error: BaseException, *, places: Sequence[str] = ()) -> str | None:
    """What to tell the user if `error` comes of a full disk, else None. `places`: local directories written to."""
    chain = list(_chain(error))
    for link in chain:
        if said := _SENTENCE.search(str(link)):  # Ray hands on a DiskFull with the whole remote traceback as its text
            return said[0]
    crowded = [place for place in places if Path(place).exists() and free(place) < _NO_ROOM]
    if crowded:
        return no_room(crowded[0])
    for link in chain:
        text = str(link).lower()
        if getattr(link, "errno", None) in _NUMBERS or any(spelling in text for spelling in _SPELLINGS):
            return no_room(str(getattr(link, "filename", None) or " or ".join(places) or "this run"))
    return None


def free(place: str) -> int:
    """Bytes that may still be written to the disk of an existing directory."""
    return shutil.disk_usage(place).free


def own_temporary_directory(what: str) -> str:
    """A new temporary directory of this process, `mralign-<what>-<process>-…`.

    Those of processes that are no more (killed before they could clean up) are removed first.
    """
    prefix = f"mralign-{what}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        owner = left.name.removeprefix(prefix).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-")


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that it came of, also where Ray carries it along."""
    waiting: list[Any] = [error]
    seen: set[int] = set()
    while waiting:
        link = waiting.pop(0)
        if not isinstance(link, BaseException) or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        waiting += [link.__cause__, link.__context__, getattr(link, "cause", None)]
        waiting += [getattr(link, "controller_failure", None), *getattr(link, "worker_failures", {}).values()]
        waiting += list(getattr(link, "exceptions", ()))
