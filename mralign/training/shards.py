"""What ZeRO has cut up among workers, cut anew for another number of them.

The optimizer's shards of all the old workers enter; the shard that this worker would have written itself leaves, to be
loaded as if it had. No value changes, only who holds it. A row of values is cut into equal pieces, the last one filled
up with zeros: under ZeRO 1 and 2 a row is all that is trained, end to end; under ZeRO 3 each parameter is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import torch
from torch import Tensor

from mralign.training.engine import World


def cut(pieces: Sequence[Tensor], *, start: int, size: int, total: int) -> Tensor:
    """`size` values of a row from place `start` on, zeros where its `total` values have ended.

    `pieces`: the row end to end; what its last pieces were filled up with is left out.
    """
    found = torch.zeros(size, dtype=pieces[0].dtype)
    begins = 0
    for piece in pieces:
        ends = begins + piece.numel()
        first, last = max(start, begins), min(start + size, ends, total)
        if first < last:
            found[first - start : last - start] = piece[first - begins : last - begins]
        begins = ends
    return found


def cut_rows(flats: Sequence[Tensor], *, size: int, total: int, world: World) -> Tensor:
    """ZeRO 1 and 2: this worker's `size` values of a group whose pieces the old workers held in `flats`."""
    return cut(flats, start=world.rank * size, size=size, total=total)


def cut_parameters(flats: Sequence[Sequence[Tensor]], *, groups: Sequence[Sequence[int]], world: World) -> list[Tensor]:
    """ZeRO 3: this worker's values, a tensor for each of its `groups`, of which each names the sizes of its parameters.

    `flats`: the same by old worker. Their groups may have had other bounds; the order of the parameters is the same.
    """
    sizes = [size for group in groups for size in group]
    old = [_in_turn(of_worker, sizes=[ceil(size / len(flats)) for size in sizes]) for of_worker in flats]
    rows = zip(*old, strict=True)
    found = []
    for group in groups:
        pieces = [_own_piece(next(rows), total=size, world=world) for size in group]
        found.append(torch.cat(pieces))
    return found


def _own_piece(row: Sequence[Tensor], *, total: int, world: World) -> Tensor:
    size = ceil(total / world.size)
    return cut(row, start=world.rank * size, size=size, total=total)


def _in_turn(flats: Sequence[Tensor], *, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Views of the next `sizes` values, each within one of `flats`."""
    left = list(flats)
    at = 0
    for size in sizes:
        while at == left[0].numel():
            left.pop(0)
            at = 0
        yield left[0].narrow(0, at, size)
        at += size


def own_shard(optimizer: Any, shards: Sequence[Mapping[str, Any]], *, world: World) -> dict[str, Any]:
    """What this worker of `world` would have written where other workers have written `shards`, in order of rank.

    `optimizer`: DeepSpeed's, ZeRO 1 to 3, as it has just begun.
    """
    by_parameter = "fp32_flat_groups" in shards[0]
    weights, state = ("fp32_flat_groups", "optimizer_state_dict") if by_parameter else _BY_ROWS

    def again(flats: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        if by_parameter:
            groups = [[parameter.ds_numel for parameter in group] for group in optimizer.fp16_groups]
            return cut_parameters(flats, groups=groups, world=world)
        found = []
        for number, (size, total) in enumerate(_rows(optimizer)):
            found.append(cut_rows([of_worker[number] for of_worker in flats], size=size, total=total, world=world))
        return found

    own: dict[str, Any] = optimizer.state_dict()
    own[weights] = again([shard[weights] for shard in shards])
    old = [shard[state]["state"] for shard in shards]  # of each worker: what Adam remembers, by group
    for name, value in old[0][0].items():
        cut_up = value.dim() > 0  # and the number of steps is everybody's
        again_by_group = again([[of[g][name] for g in sorted(of)] for of in old]) if cut_up else None
        for g in range(len(own[weights])):
            remembered = own[state]["state"].setdefault(g, {})
            remembered[name] = again_by_group[g] if again_by_group else value.clone()
    return own


_BY_ROWS = ("single_partition_of_fp32_groups", "base_optimizer_state")


def _rows(optimizer: Any) -> list[tuple[int, int]]:
    """Of each group under ZeRO 1 and 2: how many values a worker holds, filled up, and how many there are in all."""
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    totals = [sum(parameter.numel() for parameter in group) for group in groups]
    held = [group["params"][0].numel() for group in optimizer.param_groups]
    return list(zip(held, totals, strict=True))
