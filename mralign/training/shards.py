"""What ZeRO has cut up among workers, cut anew for another number of them.

The optimizer's shards of all the old workers enter; the shard that this worker would have written itself leaves, to be
loaded as if it had. No value changes, only who holds it. A row of values is cut into equal pieces, the last one filled
up with zeros: under ZeRO 1 and 2 a row is all that is trained, end to end; under ZeRO 3 each parameter is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
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
    held = [ceil(size / len(flats)) for size in chain.from_iterable(groups)]  # by parameter: what an old worker had
    rows = zip(*(_in_turn(of_worker, sizes=held) for of_worker in flats), strict=True)
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
    weights, state, again = _OF_PARAMETERS if _OF_PARAMETERS[0] in shards[0] else _OF_ROWS
    own: dict[str, Any] = optimizer.state_dict()
    own[weights] = again(optimizer, [shard[weights] for shard in shards], world=world)
    remembered = [shard[state]["state"] for shard in shards]  # by worker: what Adam keeps, by group and name
    kept: dict[int, dict[str, Tensor]] = {group: {} for group in range(len(own[weights]))}
    for name, value in remembered[0][0].items():
        if value.dim():
            values = again(optimizer, [_by_group(of_worker, name) for of_worker in remembered], world=world)
        else:  # the number of steps, which is everybody's
            values = [value.clone() for _ in kept]
        for group, its_value in enumerate(values):
            kept[group][name] = its_value
    own[state]["state"] = kept
    return own


def _by_group(of_worker: Mapping[int, Mapping[str, Tensor]], name: str) -> list[Tensor]:
    return [of_worker[group][name] for group in sorted(of_worker)]


def _parameters_again(optimizer: Any, flats: Sequence[Sequence[Tensor]], *, world: World) -> list[Tensor]:
    groups = [_sizes(group) for group in optimizer.fp16_groups]
    return cut_parameters(flats, groups=groups, world=world)


def _sizes(group: Sequence[Any]) -> list[int]:
    return [parameter.ds_numel for parameter in group]


def _rows_again(optimizer: Any, flats: Sequence[Sequence[Tensor]], *, world: World) -> list[Tensor]:
    groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
    found = []
    for number, (group, held) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        total = sum(parameter.numel() for parameter in group)
        size = held["params"][0].numel()  # filled up
        found.append(cut_rows([of_worker[number] for of_worker in flats], size=size, total=total, world=world))
    return found


# DeepSpeed's names of the weights in float32 and of what Adam keeps, and how both are cut anew.
_OF_PARAMETERS = ("fp32_flat_groups", "optimizer_state_dict", _parameters_again)
_OF_ROWS = ("single_partition_of_fp32_groups", "base_optimizer_state", _rows_again)
