"""Every answer that was paid for, one object each, and what they cost.

A call enters as its key: a hash of all that could change the answer, and of nothing else (never the API key). An entry
is written whole before anybody sees the answer, so a killed run finds it again; the money that a run directory has
spent is the sum over its entries, which no kill can part from the answers. One directory serves one `Http` section.
"""

from __future__ import annotations

import hashlib
import json
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

from pyarrow import fs

from mralign.run.store import Directory
from mralign.serving.calls import Call, Reply

log = logging.getLogger("mralign")

_READERS = 16  # entries read at once for the sum: over a network, waiting is all there is to it


@dataclass(frozen=True)
class Entry:
    """One answer as it lies on disk; `cost` in the money of the prices, as decimal digits."""

    key: str
    row_id: str
    cost: str
    prompt_tokens: int
    completion_tokens: int
    body: dict[str, Any]

    def reply(self) -> Reply:
        """The answer, as one that cost nothing."""
        return Reply(self.body, self.prompt_tokens, self.completion_tokens, cached=True, tries=0)


def call_key(call: Call, *, base_url: str) -> str:
    """64 hex digits that change with the address, the path and the payload (model, prompt, sampling, seed, format)."""
    text = json.dumps([base_url, call.path, call.payload], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class ResponseCache:
    """Entries at `ab/<key>.json` under a directory on any pyarrow file system. All calls block: use a thread."""

    directory: Directory

    def read(self, key: str) -> Entry | None:
        """The entry of `key`; None where there is none, or where what lies there cannot be read as one.

        An error of the file system other than "not found" is raised: to ask again would be to pay again.
        """
        try:
            return self._read(_name(key))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, ArithmeticError) as error:
            log.warning("%s is no response, and is asked for again: %s", self.directory.path(_name(key)), error)
            return None

    def write(self, entry: Entry) -> None:
        """Write an entry, whole or not at all."""
        self.directory.write_text(_name(entry.key), json.dumps(asdict(entry)))

    def spent(self) -> Decimal:
        """The money of all entries."""
        selector = fs.FileSelector(self.directory.path(), allow_not_found=True, recursive=True)
        found = self.directory.filesystem.get_file_info(selector)
        keys = [info.base_name.removesuffix(".json") for info in found if info.base_name.endswith(".json")]
        with ThreadPoolExecutor(_READERS) as pool:
            return sum((Decimal(entry.cost) for entry in pool.map(self.read, keys) if entry), Decimal(0))

    def _read(self, name: str) -> Entry:
        entry = Entry(**json.loads(self.directory.read_text(name)))
        if _name(entry.key) != name or not Decimal(entry.cost).is_finite() or not isinstance(entry.body, dict):
            raise ValueError("it does not fit its name")
        return entry


def _name(key: str) -> str:
    return f"{key[:2]}/{key}.json"
