"""What an engine's own process said when it could not start; test_engine.py has a real one."""

import os
import subprocess
import sys
from pathlib import Path

from python_path import python_path

from mralign.serving.start_faults import cause_in

ROOT = Path(__file__).parents[2]
SEE_ABOVE = "Engine core initialization failed. See root cause above. Failed core proc(s): {}"

# As vLLM 0.24 and 0.32 print it: the traceback as a log, the same again, then the parent's.
IMPORT = """\
(EngineCore pid=652) ERROR 11-28 04:04:21 [core.py:1231] Traceback (most recent call last):
(EngineCore pid=652) ERROR 11-28 04:04:21 [core.py:1231]     from flashinfer import (
(EngineCore pid=652) ERROR 11-28 04:04:21 [core.py:1231] ModuleNotFoundError: No module named 'flashinfer'
(EngineCore pid=652) ModuleNotFoundError: No module named 'flashinfer'
"""
FREE = """\
WARNING 11-28 04:04:19 [cuda.py:226] Failed to import: ModuleNotFoundError("No module named 'x'")
(EngineCore_DP0 pid=7) ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) is less than desired
"""
WORKER = """\
(Worker_TP1 pid=9) ERROR 11-28 04:04:21 [multiproc.py:1] torch.OutOfMemoryError: CUDA out of memory.
(EngineCore_DP0 pid=7) RuntimeError: Worker failed
"""

CHAINED = """\
(EngineCore pid=3) ERROR 11-28 04:04:21 [core.py:1] KeyError: 'a'
(EngineCore pid=3) ERROR 11-28 04:04:21 [core.py:1]
(EngineCore pid=3) ERROR 11-28 04:04:21 [core.py:1] During handling of the above exception, another exception occurred:
(EngineCore pid=3) ERROR 11-28 04:04:21 [core.py:1] Traceback (most recent call last):
(EngineCore pid=3) ERROR 11-28 04:04:21 [core.py:1] ValueError: No room for one sequence
(EngineCore pid=3) RuntimeError: of something later
"""
BARE = """\
(Worker pid=4) AssertionError
(EngineCore pid=3) RuntimeError: Worker failed
"""

SCRIPT = """
import sys
from pathlib import Path
from mralign.serving.start_faults import printed, start_fault
stream = getattr(sys, sys.argv[1])
print("(EngineCore pid=1) KeyError: 'of an engine before'", file=stream, flush=True)
before = printed()
print(sys.argv[2], end="", file=stream, flush=True)
given = RuntimeError(sys.argv[3])
found = start_fault(given, path="org/model", since=before)
Path(sys.argv[4]).write_text("same" if found is given else f"{type(found).__name__}: {found}")
"""


def told(printed, directory, *, stream="stdout", **streams):
    """What is raised in a process that printed so to its `stream`."""
    said = directory / "said"
    command = [sys.executable, "-c", SCRIPT, stream, printed, SEE_ABOVE, str(said)]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": python_path(ROOT)}, check=True, **streams)
    return said.read_text()


def in_a_file(printed, directory, *, stream="stdout"):
    with (directory / "worker").open("a") as file:
        return told(printed, directory, stream=stream, **{stream: file})


def test_the_first_exception_of_the_engine_s_process_is_told(tmp_path):
    begin = "vLLM's engine of org/model did not start: "
    assert in_a_file(IMPORT, tmp_path) == f"MachineFault: {begin}ModuleNotFoundError: No module named 'flashinfer'"
    assert in_a_file(IMPORT, tmp_path, stream="stderr") == in_a_file(IMPORT, tmp_path)
    assert in_a_file(WORKER, tmp_path) == f"MachineFault: {begin}torch.OutOfMemoryError: CUDA out of memory."


def test_a_value_error_of_the_engine_is_the_user_s(tmp_path):
    found = in_a_file(FREE, tmp_path)
    assert found.startswith("ValueError: vLLM's engine of org/model did not start: ValueError: Free memory on device")


def test_of_chained_exceptions_the_last_and_one_without_a_word_are_told():
    assert cause_in(CHAINED) == "ValueError: No room for one sequence"
    assert cause_in(BARE) == "AssertionError"
    assert cause_in("(EngineCore pid=3) INFO: no Error: here\n  KeyError: 'a'\n") is None


def test_where_nothing_is_known_the_exception_stays_what_it_is(tmp_path):
    assert in_a_file("", tmp_path) == "same"
    assert in_a_file("a line\nModuleNotFoundError: of nobody\n", tmp_path) == "same"
    assert told(IMPORT, tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) == "same"
