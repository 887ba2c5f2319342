"""What other packages print goes into the log, not on the terminal.

Ray, vLLM, transformers and DeepSpeed, and the compiled code below them, write to the standard output and error of this
process as they like. While it is captured, both are a file; a thread reads it and hands on its lines. Whoever has
something to say to the user has been given the streams as they were. A file, not a pipe: what a process writes in its
last moment is still there when it has ended, and nobody waits for a reader.
"""

from __future__ import annotations

import faulthandler
import io
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

_LOOKED_AT_S = 0.2
_BREAK = re.compile(rb"[\r\n]+")  # a progress bar draws over itself


class ForeignOutput:
    """Standard output and error of this process, from `start` to `stop`.

    `out` and `err` are the streams as they were. `hand_on` gets every line that anybody prints meanwhile.
    """

    def __init__(self, file: Path, *, hand_on: Callable[[str], None]) -> None:
        self.file, self.hand_on = file, hand_on
        self.out, self.err = sys.stdout, sys.stderr
        self._saved: tuple[int, int] | None = None
        self._over = threading.Event()
        self._reading = threading.Thread(target=self._read, name="foreign output", daemon=True)
        self._read_to, self._rest = 0, b""
        self._lock = threading.Lock()

    def start(self) -> None:
        """Capture. Raises OSError where the file cannot be written."""
        printed = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        _flush()
        self._saved = os.dup(1), os.dup(2)
        self.out, self.err = (_stream(number) for number in self._saved)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        os.close(printed)
        _write_by_lines()
        faulthandler.enable(file=2)
        self._reading.start()

    def stop(self) -> None:
        """Give the streams back, and hand on what was printed last."""
        if self._saved is None:
            return
        _flush()
        faulthandler.disable()
        for number, saved in enumerate(self._saved, 1):
            os.dup2(saved, number)
        self._over.set()
        self._reading.join(timeout=5)
        self.catch_up()
        self._hand_on(self._rest)
        self._saved = None
        self.drop()

    def catch_up(self) -> None:
        """Hand on what has been printed so far."""
        with self._lock:
            if self._saved is None:
                return
            with self.file.open("rb") as stream:
                stream.seek(self._read_to)
                new = stream.read()
            self._read_to += len(new)
            *lines, self._rest = _BREAK.split(self._rest + new)
            for line in lines:
                self._hand_on(line)

    def drop(self) -> None:
        """Remove the file of a process that ends at once."""
        self.file.unlink(missing_ok=True)

    def _read(self) -> None:
        while not self._over.wait(_LOOKED_AT_S):
            self.catch_up()

    def _hand_on(self, line: bytes) -> None:
        if line.strip():
            self.hand_on(line.decode("utf-8", "replace"))


def _stream(number: int) -> TextIO:
    """A text stream on a file descriptor, a line at a time."""
    return open(number, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)


def _write_by_lines() -> None:
    """What is printed goes out at the end of its line: held back, it would seem to be of a later stage."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
