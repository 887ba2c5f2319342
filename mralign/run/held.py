"""What a driver holds of the cluster from one stage to the next, such as engines that take long to start.

Workers that are held, and the function that gives them back, enter. They are given back before a stage that needs the
room, and when the outermost `holding` ends; outside of `holding` nothing may be held.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from mralign.run.node_rehearsal import needs_rehearsal
from mralign.run.placement import SHORT_TASKS, Workers, alive_nodes
from mralign.run.room import shortages


@dataclass(frozen=True)
class Held:
    """Equal workers that stand idle between two stages.

    `alone`: they fill the memory of their machine, so that no other workers may start beside them.
    """

    workers: Workers
    give_back: Callable[[], None]
    alone: bool = False


_held: list[Held] = []
_rehearsed: set[Hashable] = set()
_depth = 0


@contextmanager
def holding() -> Iterator[None]:
    """Allow stages to hold workers until the block ends. Blocks may stand in each other: the outermost counts."""
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if not _depth:
            give_all_back()
            _rehearsed.clear()


def may_hold() -> bool:
    """Whether this is inside a `holding` block."""
    return _depth > 0


def hold(held: Held) -> None:
    """Hold workers until a stage needs their room or the outermost block ends."""
    assert may_hold()
    _held.append(held)


def give_back(held: Held) -> None:
    """Give one back, unless that has been done."""
    if held in _held:
        _held.remove(held)
        held.give_back()


def give_all_back() -> None:
    """Give back everything that is held."""
    for one in tuple(_held):
        give_back(one)


def not_held(workers: Sequence[Workers]) -> list[Workers]:
    """Those of a stage's workers that are not held already."""
    mine = [one.workers for one in _held]
    return [one for one in workers if one not in mine]


def make_room(workers: Sequence[Workers]) -> None:
    """Give back what a stage with these `workers` leaves no room for; held workers that are among them are its own."""
    for one in tuple(_held):
        if one.workers not in workers and not _fits_beside(one, workers):
            give_back(one)


def _fits_beside(held: Held, workers: Sequence[Workers]) -> bool:
    if not workers:
        return not shortages([held.workers, SHORT_TASKS], nodes=alive_nodes())
    nodes = alive_nodes()
    if held.alone or any(one.elastic for one in workers):
        return False
    if len(nodes) > 1:  # the totals of several nodes do not say whether one of them has the room
        return False
    everything = [*workers, *(one.workers for one in _held if one.workers not in workers)]
    return not shortages(everything, nodes=nodes)


def rehearse_once(key: Hashable, rehearse: Callable[[], bool], *, workers: Sequence[Workers]) -> bool:
    """`rehearse()`, unless it has returned True for this key before in this block.

    A rehearsal asks a worker of the stage's size, which would wait for the room of what is held: that is given back.
    """
    if key in _rehearsed:
        return True
    if needs_rehearsal(workers):
        give_all_back()
    passed = rehearse()
    if passed and may_hold():
        _rehearsed.add(key)
    return passed
