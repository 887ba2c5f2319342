"""`python -m mralign` is the command `mralign`."""

import sys

from mralign.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
