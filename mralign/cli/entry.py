"""Where the process of the command `mralign` begins and ends: it hears signals before anything heavy is imported.

The arguments of the command line enter, an exit status leaves: 0 done, 2 wrong input, 130 interrupted. The console
script, `python -m mralign` and the files in jobs/ all begin here.
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
from typing import NoReturn

from mralign.run import interruption

_LOST_OUTPUT = 120  # Python's own status for it


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
    atexit.register(_leave, ended, os.getpid())  # before the packages register theirs, which are called first
    try:
        ended[0] = main(arguments)
    except SystemExit as leaving:
        ended[0] = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    sys.exit(ended[0])


def _leave(ended: list[int], process: int) -> None:
    if os.getpid() != process:  # a fork, whose end is its own
        return
    logging.shutdown()  # it was registered before, and would not be called any more
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError) as error:  # a reader that has gone, a closed stream; else output is lost
            if getattr(error, "errno", errno.EPIPE) != errno.EPIPE:
                ended[0] = ended[0] or _LOST_OUTPUT
    os._exit(ended[0])
