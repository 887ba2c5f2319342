"""A signal or a closed pipe ends a run; it is told so, and what was committed stays.

SIGINT, SIGTERM, SIGHUP and a reader that has gone (`| head`) enter; KeyboardInterrupt in the main thread leaves, once
for the first and, where Python drops it (in a destructor or a callback), again until `guarded` has caught it. A second
signal ends the process at once. Libraries put handlers of their own in place of ours: `listen` is called again after
them. What a shell has told the process to ignore (`nohup`, `&` in a script) stays ignored.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("mralign")

STATUS = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_S = 1.5  # until a KeyboardInterrupt that nobody caught is raised again
_GRACE_S = 20.0  # from the first signal until the process ends, whatever it does


class _Heard:
    """What has arrived in this process."""

    def __init__(self) -> None:
        self.guarded = False  # before that nothing has been started that would have to be ended
        self.arrived = threading.Event()
        self.caught = threading.Event()
        self.repeating = False  # the next call of the handler is our own


_heard = _Heard()


def listen() -> None:
    """Let our handler hear the signals, but those that this process was told to ignore. Main thread only; elsewhere
    this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hear)


def check() -> None:
    """Raise KeyboardInterrupt if a signal has arrived. Asked where a run may stop: between stages, before a seal."""
    if _heard.arrived.is_set():
        raise KeyboardInterrupt


def guarded(act: Callable[[], None], *, close: Callable[[], None] = lambda: None) -> int:
    """Exit status of a command that does `act`: 0 done, 2 wrong input, 130 interrupted (resumable).

    `close` ends what was started, whatever happened; processes that it leaves are killed.
    """
    _heard.guarded = True
    _heard.arrived.clear()
    _heard.caught.clear()
    listen()
    try:
        return _status(act)
    finally:
        _heard.caught.set()
        children = _descendants() if _heard.arrived.is_set() else []
        close()
        _kill(children, after_s=1.0)
        _drop_closed_streams()


def _status(act: Callable[[], None]) -> int:
    try:
        act()
        sys.stdout.flush()
        check()
        return 0
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or _heard.arrived.is_set() or _is_closed_pipe(error):
            # Whatever a library makes of a KeyboardInterrupt, the signal is why the run ends.
            _heard.arrived.set()
            _heard.caught.set()
            log.error("interrupted: what was committed is kept; run the same command to go on")
            return STATUS
        if isinstance(error, ValueError):
            log.error("stopped: %s", error)
            return 2
        raise


def _is_closed_pipe(error: BaseException) -> bool:
    return isinstance(error, BrokenPipeError) and bool(_closed_streams())


@contextmanager
def kept_from_children(*numbers: signal.Signals) -> Iterator[None]:
    """Processes that are started inside never get these signals: a closed terminal tells all of its processes, and
    those of a cluster must end after us, not before. One that arrives for us meanwhile is heard afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Handler(logging.StreamHandler):
    """Log lines on standard error; a reader that has gone ends the run as a signal does."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)
        elif not _heard.arrived.is_set():
            _signal_main_thread()


def _hear(number: int, frame: Any) -> None:
    if not _heard.guarded:
        os._exit(STATUS)
    repeated, _heard.repeating = _heard.repeating, False
    if _heard.arrived.is_set() and not repeated:
        _end()
    if not _heard.arrived.is_set():
        _heard.arrived.set()
        threading.Thread(target=_insist, daemon=True).start()
    if not _heard.caught.is_set():
        raise KeyboardInterrupt


def _insist() -> None:
    """Raise KeyboardInterrupt again until it is caught; end the process if that takes too long, or the end does."""
    waited = 0.0
    while not _heard.caught.wait(_AGAIN_S) and waited < _GRACE_S:
        waited += _AGAIN_S
        _heard.repeating = True
        _signal_main_thread()
    threading.Event().wait(_GRACE_S - waited)  # this thread ends with the process
    _end()


def _signal_main_thread() -> None:
    """A real signal, since nothing less wakes a thread that sleeps in the system."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def _end() -> None:
    """End this process at once, and those that it started."""
    _kill(_descendants(), after_s=0)
    os._exit(STATUS)


def _descendants() -> list[Any]:
    import psutil

    return list(psutil.Process().children(recursive=True))


def _kill(processes: list[Any], *, after_s: float) -> None:
    """Kill those of the processes that do not end by themselves within so many seconds."""
    import psutil

    _, left = psutil.wait_procs(processes, timeout=after_s)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


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
