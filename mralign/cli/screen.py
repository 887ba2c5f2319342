"""The live table of a run on a terminal.

Events enter; one picture is drawn again and again in its place, and stays when the run is over. Lines that the user
should keep (warnings) go above it. A terminal that changes its size is cleared and drawn anew: what stood on it has
been wrapped in a way that nobody knows.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, ConsoleDimensions
from rich.live import Live
from rich.text import Text

from mralign.cli.picture import picture
from mralign.cli.progress import RunProgress
from mralign.run.events import Event, RunBegan, RunEnded
from mralign.run.interruption import at_end
from mralign.run.printable import printable

_REDRAWN_S = 0.25
_NOTES = 10  # that are written again when the terminal has changed its width
_SHOW_CURSOR = b"\x1b[?25h\n"


def shows_tables(stream: TextIO) -> bool:
    """Whether a stream is a terminal on which something can be drawn twice in one place."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


class Screen:
    """A listener with a terminal. `clock` is monotonic, in seconds."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self.clock, self.progress = clock, RunProgress()
        self.notes: list[str] = []
        self.live: Live | None = None
        self.size = (0, 0)  # columns and lines of the terminal that was drawn on
        self._lock, self._over = threading.RLock(), threading.Event()
        self._drawing = threading.Thread(target=self._draw_again, name="screen", daemon=True)
        self._forget = at_end(self._leave)

    def __call__(self, event: Event) -> None:
        """Hear an event. The picture follows within a moment; where the run begins and ends, at once."""
        with self._lock:
            if isinstance(event, RunBegan):
                self._begin()
            self.progress = self.progress.after(event, now=self.clock())
        if isinstance(event, RunEnded):
            self.close()

    def note(self, text: str) -> None:
        """Write a line above the table."""
        with self._lock:
            self.notes = [*self.notes, printable(text)][-_NOTES:]
            self.console.print(Text(self.notes[-1]))

    def close(self) -> None:
        """Leave the last picture on the terminal, and give the cursor back."""
        self._over.set()
        with self._lock:
            self._stop()
            self.console.show_cursor(True)
            self._forget()
        if self._drawing.is_alive() and threading.current_thread() is not self._drawing:
            self._drawing.join(timeout=5)

    def _begin(self) -> None:
        """Start the picture of a run; the last one of the run before stays above it."""
        self._stop()
        self._measure()
        self.live = self._new_live()
        if not self._drawing.is_alive() and not self._over.is_set():
            self._drawing.start()

    def _new_live(self) -> Live:
        live = Live(console=self.console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        live.start()
        return live

    def _stop(self) -> None:
        if self.live is None:
            return
        live, self.live = self.live, None
        live.update(picture(self.progress, now=self.clock(), width=self.size[0]))
        live.stop()

    def _draw_again(self) -> None:
        while not self._over.wait(_REDRAWN_S):
            self.draw()

    def draw(self) -> None:
        """Draw the picture as it is now."""
        with self._lock:
            if self.live is None:
                return
            if self._measure():
                self._clear()
            width, height = self.size
            self.live.update(picture(self.progress, now=self.clock(), width=width, height=height), refresh=True)

    def _measure(self) -> bool:
        """Look how large the terminal is; whether it has another size than before.

        Rich would look at the standard streams of this process, which are not the terminal any more.
        """
        before = self.size
        columns, lines = os.get_terminal_size(self.console.file.fileno())
        self.size = max(columns, 1), max(lines, 1)
        self.console.size = ConsoleDimensions(*self.size)
        return self.size != before

    def _clear(self) -> None:
        assert self.live is not None
        self.live.transient = True
        self.live.stop()
        self.console.clear()
        for note in self.notes:
            self.console.print(Text(note))
        self.live = self._new_live()

    def _leave(self) -> None:
        """The process ends at once: only the cursor is given back, without a lock that somebody may hold."""
        os.write(self.console.file.fileno(), _SHOW_CURSOR)
