"""Micro-batches: the sequences of an optimizer step dealt to workers and cut by a budget of tokens.

Lengths enter, places in the batch leave, for every worker the same number of micro-batches: each worker makes the same
number of forward passes, as ZeRO-3 asks. Then tokens enter and tensors leave, either padded on the right or packed one
after another into one row. Neither the deal nor the cut nor the layout changes the result (method.md §5).

Axes: B sequences, S positions of a row, N completion tokens of all sequences, flat, in the order of the sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mralign.config import Training

FORWARD_FACTOR = 2  # a pass without gradient holds no activations: it takes so many times the tokens of one with

Pair = tuple[np.ndarray, np.ndarray]  # token ids of a prompt and of a completion


@dataclass(frozen=True)
class Micro:
    """Sequences in one tensor. `where_N` is the flat position (row * S + place) whose hidden state predicts token n."""

    ids_BS: Tensor  # int64; packed: one row
    positions_BS: Tensor | None  # int64, packed only: they begin anew with every sequence
    where_N: Tensor  # int64
    target_N: Tensor  # int64
    sequence_N: Tensor  # int64: which sequence token n belongs to
    sequences: int
    ends_B1: Tensor | None = None  # int32, packed only: where sequences begin in the row, and the end of the last
    longest: int = 0  # tokens, packed only

    def to(self, device: torch.device) -> Micro:
        if device.type == "cpu":
            return self
        moved: Any = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def limits(self) -> dict[str, Any]:
        """What attentions without a mask ask for, by transformers' names; nothing for padded sequences."""
        if self.ends_B1 is None:
            return {}
        ends = {f"cu_seq_lens_{side}": self.ends_B1 for side in "qk"}
        return ends | {f"max_length_{side}": self.longest for side in "qk"}

    def sum(self, values_N: Tensor) -> Tensor:
        """The sum of each sequence's tokens, (B,)."""
        return values_N.new_zeros(self.sequences).index_add(0, self.sequence_N, values_N)


def layout(settings: Training) -> Callable[[Sequence[Pair]], Micro]:
    """How sequences become one tensor."""
    return packed if packs(settings) else padded


def packs(settings: Training) -> bool:
    """Whether micro-batches are packed: where attention is made for that, or when asked."""
    if settings.packing == "auto":
        return settings.attention_used == "varlen" or settings.attention_used.startswith("flash")
    return settings.packing == "on"


def padded(pairs: Sequence[Pair]) -> Micro:
    """One row a sequence, padded on the right with token 0. Behind a causal mask no token sees the padding, so the
    model needs no attention mask."""
    lengths = [len(prompt) + len(completion) for prompt, completion in pairs]
    size = max(lengths)
    ids_BS = np.zeros((len(pairs), size), dtype=np.int64)
    for row, (prompt, completion) in enumerate(pairs):
        ids_BS[row, : lengths[row]] = np.concatenate([prompt, completion])
    return _micro(pairs, ids_BS, None, begins=np.arange(len(pairs)) * size)


def packed(pairs: Sequence[Pair]) -> Micro:
    """All sequences in one row, without padding. No sequence sees another: positions begin anew with each, of which
    transformers makes a block mask, and attentions without a mask are told where sequences begin."""
    lengths = np.array([len(prompt) + len(completion) for prompt, completion in pairs])
    ids_BS = np.concatenate(list(chain.from_iterable(pairs)))[None].astype(np.int64)
    positions = np.concatenate([np.arange(length) for length in lengths])[None]
    ends = np.concatenate([[0], np.cumsum(lengths)])
    micro = _micro(pairs, ids_BS, torch.from_numpy(positions), begins=ends[:-1])
    return replace(micro, ends_B1=torch.from_numpy(ends.astype(np.int32)), longest=int(lengths.max()))


def with_last_position(micro: Micro, position: int) -> Micro:
    """The same with one more token in every row, at `position`; it is a sequence of its own, and nothing is asked of
    it. Explicit positions make transformers mask it from the others."""
    rows, size = micro.ids_BS.shape
    plain_BS = torch.arange(size).expand(rows, size)
    positions_BS = plain_BS if micro.positions_BS is None else micro.positions_BS
    row_N, place_N = micro.where_N // size, micro.where_N % size
    ends_B1 = micro.ends_B1
    if ends_B1 is not None:
        ends_B1 = torch.cat([ends_B1, ends_B1[-1:] + 1])
    return replace(
        micro,
        ids_BS=torch.nn.functional.pad(micro.ids_BS, (0, 1)),
        positions_BS=torch.nn.functional.pad(positions_BS, (0, 1), value=position),
        where_N=row_N * (size + 1) + place_N,
        ends_B1=ends_B1,
    )


def _micro(pairs: Sequence[Pair], ids_BS: np.ndarray, positions_BS: Tensor | None, *, begins: np.ndarray) -> Micro:
    where = [
        begin + len(prompt) - 1 + np.arange(len(completion))
        for begin, (prompt, completion) in zip(begins, pairs, strict=True)
    ]
    tokens = [len(completion) for _, completion in pairs]
    return Micro(
        ids_BS=torch.from_numpy(ids_BS),
        positions_BS=positions_BS,
        where_N=torch.from_numpy(np.concatenate(where)),
        target_N=torch.from_numpy(np.concatenate([completion for _, completion in pairs]).astype(np.int64)),
        sequence_N=torch.from_numpy(np.repeat(np.arange(len(pairs)), tokens)),
        sequences=len(pairs),
    )


def deal(lengths_B: Sequence[int] | np.ndarray, *, workers: int, budget: int, packing: bool) -> list[list[np.ndarray]]:
    """For each worker its micro-batches, as places in the batch (int64).

    The longest sequence goes to the worker with the fewest tokens so far, and so on. A worker's sequences are sorted by
    length and cut where the next one would exceed `budget` tokens, padding included; one sequence alone may exceed it.
    All workers get the same number of micro-batches, the last ones empty where the deal does not come out even.
    """
    lengths = np.asarray(lengths_B, dtype=np.int64)
    held: list[list[int]] = [[] for _ in range(workers)]
    load = np.zeros(workers, dtype=np.int64)
    for place in np.argsort(-lengths, kind="stable"):
        worker = int(load.argmin())
        held[worker].append(int(place))
        load[worker] += lengths[place]
    cut = [_cut(places, lengths, budget=budget, packing=packing) for places in held]
    rounds = max(map(len, cut))
    return [pieces + [np.empty(0, dtype=np.int64)] * (rounds - len(pieces)) for pieces in cut]


def _cut(places: Sequence[int], lengths: np.ndarray, *, budget: int, packing: bool) -> list[np.ndarray]:
    """`places` come by falling length; the longest micro-batch comes first, where memory that is too small shows."""
    pieces: list[list[int]] = []
    size = 0
    for place in places:
        # padded, every row is as long as the first of its micro-batch
        cost = int(lengths[place] if packing or not pieces else lengths[pieces[-1][0]])
        if not pieces or size + cost > budget:
            pieces.append([])
            size, cost = 0, int(lengths[place])
        pieces[-1].append(place)
        size += cost
    return [np.array(piece, dtype=np.int64) for piece in pieces]
