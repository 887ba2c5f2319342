"""What a page is made of: small frozen records that become JSON, and that the page draws.

Texts and numbers enter as they were read from a run; plain JSON documents leave. Nothing here knows a colour or a
pixel: a `tone` says what something is (`base`, `trained`, `positive`, ...) and the style sheet says how that looks.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Text:
    """A paragraph; a `quiet` one is a remark."""

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Cards:
    """Headline figures: (name, figure, note) each."""

    rows: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Listing:
    """A long text to look up, folded away."""

    title: str
    text: str


@dataclass(frozen=True)
class Grid:
    """A table: a row of titles, rows of cells; a `folded` one is opened by hand.

    `published`: which of the rows are a paper's and no result of this run.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    folded: bool = False
    published: Sequence[int] = ()


@dataclass(frozen=True)
class Bar:
    """One bar: its length, and the text at its end."""

    label: str
    value: float
    text: str
    tone: str


@dataclass(frozen=True)
class Bars:
    """Horizontal bars; a full one is `top`, or the largest value."""

    title: str
    rows: Sequence[Bar]
    top: float | None = None
    note: str = ""


@dataclass(frozen=True)
class MeasuredPoint:
    """A figure in percent with its interval; a published one has none."""

    label: str
    value: float
    low: float | None
    high: float | None
    tone: str


@dataclass(frozen=True)
class Intervals:
    """Points with their intervals on one axis of percent. `better`: higher | lower | neither."""

    title: str
    better: str
    rows: Sequence[MeasuredPoint]


@dataclass(frozen=True)
class Square:
    """A heat map of transitions, states grouped by macro-strategy; None is a transition too rare to tell.

    `scale`: share (0 to 1), ratio (log2 between `bounds`) or difference (between `bounds`). `bands`: high | low | none.
    """

    title: str
    states: Sequence[str]
    groups: Sequence[str]
    values: Sequence[Sequence[float | None]]
    support: Sequence[Sequence[float | None]]
    errors: Sequence[Sequence[float | None]] | None
    bands: Sequence[Sequence[str]] | None
    scale: str
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """A line: its points; what is not finite is None."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    tone: str


@dataclass(frozen=True)
class Curves:
    """Lines on common axes."""

    title: str
    x_title: str
    y_title: str
    series: Sequence[Series]


@dataclass(frozen=True)
class BinCounts:
    """Counts in equal bins of [0, 1), and their mean."""

    name: str
    counts: Sequence[int]
    mean: float | None
    tone: str


@dataclass(frozen=True)
class Histogram:
    """Counts of several kinds side by side, each as percent of its own."""

    title: str
    x_title: str
    series: Sequence[BinCounts]


@dataclass(frozen=True)
class Arc:
    """An edge of a graph of transitions and what became of it."""

    source: str
    target: str
    difference: float
    error: float | None
    support: float


@dataclass(frozen=True)
class Graph:
    """The strongest changes of transitions as arrows between states, grouped by macro-strategy."""

    title: str
    states: Sequence[str]
    groups: Sequence[str]
    edges: Sequence[Arc]


Block = Text | Cards | Facts | Listing | Grid | Bars | Intervals | Square | Curves | Histogram | Graph


@dataclass(frozen=True)
class Passage:
    """A part of a view: what it shows, or (`blocks` None) why it is left out."""

    anchor: str
    title: str
    blocks: Sequence[Block] | None
    absence: str = ""


@dataclass(frozen=True)
class View:
    """Sections under one heading of the navigation."""

    anchor: str
    title: str
    sections: Sequence[Passage]


def to_script(value: Any) -> str:
    """Records and plain values as JSON that may stand in a script element, in a script file and in any encoding.

    It is ASCII (lone surrogates and bidirectional marks are escapes), and it holds no character that HTML gives a
    meaning: neither `</script>` nor `<!--` can occur. What is not finite becomes null, a field that is empty is left
    out, and a block says its `kind`.
    """
    try:
        text = json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"))
    except ValueError:  # a number that is not finite somewhere
        text = json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """What JSON does not know as what it knows: a record as a mapping, an array as lists."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    assert is_dataclass(value), type(value)
    named = {name: inner for name, inner in vars(value).items() if not _is_empty(inner)}
    return {"kind": type(value).__name__.lower(), **named} if isinstance(value, Block) else named


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ("", (), [], {})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if value is None or isinstance(value, str | int):
        return value
    return _finite(_plain(value))
