"""Lines of our log in a worker find their way to the driver's.

Ray hands on what a worker prints, as text. A worker prints its lines of the log as JSON behind a mark; whoever reads
what was printed takes them out again, with their level.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

HOOK = "mralign.run.worker_lines.set_up"  # called by Ray in every worker process as it starts
_MARK = "mralign-line "


@dataclass(frozen=True)
class WorkerLine:
    """A line of the log of a worker."""

    level: int
    text: str


def set_up() -> None:
    """Print the lines of our log so that `read` finds them."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Marked())
    log = logging.getLogger("mralign")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


def read(printed: str) -> WorkerLine | None:
    """The line of ours in what a worker printed; None in what others did. Ray may write before it and behind it."""
    _, mark, rest = printed.partition(_MARK)
    if not mark:
        return None
    try:
        told, _ = json.JSONDecoder().raw_decode(rest)
        return WorkerLine(int(told["level"]), str(told["text"]))
    except (ValueError, KeyError, TypeError):  # somebody else's words
        return None


class _Marked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return _MARK + json.dumps({"level": record.levelno, "text": text})
