"""What a command shows, and where: a live table, plain lines, JSON events; the log file; the result; why it stopped.

There is one display for the process, as there is one standard output: `display`. A command does its work inside
`display.running(run_dir)` and hands its last text to `display.result`; guard.py tells how the command ended. On a
terminal the table is drawn on standard output. Elsewhere plain lines go to standard error, the result to standard
output. With --json standard output has events and nothing else.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from mralign.cli.event_lines import EventLines
from mralign.cli.foreign_output import ForeignOutput
from mralign.cli.progress_lines import ProgressLines
from mralign.cli.run_log import FOREIGN, JsonLine, PlainLine, RunLog, add_stage, new_run_id
from mralign.cli.screen import Screen, shows_tables
from mralign.run import interruption, worker_lines
from mralign.run.events import Event, Listener, Noted, RunEnded, StageBegan, StageEnded, current_stage, listening, tell
from mralign.run.faults import own_sentence
from mralign.run.printable import printable

log = logging.getLogger("mralign")
progress = logging.getLogger("mralign.progress")  # the lines that a table takes the place of
foreign = logging.getLogger(FOREIGN)
_SAYS_NOTHING = re.compile(r"\([^ ].* pid=\d+(, ip=\S+)?\)\s*")  # the head that Ray puts before an empty line


@dataclass(frozen=True)
class Wishes:
    """What the user asks of the display."""

    json: bool = False
    verbose: bool = False
    quiet: bool = False
    log_format: str = "text"


def said_of(argv: Sequence[str]) -> str:
    """The command for a log, its settings by name only: the value of one may be a key."""
    return " ".join(re.sub(r"=.*", "=…", word, flags=re.DOTALL) for word in argv)


class Display:
    """Begin it with `open`, end it with `end` and `close`; between them `running` and `result`."""

    def __init__(self) -> None:
        self.wishes = Wishes()
        self.run = new_run_id(datetime.now(UTC), process=os.getpid())
        self.screen: Screen | None = None
        self.log: RunLog | None = None
        self.told = ""  # the result
        self._stage = ""  # that is under way
        self._ending = False
        self._output: ForeignOutput | None = None
        self._lines = _TerminalLines(self)
        self._listening = ExitStack()

    def open(self) -> None:
        """Show lines of the log from now on."""
        logging.basicConfig(level=logging.WARNING, handlers=[self._lines])
        log.setLevel(logging.DEBUG)

    @contextmanager
    def running(self, run_dir: str) -> Iterator[None]:
        """A run goes on inside: what happens is shown and logged, what other packages print is only logged."""
        self.log = RunLog(run_dir, run=self.run, as_json=self.wishes.log_format == "json")
        logging.getLogger().addHandler(self.log.handler)
        foreign.setLevel(logging.INFO)
        self._output = ForeignOutput(self.log.file.with_suffix(".printed"), hand_on=self._log_foreign)
        self._output.start()
        interruption.at_end(self._output.drop)
        self._lines.setStream(self._output.err)
        listeners: list[Listener] = [self._note_stage, ProgressLines(partial(progress.info, "%s"))]
        if self.wishes.json:
            listeners.append(EventLines(self._write, run=self.run))
        elif self._draws(self._output):
            self.screen = Screen(self._output.out)
            listeners.append(self.screen)
        for listener in listeners:
            self._listening.enter_context(listening(listener))
        log.debug("command: %s", said_of(sys.argv))
        yield

    def result(self, text: str) -> None:
        """Show the last text of a command: its result, where it lies, what to do next."""
        self.told = text = printable(text)
        log.debug("%s", text)
        if self.screen is not None:
            self.screen.close()
        if not self.wishes.json:
            where = f"\n\nlog    {self._kept_log()}" if self.screen is not None else ""
            self._write(f"{text}{where}")

    def end(self, status: int, text: str) -> None:
        """Say how the command ended; `text`: why it stopped, empty where it is done."""
        self._ending = True
        if self._output is not None:
            self._output.catch_up()
        place = self._kept_log()
        ended = RunEnded(status=status, text=printable(text or self.told), log=place)
        if self.wishes.json and self.log is None:
            EventLines(partial(print, flush=True), run=self.run)(ended)
        tell(ended)
        if text:
            log.error("%s", text, extra={"ends": True})
        self._kept_log()

    def _kept_log(self) -> str:
        """Where the log is, which is kept there as far as it goes; empty where there is none."""
        if self.log is None:
            return ""
        self.log.keep()
        return self.log.place

    def remember(self, error: BaseException) -> None:
        """Keep the traceback of what stopped a run, for those who look into its log."""
        if self.log is not None:
            log.debug("what stopped it", exc_info=error)

    def own_fault(self, error: BaseException) -> str:
        """The sentence for a fault of ours; its traceback goes into the log."""
        log.debug("the traceback of the fault", exc_info=error)
        place = self._kept_log()
        if not place:
            number, place = tempfile.mkstemp(prefix="mralign-fault-", suffix=".log")
            text = printable("".join(traceback.format_exception(error)))
            with open(number, "w", encoding="utf-8", errors="replace") as file:
                file.write(text)
        return f"{own_sentence(error)}. The whole traceback: {place}"

    def close(self) -> None:
        """Give the terminal back."""
        self._listening.close()
        if self.screen is not None:
            self.screen.close()
        if self._output is not None:
            self._output.stop()
            self._lines.setStream(sys.stderr)
        if self.log is not None:
            logging.getLogger().removeHandler(self.log.handler)
            self.log.close()

    def _note_stage(self, event: Event) -> None:
        """What is printed while a stage is under way is logged as of that stage."""
        if isinstance(event, StageBegan):
            self._stage = event.stage
        elif isinstance(event, StageEnded) and self._output is not None:
            self._output.catch_up()
            self._stage = ""

    def _log_foreign(self, line: str) -> None:
        """Log what was printed; a line of ours that a worker printed is a line of ours again."""
        if _SAYS_NOTHING.fullmatch(line):
            return
        told = worker_lines.read(line)
        where, level, text = (foreign, logging.INFO, line) if told is None else (log, told.level, told.text)
        where.log(level, "%s", text, extra={"stage": self._stage})

    def _draws(self, output: ForeignOutput) -> bool:
        plain = self.wishes.quiet or self.wishes.log_format == "json"
        return not plain and shows_tables(output.out)

    def _write(self, text: str) -> None:
        """Write to standard output; a reader that has gone ends the run as a signal does."""
        if self._output is None:
            print(text, flush=True)
            return
        try:
            print(text, file=self._output.out, flush=True)
        except BrokenPipeError:
            self._end_unread()

    def _end_unread(self) -> None:
        if self._ending:
            return
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        interruption.end_run()


class _TerminalLines(interruption.Handler):
    """Lines of the log for the user: above the table where there is one, else on standard error."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self.display = display
        self.addFilter(add_stage)
        self.addFilter(self._is_shown)

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line; a warning is an event as well."""
        wishes, screen = self.display.wishes, self.display.screen
        self.setFormatter(JsonLine(run=self.display.run) if wishes.log_format == "json" else PlainLine())
        if screen is not None and screen.live is not None:
            screen.note(self.format(record))
        else:
            super().emit(record)
        if record.levelno >= logging.WARNING and not hasattr(record, "ends"):
            tell(Noted(level=record.levelname, text=printable(record.getMessage()), stage=current_stage()))

    def _is_shown(self, record: logging.LogRecord) -> bool:
        wishes, screen = self.display.wishes, self.display.screen
        drawn = screen is not None and screen.live is not None
        if record.name == progress.name and (drawn or wishes.json):
            return False
        if wishes.verbose:
            return True
        if not record.name.startswith(log.name):
            return False
        least = logging.INFO
        if wishes.quiet:
            least = logging.ERROR
        elif drawn or wishes.json:
            least = logging.WARNING
        return record.levelno >= least


display = Display()
