"""The command `align` from a checkout: `ray job submit --working-dir . -- python jobs/align.py ...`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a submitted working directory runs its own code

from mralign.cli.entry import command

if __name__ == "__main__":
    command(["align", *sys.argv[1:]])
