"""Random numbers of a trajectory, drawn from (seed, purpose, row_id) and nothing else.

Row ids enter, one 64-bit key a row leaves, and from keys come Poisson weights for the bootstrap. No generator carries a
state from row to row, so shards, their order and a restart cannot change a draw. Row ids are hashed as columns of
bytes: a row costs nanoseconds, not a call of Python.

Axes: N rows, M some of them, B replicates, W = ceil(B / 4) words of four 16-bit draws.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, odd: multiples of it spread over all 64 bits
_LEVELS = 2**16
_TOGETHER = 2**14  # rows whose weights are drawn at once


def row_keys(row_ids: pa.Array | pa.ChunkedArray, *, seed: int, purpose: str) -> np.ndarray:
    """Keys (N,) uint64 of string ids: each byte has a random number for its place and value; they are added up.

    Other purposes get unrelated keys from the same seed.
    """
    end, data = _bytes(row_ids)
    length = np.diff(end)
    place = np.arange(data.size) - np.repeat(end[:-1], length)
    salt = np.frombuffer(hashlib.blake2b(f"{purpose}/{seed}".encode(), digest_size=8).digest(), "<u8")[0]
    entries = np.arange(256 * int(length.max(initial=0)), dtype=np.uint64)
    number = mixed(salt + entries * GOLDEN)  # one a place and byte
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(number[place * 256 + data], dtype=np.uint64)])
    return mixed(sums[end[1:]] - sums[end[:-1]] + salt)  # sums wrap around by design


def poisson(key_N: np.ndarray, *, replicates: int) -> np.ndarray:
    """Poisson(1) weights (N, B) uint8, independent between rows and replicates; probabilities rounded to 2**-16."""
    words = np.arange(1, -(-replicates // 4) + 1, dtype=np.uint64)
    weight_NB = np.empty((key_N.size, replicates), np.uint8)
    for start in range(0, key_N.size, _TOGETHER):  # the hashes take eight times the memory of the weights
        hash_MW = mixed(key_N[start : start + _TOGETHER, None] + words * GOLDEN)
        level_MB = hash_MW.astype("<u8").view("<u2")[:, :replicates]
        np.take(_POISSON, level_MB, out=weight_NB[start : start + _TOGETHER])
    return weight_NB


def poisson_columns(key_N: np.ndarray, *, replicates: int) -> Iterator[np.ndarray]:
    """The columns of `poisson`, (N,) uint8 each, one after the other: for more rows than all of them fit in memory."""
    steps = np.arange(1, -(-replicates // 4) + 1, dtype=np.uint64) * GOLDEN
    for first, step in zip(range(0, replicates, 4), steps, strict=True):
        level_N4 = mixed(key_N + step).astype("<u8", copy=False).view("<u2").reshape(-1, 4)
        for level_N in level_N4.T[: replicates - first]:
            yield _POISSON[level_N]


def mixed(key: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: uint64 keys to well-spread uint64 numbers (wraps around by design)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: np.ndarray = key ^ (key >> np.uint64(31))
    return result


def _bytes(row_ids: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (N + 1,) int64 from 0, and the bytes of all ids, uint8."""
    whole = row_ids.combine_chunks() if isinstance(row_ids, pa.ChunkedArray) else row_ids
    text = whole.cast(pa.large_string())
    if not len(text):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets, values = text.buffers()
    end = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(values, np.uint8) if values is not None else np.zeros(0, np.uint8)
    return end - end[0], data[end[0] : end[-1]]


def _poisson_table() -> np.ndarray:
    """The Poisson(1) weight of each of 2**16 equally likely levels, uint8."""
    tail = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(np.round(_LEVELS * tail), np.arange(_LEVELS), side="right").astype(np.uint8)


_POISSON = _poisson_table()
