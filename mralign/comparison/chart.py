"""Figures of a study as SVG, drawn by hand: points with intervals, a panel for each thing that is varied.

Panels of series enter, the text of one picture leaves. Every text is escaped; a point tells its numbers when the mouse
rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain

_INK, _MUTED, _LINE = "#22303c", "#6b7885", "#d8dde2"
COLOURS = ("#1b6ca8", "#d1495b", "#3d8b5f", "#8a5fb0", "#c98a1b", "#5a6570")
_WIDE, _HIGH, _LEFT, _TOP, _BELOW = 250, 150, 52, 46, 40
_COLUMNS = 3


@dataclass(frozen=True)
class Dot:
    """A value with its interval; nan where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Panel:
    """One small picture: names along the bottom, and for each series a dot above each name (or none)."""

    title: str
    names: tuple[str, ...]
    series: dict[str, tuple[Dot | None, ...]]


def draw(panels: Sequence[Panel], *, title: str, zero: bool) -> str:
    """All panels on one scale, three a row. `zero`: with a line at 0."""
    low, high = _bounds(panels, zero=zero)
    names = list(dict.fromkeys(chain.from_iterable(panel.series for panel in panels)))
    rows = math.ceil(len(panels) / _COLUMNS)
    width = min(len(panels), _COLUMNS) * (_WIDE + _LEFT) + 20
    height = rows * (_HIGH + _TOP + _BELOW) + 40
    marks = [_legend(names)]
    for place, panel in enumerate(panels):
        x = _LEFT + (place % _COLUMNS) * (_WIDE + _LEFT)
        y = 24 + _TOP + (place // _COLUMNS) * (_HIGH + _TOP + _BELOW)
        marks.append(_panel(panel, names=names, low=low, high=high, x=x, y=y, zero=zero))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    paper = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    inner = f"<title>{escape(title)}</title>{paper}{''.join(marks)}"
    return f'{head} font-family="sans-serif" font-size="11">{inner}</svg>\n'


def _bounds(panels: Sequence[Panel], *, zero: bool) -> tuple[float, float]:
    """The common scale: all values, and intervals as far as twice the spread of the values."""
    values = [0.0] if zero else []
    for panel in panels:
        dots = chain.from_iterable(panel.series.values())
        values += [dot.value for dot in dots if dot is not None]
    spread = max(max(values) - min(values), 0.02)
    return min(values) - 0.5 * spread, max(values) + 0.5 * spread


def _legend(names: Sequence[str]) -> str:
    marks = []
    for place, name in enumerate(names):
        x = _LEFT + 190 * place
        marks.append(f'<circle cx="{x}" cy="18" r="4" fill="{COLOURS[place % len(COLOURS)]}"/>')
        marks.append(f'<text x="{x + 9}" y="22" fill="{_INK}">{escape(name)}</text>')
    return "".join(marks)


def _panel(panel: Panel, *, names: Sequence[str], low: float, high: float, x: int, y: int, zero: bool) -> str:
    def up(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return y + _HIGH * (1 - share)

    marks = [f'<text x="{x}" y="{y - 8}" fill="{_INK}" font-weight="bold">{escape(panel.title)}</text>']
    marks.append(f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" fill="none" stroke="{_LINE}"/>')
    for value in ([0.0] if zero else []) + [low + (high - low) * share for share in (0.1, 0.5, 0.9)]:
        dash = "" if value == 0.0 else ' stroke-dasharray="2 3"'
        at = up(value)
        marks.append(f'<line x1="{x}" x2="{x + _WIDE}" y1="{at:.1f}" y2="{at:.1f}" stroke="{_LINE}"{dash}/>')
        marks.append(f'<text x="{x - 4}" y="{at + 4:.1f}" fill="{_MUTED}" text-anchor="end">{value:.2f}</text>')
    step = _WIDE / len(panel.names)
    for place, name in enumerate(panel.names):
        middle = x + step * (place + 0.5)
        where = f'x="{middle:.1f}" y="{y + _HIGH + 15}"'
        marks.append(f'<text {where} fill="{_MUTED}" text-anchor="middle">{escape(name)}</text>')
    for series, dots in panel.series.items():
        own = names.index(series)
        shift = (own - (len(names) - 1) / 2) * min(12.0, step / (len(names) + 1))
        for place, dot in enumerate(dots):
            if dot is not None:
                marks.append(_dot(dot, x=x + step * (place + 0.5) + shift, up=up, own=own, tip=series))
    return "".join(marks)


def _dot(dot: Dot, *, x: float, up: Callable[[float], float], own: int, tip: str) -> str:
    colour = COLOURS[own % len(COLOURS)]
    told = f"{tip}: {dot.value:.3f} [{dot.low:.3f}, {dot.high:.3f}]"
    bar = ""
    if not math.isnan(dot.low):
        bar = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{up(dot.low):.1f}" y2="{up(dot.high):.1f}" stroke="{colour}"/>'
    place = f'cx="{x:.1f}" cy="{up(dot.value):.1f}" r="3.5"'
    return f'{bar}<circle {place} fill="{colour}"><title>{escape(told)}</title></circle>'
