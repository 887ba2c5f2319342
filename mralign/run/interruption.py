"""A signal or a closed pipe ends a run; it is told so, and what was committed stays.

SIGINT, SIGTERM, SIGHUP and a reader that has gone (`| head`) enter; KeyboardInterrupt in the main thread leaves, and
again while nobody has caught it, since Python drops what is raised in a destructor or a callback. A second signal ends
the process at once.

Ray and Ray Train put handlers of their own in place of any other; one aborts the process, one ends a run with status 0
long after the training. So all threads are closed to these signals but one, which waits for them and tells the main
thread by another. What a shell has told the process to ignore (`nohup`, `&` in a script) stays ignored.
"""

from __future__ import annotations

import _thread
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import psutil

log = logging.getLogger("mralign")

STATUS = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RAISE = signal.SIGRTMIN + 5  # tells the main thread to raise; no library uses it
_AGAIN_S = 1.5  # until a KeyboardInterrupt that nobody caught is raised again
_GRACE_S = 20.0  # from the first signal until the process ends, whatever it does
_SAID = "interrupted: what was committed is kept; run the same command to go on"

_listening = threading.Event()
_guarded = threading.Event()  # before that, nothing has been started that would have to be ended
_arrived = threading.Event()
_caught = threading.Event()
_endless = threading.Event()
_last_acts: list[Callable[[], None]] = []


@cache
def listen() -> None:
    """Hear the signals from now on, but those that this process was told to ignore.

    Call it from the main thread before any other thread is there: a thread begins as open to signals as the one that
    started it. Processes that Ray starts hear SIGTERM again; SIGHUP never, since a closed terminal tells all of its
    processes, and a cluster must end after us, not before.
    """
    _listening.set()
    heard = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    signal.signal(_RAISE, _raise)
    signal.pthread_sigmask(signal.SIG_BLOCK, heard)
    threading.Thread(target=_wait, args=(heard,), daemon=True).start()
    os.register_at_fork(after_in_child=_open_child)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived. Asked where a run may stop: between stages, before a seal."""
    if _arrived.is_set():
        raise KeyboardInterrupt


def at_end(act: Callable[[], None]) -> Callable[[], None]:
    """Do `act` (short, and without a lock) where this process is ended at once; returns what takes that back."""
    _last_acts.append(act)
    return lambda: _last_acts.remove(act) if act in _last_acts else None


def ends_by_signal() -> None:
    """Say that what this command does has no end of its own: a signal is its ordinary end, with status 0."""
    _endless.set()


def end_run() -> None:
    """End this run from any thread, as a signal from outside does."""
    if _listening.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        _thread.interrupt_main()


def say_in_log(status: int, text: str) -> None:
    """Say why a command stopped; one that is done has no text."""
    if text:
        log.error("%s", text)  # standard error has no buffer


def guarded(
    act: Callable[[], None],
    *,
    explain: Callable[[BaseException], str | None],
    own_fault: Callable[[BaseException], str] | None = None,
    say: Callable[[int, str], None] = say_in_log,
    close: Callable[[], None] = lambda: None,
) -> int:
    """Exit status of a command that does `act`: 0 done, 1 a fault of ours, 2 stopped, 130 interrupted (resumable).

    `explain` says of an exception why the command stopped; None: it is a fault of ours, of which `own_fault` tells the
    sentence; without that it is raised. `say` is told the status and the sentence. `close` ends what was started. An
    interrupted command that listens to signals does not close: it kills what it started and ends. A thread of Ray that
    finds its cluster gone would end the process with a status of its own.
    """
    _guarded.set()
    try:
        status, text = _ended(act, explain=explain, own_fault=own_fault)
        _caught.set()  # what it ended with is settled: a signal does not raise in what is still to be said
        say(status, text)
        if status == STATUS and _listening.is_set():
            _end()
        return status
    finally:
        _caught.set()
        close()
        _drop_closed_streams()


def _ended(
    act: Callable[[], None],
    *,
    explain: Callable[[BaseException], str | None],
    own_fault: Callable[[BaseException], str] | None,
) -> tuple[int, str]:
    """Exit status of `act`, and why it stopped."""
    try:
        act()
        sys.stdout.flush()
        if not _endless.is_set():
            check()
        return 0, ""
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _arrived.is_set() or _is_closed_pipe(error):
            # Whatever a library makes of a KeyboardInterrupt, the signal is why the run ends. What stands in the buffer
            # of the output is not wanted any more.
            _arrived.set()
            _caught.set()
            return (0, "") if _endless.is_set() else (STATUS, _SAID)
        reason = explain(error)
        if reason is not None:
            return 2, f"stopped: {reason}"
        if own_fault is None:
            raise
        return 1, own_fault(error)


class Handler(logging.StreamHandler):
    """Log lines on standard error; a reader that has gone ends the run as a signal does."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
        elif _listening.is_set() and not _arrived.is_set():  # nobody else would turn the signal into an orderly end
            os.kill(os.getpid(), signal.SIGTERM)


def _wait(heard: list[signal.Signals]) -> None:
    """The thread that signals come to. Once one has come, this ends the process if nothing else does in time."""
    signal.sigwait(heard)
    if not _guarded.is_set():
        _end()
    _arrived.set()
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        if not _caught.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, _RAISE)
        if signal.sigtimedwait(heard, _AGAIN_S) is not None:
            break
    _end()


def _raise(number: int, frame: Any) -> None:
    if not _caught.is_set():
        raise KeyboardInterrupt


def _open_child() -> None:
    """In a process forked with a function of its own, as Ray's are."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT, signal.SIGTERM])


def _end() -> None:
    """End this process at once, and those that it started: all are stopped before the first is killed, so that none can
    start another or miss one that is gone."""
    try:
        for act in _last_acts:
            with suppress(OSError, ValueError):
                act()
        children = psutil.Process().children(recursive=True)
        for stroke in (psutil.Process.suspend, psutil.Process.kill):
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    stroke(child)
    finally:
        os._exit(STATUS)


def _is_closed_pipe(error: BaseException) -> bool:
    return isinstance(error, BrokenPipeError) and bool(_closed_streams())


def _closed_streams() -> list[Any]:
    """Standard output and error, where they are pipes whose reader has gone."""
    closed = []
    for stream in (sys.stdout, sys.stderr):
        poll = select.poll()
        try:
            poll.register(stream.fileno(), 0)
        except (AttributeError, OSError, ValueError):  # no stream of the system: a test's
            continue
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            closed.append(stream)
    return closed


def _drop_closed_streams() -> None:
    """What is still to be written to a pipe without a reader goes nowhere; Python would complain when it ends."""
    for stream in _closed_streams():
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
