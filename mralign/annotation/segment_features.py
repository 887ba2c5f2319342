"""Segments of a thought become hashed features, without a model to download.

The segments of one thought enter; of each, the slots of its words, word pairs and opening words among `SLOTS` leave. A
step is scored by the mean over its own segments, by the segment before it and the one behind it (a slot has a column
for each of the three), and by where it stands in the thought. The hash is CRC-32, which
is the same on every machine and in every version: a file of weights means the same everywhere.

Axes: F features of all segments of a thought, S its segments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from zlib import crc32

import numpy as np

SLOTS = 2**15
OWN, BEFORE, BEHIND = range(3)  # whose feature it is: slot * BLOCKS + one of these is its column
BLOCKS = 3
PLACES = 8  # columns behind all slots: how near the step is to either end of the thought
COLUMNS = BLOCKS * SLOTS + PLACES  # without an encoder; with one of D dimensions BLOCKS * D more stand behind
_NEAR = PLACES // 2
_WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]|_")
_OPENING = 3  # words at the beginning of a segment that count as such


@dataclass(frozen=True)
class SegmentFeatures:
    """The features of S segments, flat: those of segment s are `slot_F[end_S[s - 1] : end_S[s]]`."""

    slot_F: np.ndarray  # int64, 0 .. SLOTS - 1; different within a segment
    end_S: np.ndarray  # int64

    @property
    def segments(self) -> int:
        return self.end_S.size

    @property
    def begin_S(self) -> np.ndarray:
        return self.end_S - self.length_S

    @property
    def length_S(self) -> np.ndarray:
        return np.diff(self.end_S, prepend=0)

    @property
    def value_F(self) -> np.ndarray:
        """What each feature counts, float32: the squares of those of one segment add up to 1."""
        return np.repeat(1 / np.sqrt(self.length_S.astype(np.float32)), self.length_S)


def segment_features(segments: Sequence[str]) -> SegmentFeatures:
    """The features of the segments of one thought, which has at least one."""
    slots = [_slots(segment) for segment in segments]
    end_S = np.cumsum([len(found) for found in slots], dtype=np.int64)
    return SegmentFeatures(np.concatenate([np.array(found, dtype=np.int64) for found in slots]), end_S)


def _slots(segment: str) -> list[int]:
    """The slots of a segment's features, each once, ascending."""
    words = ["0" if word.isdigit() else word for word in _WORD.findall(segment.lower().replace("\u2019", "'"))]
    found = {*words, "^"}  # no segment is without a feature
    found.update(f"{left} {right}" for left, right in pairwise(words))
    found.update("^" + " ".join(words[: length + 1]) for length in range(min(_OPENING, len(words))))
    return sorted({crc32(name.encode()) % SLOTS for name in found})


def place_columns(first: np.ndarray, *, last: np.ndarray, segments: int) -> np.ndarray:
    """The two columns that hold for each of N steps, (N, 2): how far its first segment is from the beginning of the
    thought, and its last one from the end."""
    from_start, from_end = np.minimum(first, _NEAR - 1), np.minimum(segments - 1 - last, _NEAR - 1)
    return BLOCKS * SLOTS + np.stack([from_start, _NEAR + from_end], axis=1)


def columns_of(dimensions: int) -> int:
    """Columns of a labeller whose encoder has so many dimensions (0: it has none)."""
    return COLUMNS + BLOCKS * dimensions


def vector_columns(block: int, *, dimensions: int) -> np.ndarray:
    """The columns of a segment's vector, by whose it is (OWN, BEFORE or BEHIND), (D,)."""
    return COLUMNS + BLOCKS * np.arange(dimensions) + block
