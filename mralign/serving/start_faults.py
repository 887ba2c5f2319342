"""Why vLLM's engine did not start, where a process of its own knows it.

vLLM's exception enters, which says "see root cause above" where the engine has a process to itself, as on a GPU; an
exception that says the cause leaves. The cause is what ended the first of the engine's processes that printed an
exception since it was begun: vLLM logs to standard output, what it does not catch goes to standard error. An actor of
Ray writes both to files unless they are rotated; where they are none, nothing can be read.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from mralign.run.faults import MachineFault

_PRINTED = (1, 2)  # standard output, standard error
_LONGEST = 4_000_000  # bytes of each that are searched
# "(EngineCore pid=652) ERROR 11-28 04:04:21 [core.py:1231] ModuleNotFoundError: No module named 'x'"; ERROR may lack
_LINE = re.compile(r"^\(([A-Z]\w+ pid=\d+)\) (?:ERROR [^\]]*\] )?(.*)$", re.MULTILINE)
_RAISED = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?$")
_GOES_ON = ("During handling of the above exception", "The above exception was the direct cause")


def printed() -> list[int]:
    """How many bytes have been printed, to standard output and to standard error; 0 where that is no file."""
    return [_size(stream) for stream in _PRINTED]


def start_fault(error: Exception, *, path: str, since: list[int]) -> Exception:
    """What to raise in place of `error`, with which the engine of the model at `path` did not start.

    `since`: what `printed` said before. `error` itself where nothing more is known; a ValueError where the engine
    raised one (a setting does not fit the model or the GPU), else a MachineFault.
    """
    for stream, begin in zip(_PRINTED, since, strict=True):
        cause = cause_in(_read(stream, begin))
        if cause is not None:
            kind = ValueError if cause.startswith("ValueError") else MachineFault
            return kind(f"vLLM's engine of {path} did not start: {cause}")
    return error


def cause_in(text: str) -> str | None:
    """The exception with which the first traceback in `text` of one of an engine's processes ends, chained ones read to
    their end; None if there is none."""
    process, found, goes_on = "", None, False
    for line in _LINE.finditer(text):
        who, said = line[1], line[2].rstrip()
        if found is not None and who != process:
            continue  # of several processes the first to fail knows why
        if said.startswith(_GOES_ON):
            goes_on = True
        elif _RAISED.match(said):
            if found is not None and not goes_on:
                break
            process, found, goes_on = who, said, False
    return found


def _size(stream: int) -> int:
    try:
        known = os.fstat(stream)
    except OSError:
        return 0
    return known.st_size if stat.S_ISREG(known.st_mode) else 0


def _read(stream: int, begin: int) -> str:
    """What was printed after so many bytes; nothing where that is no file that can be read."""
    if not _size(stream):
        return ""
    try:
        with Path(f"/proc/self/fd/{stream}").open("rb") as file:
            file.seek(begin)
            return file.read(_LONGEST).decode("utf-8", "replace")
    except OSError:
        return ""
