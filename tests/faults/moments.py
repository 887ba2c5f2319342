"""A chosen moment of a run: a process of it waits there until the test lets it go on (see pauses/sitecustomize.py)."""

import json
import os
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PAUSES = Path(__file__).with_name("pauses")


@dataclass(frozen=True)
class Moment:
    """The `number`-th call, over all processes, whose words match the regular expression `words`."""

    words: str
    number: int = 1


@dataclass(frozen=True)
class Reached:
    """The process that waits, and where."""

    pid: int
    moment: str


class Pauses:
    """The directory through which a test and the processes of a run speak of moments, one moment at a time."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        for file in self.directory.iterdir():
            file.unlink()
        self.mark = ""

    def environment(self, path):
        """Variables for every process of the run; `path`: the PYTHONPATH that it needs besides."""
        return {"MRALIGN_PAUSES": str(self.directory), "PYTHONPATH": f"{PAUSES}:{path}"}

    def want(self, moment):
        """From now on the first process that comes to `moment` waits there; None: nobody more is held. Returns what
        lets those go on that wait at the moment before."""
        before, self.mark = self.mark, uuid.uuid4().hex
        wanted = self.directory / "wanted.json"
        if moment is None:
            wanted.unlink(missing_ok=True)
        else:
            draft = self.directory / "wanted.draft"
            draft.write_text(json.dumps({"moment": moment.words, "number": moment.number, "id": self.mark}))
            draft.rename(wanted)
        return lambda: self.release(before) if before else None

    def reached(self, *, process, timeout, reader=None):
        """Who waits at the moment; None if the run ended without coming to it. AssertionError after `timeout` s. What
        the run writes into the pipe `reader` (not blocking) is read and dropped."""
        file, end = self.directory / f"reached-{self.mark}.json", time.monotonic() + timeout
        while not file.exists():
            if process.poll() is not None:
                return None
            assert time.monotonic() < end, f"nobody came to the moment within {timeout} s"
            if reader is not None:
                _drain(reader)
            time.sleep(0.05)
        return Reached(**json.loads(file.read_text()))

    def release(self, mark=None):
        """Let whoever waits go on."""
        (self.directory / f"released-{mark or self.mark}").touch()


def _drain(reader):
    """Read what there is."""
    with suppress(BlockingIOError):
        while os.read(reader, 65536):
            pass
