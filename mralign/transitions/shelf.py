"""Count tables by the content they were counted from, so that a part is counted once in the life of a run directory.

The bytes of a committed part of annotations enter, its table of schema.REPLICATED_COUNTS leaves: from the shelf if one
stands there under the digest of those bytes and of all that the counts depend on, else counted and put there. New
trajectories change the fingerprint of every stage after them, but not the bytes of the parts that were there: only new
parts are counted. A table appears whole or not at all, and two writers of a name write the same, so a kill costs at
most the tables being counted. Nothing is ever removed: a shelf may be deleted whenever no run is working.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from mralign.rows.columns import cast
from mralign.rows.schema import REPLICATED_COUNTS
from mralign.run.arrow_files import open_parquet
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.transitions.bootstrap import count_replicated
from mralign.transitions.counts import Labels

RAW = pa.schema({"parquet": pa.large_binary()})
_VERSION = 1  # raised when the same settings count otherwise
_COLUMNS = ["dataset", "polarity", "steps.list.element.labels"]


@dataclass(frozen=True)
class Undecoded(StageDir):
    """The committed parts of a stage as they are written: a digest needs no decoding."""

    def read_parts(self, parts: Sequence[str], *, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
        """One row a part, of schema RAW."""
        assert schema == RAW and columns is None
        return pa.table({"parquet": pa.array([self._bytes(part) for part in parts], pa.large_binary())})

    def _bytes(self, part: str) -> bytes:
        with self.filesystem.open_input_stream(self.path(part)) as stream:
            return bytes(stream.read())


@dataclass(frozen=True)
class Counting:
    """All that the counts of a part depend on besides the part."""

    states: tuple[str, ...]
    labels: Labels
    replicates: int
    seed: int

    def key(self, parquet: bytes) -> str:
        """The name of the counts of this part: 32 hex digits."""
        seed = self.seed if self.replicates else None
        settings = json.dumps([_VERSION, self.states, self.labels, self.replicates, seed]).encode()
        return hashlib.sha256(hashlib.sha256(settings).digest() + parquet).hexdigest()[:32]

    def count(self, parquet: bytes) -> pa.Table:
        """The part's transitions, counted (schema.REPLICATED_COUNTS)."""
        columns = [*(["row_id"] if self.replicates else []), *_COLUMNS]  # the draws of a trajectory go by its id
        steps = open_parquet(pa.BufferReader(parquet), name="a part of the annotation").read(columns=columns)
        return count_replicated(
            steps, states=self.states, labels=self.labels, replicates=self.replicates, seed=self.seed
        )


def fetch(parquet: bytes, *, counting: Counting, shelf: StageDir) -> pa.Table:
    """The counts of a part, from the shelf or counted now and put there."""
    name = part_name(counting.key(parquet))
    if shelf.holds(name):
        return shelf.read_parts([name], schema=REPLICATED_COUNTS)
    counted = cast(counting.count(parquet), REPLICATED_COUNTS)
    shelf.commit(name, counted, schema=REPLICATED_COUNTS)
    return counted
