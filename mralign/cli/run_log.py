"""The log file of a run, and how a line of it looks.

Records of Python's logging enter, from us and from the packages that we use; lines leave, plain or as JSON, with the
stage that was under way. The file lies in logs/ of the run directory. Where that is a URI, it is written in a temporary
directory of this machine, and moved there when the command ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from mralign.run.events import current_stage
from mralign.run.printable import printable
from mralign.run.store import Directory, absolute

FOREIGN = "foreign"  # the logger of what other packages print


def new_run_id(moment: datetime, *, process: int) -> str:
    """20261127-105130-4711: when a command was started (UTC), and its process."""
    return f"{moment:%Y%m%d-%H%M%S}-{process}"


def add_stage(record: logging.LogRecord) -> bool:
    """Note at a record which stage is under way; a filter that lets all pass."""
    if not hasattr(record, "stage"):
        record.stage = current_stage()
    return True


class PlainLine(logging.Formatter):
    """Time, message; in a file also the level, the stage and whose line it is. No control character gets through."""

    def __init__(self, *, full: bool = False) -> None:
        head = "%(asctime)s %(levelname)s %(name)s [%(stage)s]" if full else "%(asctime)s"
        super().__init__(f"{head} %(message)s", datefmt="%Y-%m-%d %H:%M:%S" if full else "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows in lines of its own."""
        return printable(super().format(record))


class JsonLine(logging.Formatter):
    """One JSON object a line: time, level, logger, run, stage, message and, where there is one, traceback."""

    def __init__(self, *, run: str) -> None:
        super().__init__()
        self.run = run

    def format(self, record: logging.LogRecord) -> str:
        """The object as a line of ASCII."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        told = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "run": self.run,
            "stage": getattr(record, "stage", ""),
            "message": printable(record.getMessage()),
        }
        if record.exc_info:
            told["traceback"] = printable(self.formatException(record.exc_info))
        return json.dumps(told)


class RunLog:
    """The log file of one start of a command."""

    def __init__(self, run_dir: str, *, run: str, as_json: bool) -> None:
        """Raises OSError where the file cannot be written."""
        name = f"{run}.jsonl" if as_json else f"{run}.log"
        self._there = Directory(f"{absolute(run_dir)}/logs")
        self._name, self._local, self._lost = name, "://" not in run_dir, False
        self._copied = 0  # bytes that lie in the run directory
        place = Path(self._there.uri) if self._local else Path(tempfile.mkdtemp(prefix="mralign-log-"))
        place.mkdir(parents=True, exist_ok=True)
        self.file = place / name
        self.handler = logging.FileHandler(self.file, encoding="utf-8", errors="replace")
        self.handler.setFormatter(JsonLine(run=run) if as_json else PlainLine(full=True))
        self.handler.addFilter(add_stage)
        os.chmod(self.file, 0o600)  # it may quote questions and answers

    @property
    def place(self) -> str:
        """Where the user finds it: in the run directory, or, until it is copied there, on this machine."""
        return str(self.file) if self._local or self._lost else f"{self._there.uri}/{self._name}"

    def keep(self) -> None:
        """Copy the file into a run directory that is not on this machine. Where that fails, its place stays here."""
        self.handler.flush()
        if self._local:
            return
        try:
            text = self.file.read_bytes()
            if len(text) == self._copied:
                return
            self._there.write_bytes(self._name, text)
            self._lost, self._copied = False, len(text)
        except OSError:
            self._lost = True

    def close(self) -> None:
        """Keep the file, and log no more. What is in the run directory does not stay in a temporary one as well: it may
        quote questions and answers."""
        self.keep()
        self.handler.close()
        if not self._local and not self._lost:
            shutil.rmtree(self.file.parent, ignore_errors=True)
