"""Why vLLM's engine did not start, where a process of its own knows it.

vLLM's exception enters, which says "see root cause above" where the engine has a process to itself, as on a GPU; an
exception that says the cause leaves. The cause is the first exception that a process of the engine printed since it was
begun: vLLM logs to standard output, what it does not catch goes to standard error. An actor of Ray writes both to
files; where they are none, nothing can be read.
"""

from __future__ import annotations

import re
from pathlib import Path

from mralign.run.faults import MachineFault

_PRINTED = (Path("/proc/self/fd/1"), Path("/proc/self/fd/2"))
_LONGEST = 4_000_000  # bytes of each that are searched
# "(EngineCore pid=652) ERROR 11-28 04:04:21 [core.py:1231] ModuleNotFoundError: No module named 'x'"; ERROR may lack
_RAISED = re.compile(r"^\([A-Z]\w+ pid=\d+\) (?:ERROR [^\]]*\] )?((?:\w+\.)*\w*(?:Error|Exception): .*)$", re.MULTILINE)


def printed() -> list[int]:
    """How many bytes have been printed, to standard output and to standard error; 0 where that is no file."""
    return [file.stat().st_size if file.resolve().is_file() else 0 for file in _PRINTED]


def start_fault(error: Exception, *, path: str, since: list[int]) -> Exception:
    """What to raise in place of `error`, with which the engine of the model at `path` did not start.

    `since`: what `printed` said before. `error` itself where nothing more is known; a ValueError where the engine
    raised one (a setting does not fit the model or the GPU), else a MachineFault.
    """
    for file, begin in zip(_PRINTED, since, strict=True):
        raised = _RAISED.search(_read(file, begin))
        if raised is not None:
            kind = ValueError if raised[1].startswith("ValueError: ") else MachineFault
            return kind(f"vLLM's engine of {path} did not start: {raised[1]}")
    return error


def _read(printed: Path, begin: int) -> str:
    """What was printed after so many bytes; nothing where that is no file."""
    if not printed.resolve().is_file():
        return ""
    with printed.open("rb") as file:
        file.seek(begin)
        return file.read(_LONGEST).decode("utf-8", "replace")
