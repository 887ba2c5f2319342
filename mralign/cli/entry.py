"""Where the process of the command `mralign` begins and ends: it hears signals before anything heavy is imported.

The arguments of the command line enter, an exit status leaves: 0 done, 2 wrong input, 130 interrupted. The console
script, `python -m mralign` and the files in jobs/ all begin here.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

from mralign.run import interruption


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` name, those of this process if none are given."""
    interruption.listen()  # before the imports that take their time
    from mralign.cli.commands import run

    return run(sys.argv[1:] if arguments is None else arguments)


def command(arguments: list[str] | None = None) -> NoReturn:
    """`main` as all that this process does.

    When its threads and all that was registered for the end are done, the process ends at once: Python would take some
    five thousand modules apart first, which took 1.8 s of two idle cores after a run.
    """
    ended = [1]  # the status, also where `main` raises
    atexit.register(_leave, ended, os.getpid())  # the first to be registered is the last to be called
    try:
        ended[0] = main(arguments)
    except SystemExit as leaving:
        ended[0] = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    sys.exit(ended[0])


def _leave(ended: list[int], process: int) -> None:
    if os.getpid() != process:  # a fork, whose end is its own
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # its reader has gone, or it is closed
            stream.flush()
    os._exit(ended[0])
