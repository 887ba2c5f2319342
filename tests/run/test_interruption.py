"""Signals and closed pipes, each in a process of its own: exit status, what is said, what is left."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

HEAD = """
import logging, os, signal, subprocess, sys, time
from mralign.run import interruption
logging.basicConfig(handlers=[interruption.Handler()], level=logging.INFO, format="%(message)s")
interruption.listen()

def guarded(act, **rest):
    return interruption.guarded(act, explain=lambda e: str(e) if isinstance(e, ValueError) else None, **rest)

def ready():
    print("ready", flush=True)
"""
SAID = "interrupted: what was committed is kept; run the same command to go on"


def start(script, *, ignored=()):
    """The script in a process of its own, once it has said that it is ready."""

    def dispose():  # a test run in the background of a script ignores SIGINT, and so would what it starts
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=dispose,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process, *, within=15):
    """Exit status and standard error."""
    _, said = process.communicate(timeout=within)
    assert "Traceback" not in said
    return process.returncode, said


WAITS = """
def act():
    ready()
    time.sleep(60)

sys.exit(guarded(act))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_run_with_130(number):
    process = start(WAITS)
    process.send_signal(number)
    status, said = ended(process)
    assert status == 130
    assert SAID in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_imports_ends_it_with_130(number):
    process = start("ready(); time.sleep(60)")
    process.send_signal(number)
    assert ended(process)[0] == 130


def test_what_the_shell_ignores_stays_ignored():
    """`nohup`, and `&` in a script."""
    process = start(WAITS.replace("60", "2"), ignored=[signal.SIGHUP, signal.SIGINT])
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert ended(process) == (0, "")


SWALLOWED = """
class Resource:
    def __del__(self):
        ready()
        end = time.monotonic() + 1
        while time.monotonic() < end:  # Python drops what is raised here
            pass

def act():
    resource = Resource()
    del resource
    time.sleep(60)

sys.exit(guarded(act))
"""


def test_a_signal_that_python_drops_is_raised_again():
    process = start(SWALLOWED)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "Exception ignored in" in said
    assert SAID in said


@pytest.mark.parametrize("made", ["RuntimeError('the cluster is gone')", "ValueError('bad')", "SystemExit(0)"])
def test_whatever_a_library_makes_of_it_the_status_is_130(made):
    script = f"""
def act():
    ready()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        raise {made}

sys.exit(guarded(act))
"""
    process = start(script)
    process.send_signal(signal.SIGTERM)
    status, said = ended(process)
    assert status == 130
    assert SAID in said


def test_a_signal_that_the_work_outlived_is_heard_at_the_next_check():
    script = """
def act():
    ready()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        pass
    interruption.check()
    print("went on", flush=True)

sys.exit(guarded(act))
"""
    process = start(script)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=15)
    assert process.returncode == 130
    assert "went on" not in said


WITH_CHILD = """
def act():
    child = subprocess.Popen(["sleep", "60"])
    {waits}

sys.exit(guarded(act))
"""
HEARS = """
    ready()
    time.sleep(60)
"""
DEAF = """
    said = ready
    while True:
        try:
            said()
            time.sleep(60)
        except KeyboardInterrupt:
            said = lambda: print("not yet", flush=True)
"""


def child_of(process):
    (child,) = psutil.Process(process.pid).children()
    return child


def has_ended(child):
    """Within ten seconds. A zombie counts: who reaps orphans is not ours to say."""
    for _ in range(100):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def start_with_child(script):
    process = start(script)
    return process, child_of(process)


def test_what_was_started_is_ended():
    process, child = start_with_child(WITH_CHILD.format(waits=HEARS))
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 130
    assert has_ended(child)


def test_a_second_signal_ends_it_at_once():
    process, child = start_with_child(WITH_CHILD.format(waits=DEAF))
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "not yet\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=15) == 130
    assert has_ended(child)


def piped_to_nobody(script, *, closed):
    """Exit status and standard error of a script whose output (and error, if `closed` says so) nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if closed == "both" else subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", HEAD + script], stdout=writer, stderr=errors, text=True)
    os.close(writer)
    _, said = process.communicate(timeout=30)
    return process.returncode, said


PRINTS = "sys.exit(guarded(lambda: print('the plan')))"
LOGS = """
def act():
    while True:
        logging.getLogger("mralign").info("stage")
        time.sleep(.05)

sys.exit(guarded(act))
"""


def test_a_reader_that_has_gone_ends_it_with_130():
    assert piped_to_nobody(PRINTS, closed="output") == (130, f"{SAID}\n")


def test_a_reader_of_the_log_that_has_gone_ends_it_with_130():
    assert piped_to_nobody(LOGS, closed="both")[0] == 130  # it would go on for ever


def test_a_process_that_does_not_listen_is_not_ended_by_its_log():
    script = """
logging.getLogger("mralign").error("nobody reads this")
os._exit(7)
"""
    quiet = HEAD.replace("interruption.listen()\n", "")
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen([sys.executable, "-c", quiet + script], stderr=writer)
    os.close(writer)
    assert process.wait(timeout=30) == 7


def to_its_end(script):
    command = [sys.executable, "-c", HEAD + script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_connection_that_breaks_is_no_closed_pipe():
    script = """
def act():
    raise BrokenPipeError("a server has gone")

guarded(act)
"""
    done = to_its_end(script)
    assert done.returncode == 1
    assert "a server has gone" in done.stderr


def test_without_a_signal():
    script = """
def act():
    raise ValueError("wrong")

print(guarded(act), guarded(lambda: None))
"""
    done = to_its_end(script)
    assert (done.stdout, done.stderr) == ("2 0\n", "stopped: wrong\n")
