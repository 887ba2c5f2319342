"""The few words that rows of every room share: modes, polarities, ids.

They are spelled here and nowhere else. The members are strings and integers too, so that they can stand in tables, in
NumPy comparisons and in JSON as what they are.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Mode(StrEnum):
    """Whether a model was asked to think. In this order, wherever both modes are gone through."""

    ON = "on"
    OFF = "off"


class Polarity(IntEnum):
    """What thinking did to the answers of a question (docs/method.md, section 1)."""

    POSITIVE = 1  # right in every draw with thinking, wrong in every draw without
    NEGATIVE = -1  # the other way round
    NEUTRAL = 0  # neither: its trajectories count in P only


SIGNED = (Polarity.POSITIVE, Polarity.NEGATIVE)  # those that have a matrix of their own, and weights


def row_id_of(question_id: str, *, mode: Mode, draw: int) -> str:
    """The id of one draw, by which every later table names it: question_id/mode/draw."""
    return f"{question_id}/{mode}/{draw}"


def question_of(row_id: str) -> str:
    """The question_id in the row_id of a draw. A question_id may itself hold slashes."""
    return row_id.rsplit("/", 2)[0]


def turn_mode(turn: str) -> str:
    """The mode of a row of a later turn of Self-Refine, which always thinks: `on/revise-1` for the turn `revise-1`."""
    return f"{Mode.ON}/{turn}"


def thinking_mode(mode: str) -> Mode:
    """The mode of a row, whatever its turn: `on` for `on/revise-1`."""
    return Mode(mode.partition("/")[0])


def turn_of_mode(mode: str) -> str:
    """The turn of a row by its mode: `revise-1` for `on/revise-1`, the empty text for a first answer."""
    return mode.partition("/")[2]
