"""Where the process of the command `mralign` begins: it hears signals before anything heavy is imported.

The arguments of the command line enter, an exit status leaves: 0 done, 2 wrong input, 130 interrupted. The console
script, `python -m mralign` and the files in jobs/ all begin here.
"""

from __future__ import annotations

import sys

from mralign.run import interruption


def main(arguments: list[str] | None = None) -> int:
    """Run the command that `arguments` name, those of this process if none are given."""
    interruption.listen()  # before the imports that take their time
    from mralign.cli.commands import run

    return run(sys.argv[1:] if arguments is None else arguments)
