"""Matrices of transitions as heat maps, with their states in the order of the macro-strategies.

Matrices (K, K) with support, errors and bands enter; a `Square` leaves.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mralign.report.blocks import Square

ENDS = ("<start>", "<stop>")
UNGROUPED = "other"


@dataclass(frozen=True)
class GroupedStates:
    """States in the order in which maps show them: the start, macro-strategy by macro-strategy, the stop.

    `order`: place of each in the matrix as it was read.
    """

    states: tuple[str, ...]
    groups: tuple[str, ...]
    order: tuple[int, ...]


def grouped(states: Sequence[str], *, macro: Mapping[str, str]) -> GroupedStates:
    """The states, those of one macro-strategy side by side, else in their own order; ends have the group ``."""
    named = [macro.get(state, UNGROUPED) if state not in ENDS else "" for state in states]
    wanted = list(dict.fromkeys(name for name in named if name))

    def rank(place: int) -> tuple[int, int]:
        state = states[place]
        if state in ENDS:
            return (-1, place) if state == ENDS[0] else (len(wanted), place)
        return wanted.index(named[place]), place

    order = tuple(sorted(range(len(states)), key=rank))
    return GroupedStates(tuple(states[i] for i in order), tuple(named[i] for i in order), order)


def square(
    values_KK: np.ndarray,
    *,
    support_KK: np.ndarray,
    shown: GroupedStates,
    title: str,
    scale: str,
    bounds: tuple[float, float] | None = None,
    errors_KK: np.ndarray | None = None,
    bands_KK: np.ndarray | None = None,
) -> Square:
    """A heat map of a matrix whose rows and columns stand as it was read; numbers to four significant digits."""
    place = np.ix_(shown.order, shown.order)
    return Square(
        title,
        shown.states,
        shown.groups,
        _rounded(values_KK[place]),
        _rounded(support_KK[place]),
        None if errors_KK is None else _rounded(errors_KK[place]),
        None if bands_KK is None else bands_KK[place].tolist(),
        scale,
        bounds,
    )


def _rounded(values_KK: np.ndarray) -> list[list[float | None]]:
    return [list(map(_to_four_digits, row)) for row in values_KK.tolist()]


def _to_four_digits(value: float) -> float | None:
    return float(f"{value:.4g}") if math.isfinite(value) else None
