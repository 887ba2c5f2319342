"""A real pseudo-terminal with a process in it, and what a person would see on it (pyte draws it)."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

import pyte
from python_path import python_path

PROCESS = Path(__file__).with_name("shown_process.py")
ROOT = Path(__file__).parents[2]


class Terminal:
    """A process on a terminal of some size; `raw` is all that it wrote."""

    def __init__(self, *command, columns=100, rows=30, types=True, **environment):
        """`types`: standard input is the terminal as well."""
        self.screen = pyte.HistoryScreen(columns, rows, history=500)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        reader, writer = os.pipe()
        self.process, self.terminal = pty.fork()
        if self.process == 0:
            os.dup2(writer, 9)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            if not types:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            given = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
            given |= {"TERM": "xterm-256color", "PYTHONPATH": python_path(ROOT), **environment}
            os.execve(sys.executable, [sys.executable, str(PROCESS), *command], given)
        os.close(writer)
        self.ready_pipe = reader

    def read(self, seconds):
        """Take in what is written within so many seconds; False at the end."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.terminal], [], [], left)[0]:
                return True
            try:
                data = os.read(self.terminal, 65536)
            except OSError:
                return False
            if not data:
                return False
            self.raw += data
            self.stream.feed(data)
        return True

    def until_ready(self):
        """Until the process says that it waits."""
        end = time.monotonic() + 60
        while not select.select([self.ready_pipe], [], [], 0)[0]:
            assert self.read(0.1), self.raw.decode("utf-8", "replace")
            assert time.monotonic() < end, self.raw.decode("utf-8", "replace")
        os.read(self.ready_pipe, 100)

    def end(self):
        """The exit status, once the process has ended."""
        end = time.monotonic() + 60
        while self.read(0.5):
            assert time.monotonic() < end, self.raw.decode("utf-8", "replace")
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def resize(self, *, columns, rows):
        """Change the size, as a person does with the window."""
        self.screen.resize(lines=rows, columns=columns)
        fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.terminal, text.encode())

    @property
    def lines(self):
        """What stands on the screen, without empty lines at its end."""
        shown = [line.rstrip() for line in self.screen.display]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def cursor_is_shown(self):
        return not self.screen.cursor.hidden
