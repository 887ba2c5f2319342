"""The variable PYTHONPATH for a process that a test starts: what it needs, before what was given to the tests."""

import os


def python_path(*first):
    """`first` (places), then this process's own PYTHONPATH, where packages may have been brought along."""
    return os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])
