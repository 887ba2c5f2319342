"""Lines of a worker's log, written by one process and read in another."""

import logging
import subprocess
import sys

import pytest

from mralign.run.worker_lines import WorkerLine, read

WORKER = """
import logging
from mralign.run import worker_lines
worker_lines.set_up()
log = logging.getLogger("mralign")
log.debug("too fine")
log.warning("the endpoint says %r\\nand waits", "é\\x1b[2J")
print("a line of another package")
"""


def test_what_a_worker_logs_is_read_with_its_level():
    done = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "a line of another package\n"
    (printed,) = done.stderr.splitlines()
    assert printed.isascii()
    expected = WorkerLine(logging.WARNING, "the endpoint says 'é\\x1b[2J'\nand waits")
    assert read(printed) == expected
    assert read(f"(Labelling pid=7, ip=10.0.0.1) {printed} [repeated 3x across cluster]") == expected


@pytest.mark.parametrize(
    "printed",
    ["", "plain", "mralign-line", "mralign-line {", "mralign-line []", 'mralign-line {"level": "x", "text": 1}'],
)
def test_words_of_others_are_no_lines_of_ours(printed):
    assert read(printed) is None
