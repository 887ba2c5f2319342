"""Pictures of a run, drawn as SVG text by hand.

Numbers and labels enter, `<svg>` strings leave: they scale, they carry a tooltip on every mark, they take their fonts
from the page, and no plotting library has to build a font cache before the last line of a run. Every text is escaped.

Axes: K states of the chain (row: from, column: to), N points of a line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import chain

import numpy as np

INK, MUTED, GRID, EMPTY = "#22303c", "#6b7885", "#e7e5df", "#f4f3ef"
TEAL, RUST, SLATE = "#0f766e", "#c2571a", "#8796a5"
TONE = {1: TEAL, -1: RUST, 0: SLATE, None: SLATE}
_WHITE, _DEEP = (255, 255, 255), (11, 92, 98)
_MORE, _LESS = (15, 118, 110), (194, 87, 26)
_CHARACTER = 6.3  # width of a character of 11 px text
_FRAMES = {
    "none": "",
    "high": f' stroke="{INK}" stroke-width="1.5"',
    "low": f' stroke="{INK}" stroke-width="1.5" stroke-dasharray="3 2"',
}


def bars(rows: Sequence[tuple[str, float, str, str]], *, title: str, top: float | None = None) -> str:
    """Horizontal bars: (label, value, text at the end, colour) each; a full bar is `top`, else the largest value."""
    top = top or max((value for _, value, _, _ in rows), default=0) or 1
    left = _margin([label for label, _, _, _ in rows])
    width, height = left + 320, 24 * len(rows) + 6
    marks = []
    for place, (label, value, text, colour) in enumerate(rows):
        y, length = 24 * place + 4, 250 * value / top
        marks.append(_text(left - 8, y + 12, label, anchor="end"))
        marks.append(_rect(left, y, max(length, 1), 16, colour, tip=f"{label}: {text}", radius=2))
        marks.append(_text(left + length + 6, y + 12, text, colour=MUTED))
    return _svg(width, height, marks, title=title)


def intervals(rows: Sequence[tuple[str, float, float, float]], *, title: str, quiet: str = "") -> str:
    """Points with their intervals on one axis of percent: (label, share, low, high) each.

    Labels that begin with `quiet` stand back in grey.
    """
    low, high = min(row[2] for row in rows), max(row[3] for row in rows)
    ticks = nice_ticks(100 * low, 100 * high)
    left, span = _margin([row[0] for row in rows]), 330
    start, end = min(ticks[0], 100 * low), max(ticks[-1], 100 * high)
    height = 30 * len(rows) + 30

    def x(share: float) -> float:
        return left + span * (100 * share - start) / ((end - start) or 1)

    marks = [_line(x(t / 100), 4, x(t / 100), height - 22, GRID) for t in ticks]
    marks += [_text(x(t / 100), height - 7, f"{t:g}", anchor="middle", colour=MUTED) for t in ticks]
    for place, (label, share, below, above) in enumerate(rows):
        y, colour = 30 * place + 19, SLATE if quiet and label.startswith(quiet) else TEAL
        tip = f"{label}: {100 * share:.2f} [{100 * below:.2f}, {100 * above:.2f}]"
        marks.append(_text(left - 8, y + 4, label, anchor="end"))
        marks.append(_line(x(below), y, x(above), y, colour, width=2.5))
        marks.append(_circle(x(share), y, 5, colour, tip=tip))
    return _svg(left + span + 24, height, marks, title=title)


def heat_map(
    values_KK: np.ndarray,
    *,
    support_KK: np.ndarray,
    states: Sequence[str],
    title: str,
    bounds: tuple[float, float] | None,
    ratios: bool = True,
    errors_KK: np.ndarray | None = None,
    bands_KK: np.ndarray | None = None,
) -> str:
    """A square of cells, one a transition; nan cells stay empty.

    `bounds` None: shares in [0, 1], dark for much, on a square-root scale. Else log2 ratios between the bounds, or
    without `ratios` plain differences: teal above 0, rust below. The tooltip names the transition, its value, its
    support and, where it is a number, its standard error. `bands_KK` (str): cells of the band `high` get a solid frame,
    those of `low` a dashed one.
    """
    cell, left = 20, _margin(states)
    marks = []
    for row, source in enumerate(states):
        marks.append(_text(left - 6, left + cell * row + 14, source, anchor="end"))
        marks.append(_text(left + cell * row + 14, left - 6, source, turn=True))
        for column, target in enumerate(states):
            value = float(values_KK[row, column])
            error = math.nan if errors_KK is None else float(errors_KK[row, column])
            colour = _cell_colour(value, bounds=bounds)
            shown = _in_words(value, error=error, bounds=bounds, ratios=ratios)
            tip = f"{source} → {target}: {shown} (support {support_KK[row, column]:.1f})"
            frame = _FRAMES["none" if bands_KK is None else str(bands_KK[row, column])]
            place = (left + cell * column, left + cell * row)
            marks.append(_rect(*place, cell - 1, cell - 1, colour, tip=tip, frame=frame))
    side = left + cell * len(states)
    return _svg(side + 4, side + 34, [*marks, *_key(left, side + 12, bounds=bounds, ratios=ratios)], title=title)


def _cell_colour(value: float, *, bounds: tuple[float, float] | None) -> str:
    if math.isnan(value):
        return EMPTY
    return shade(value) if bounds is None else diverging(value, bounds=bounds)


def _in_words(value: float, *, error: float, bounds: tuple[float, float] | None, ratios: bool) -> str:
    if math.isnan(value):
        return "too rare"
    if bounds is None:
        text = f"{value:.3f}"
    elif ratios:
        text = f"× {2**value:.2f}"
    else:
        text = f"{value:+.3f}".replace("-", "−")
    return text if math.isnan(error) else f"{text} ± {error:.2g}"


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float], str]], *, title: str) -> str:
    """Lines over optimizer steps: name -> (steps (N,), values (N,), colour). What is not finite is left out."""
    points: dict[str, list[tuple[float, float]]] = {}
    for name, (xs, ys, _) in series.items():
        points[name] = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
    everything = list(chain.from_iterable(points.values()))
    if not everything:
        return ""
    all_x, all_y = zip(*everything, strict=True)
    x_low, x_high = min(all_x), max(all_x)
    x_ticks = [tick for tick in nice_ticks(x_low, x_high) if tick == int(tick)]
    y_ticks = nice_ticks(min(all_y), max(all_y))
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return 58 + 372 * (x - x_low) / ((x_high - x_low) or 1), 178 - 146 * (y - y_low) / ((y_high - y_low) or 1)

    marks = []
    for tick in y_ticks:
        at = place(x_low, tick)[1]
        marks += [_line(58, at, 430, at, GRID), _text(52, at + 4, f"{tick:.4g}", anchor="end", colour=MUTED)]
    for tick in x_ticks:
        if x_low <= tick <= x_high:
            marks.append(_text(place(tick, y_low)[0], 196, f"{tick:g}", anchor="middle", colour=MUTED))
    offset = 58.0
    for name, (_, _, colour) in series.items():
        corners = [place(*point) for point in points[name]]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        marks.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(points[name]) == 1:
            marks.append(_circle(*place(*points[name][0]), 3, colour, tip=f"{name}: {points[name][0][1]:.4g}"))
        marks += [_rect(offset, 8, 10, 10, colour, radius=2), _text(offset + 15, 17, name)]
        offset += 30 + _CHARACTER * len(name)
    return _svg(440, 204, marks, title=title)


def histogram(series: Mapping[str, tuple[Sequence[int], float | None, str]], *, title: str) -> str:
    """Counts in equal bins of [0, 1), as percent of each series: name -> (counts, mean, colour), side by side in a bin.

    A dashed line stands at each mean. A series without counts is left out; empty if all are.
    """
    known = {name: found for name, found in series.items() if sum(found[0])}
    if not known:
        return ""
    shares: dict[str, list[float]] = {}
    for name, (counts, _, _) in known.items():
        total = sum(counts)
        shares[name] = [100 * count / total for count in counts]
    ticks = nice_ticks(0.0, max(map(max, shares.values())))
    place = lambda x, y: (46 + 384 * x, 178 - 146 * y / ticks[-1])  # noqa: E731
    marks = []
    for tick in ticks:
        at = place(0, tick)[1]
        marks += [_line(46, at, 430, at, GRID), _text(40, at + 4, f"{tick:g}", anchor="end", colour=MUTED)]
    marks += [_text(place(x, 0)[0], 196, f"{x:g}", anchor="middle", colour=MUTED) for x in (0, 0.25, 0.5, 0.75, 1)]
    offset = 46.0
    for number, (name, (counts, _, colour)) in enumerate(known.items()):
        wide = 384 / len(counts)
        each = (wide - 2) / len(known)
        for bin_number, (n, share) in enumerate(zip(counts, shares[name], strict=True)):
            if not n:
                continue
            top = place(0, share)[1]
            start, end = bin_number / len(counts), (bin_number + 1) / len(counts)
            tip = f"{name}, {start:.2f} to {end:.2f}: {n} of {sum(counts)}"
            marks.append(_rect(46 + wide * bin_number + 1 + each * number, top, each, 178 - top, colour, tip=tip))
        label = f"{name} (n {sum(counts)})"
        marks += [_rect(offset, 8, 10, 10, colour, radius=2), _text(offset + 15, 17, label)]
        offset += 30 + _CHARACTER * len(label)
    for _, mean, colour in known.values():  # above all bars
        if mean is not None:
            marks.append(_line(place(mean, 0)[0], 32, place(mean, 0)[0], 178, colour, dashed=True))
    return _svg(440, 204, marks, title=title)


def nice_ticks(low: float, high: float, *, about: int = 5) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`."""
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / about))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if span / (f * power) <= about)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def shade(share: float) -> str:
    """White for 0, deep for 1, by the square root: rare transitions stay visible."""
    return _mixed(_WHITE, _DEEP, share=math.sqrt(min(max(share, 0.0), 1.0)))


def diverging(log_ratio: float, *, bounds: tuple[float, float], depth: float = 0.85) -> str:
    """White for 0, teal towards the upper bound, rust towards the lower one, `depth` of the full colour at a bound."""
    bound, colour = (bounds[1], _MORE) if log_ratio > 0 else (bounds[0], _LESS)
    share = min(log_ratio / bound, 1.0) if bound * log_ratio > 0 else 0.0
    return _mixed(_WHITE, colour, share=depth * share)


def _key(x: float, y: float, *, bounds: tuple[float, float] | None, ratios: bool) -> list[str]:
    """The colour scale under a heat map."""
    if bounds is None:
        stops = [(f"{share:g}", shade(share)) for share in (0.01, 0.1, 0.25, 0.5, 1)]
    else:
        logs = (bounds[0], bounds[0] / 2, 0.0, bounds[1] / 2, bounds[1])
        words = [f"× {2**log:.2g}" if ratios else f"{log:+.2g}".replace("-", "−") for log in logs]
        stops = [(word, diverging(log, bounds=bounds)) for word, log in zip(words, logs, strict=True)]
    marks = []
    for place, (label, colour) in enumerate(stops):
        marks.append(_rect(x + 64 * place, y, 12, 12, colour, border=True))
        marks.append(_text(x + 64 * place + 17, y + 10, label, colour=MUTED))
    return marks


def _mixed(start: tuple[int, int, int], end: tuple[int, int, int], *, share: float) -> str:
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(start, end, strict=True))


def _margin(labels: Sequence[str]) -> float:
    return round(14 + _CHARACTER * max((len(label) for label in labels), default=0))


def _svg(width: float, height: float, marks: Sequence[str], *, title: str) -> str:
    head = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width:.0f}px" role="img"'
    return f'{head} aria-label="{escape(title)}">{"".join(marks)}</svg>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK, turn: bool = False) -> str:
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turn else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{turned}>{escape(text)}</text>'


def _rect(
    x: float,
    y: float,
    width: float,
    height: float,
    colour: str,
    *,
    tip: str = "",
    radius: int = 0,
    border: bool = False,
    frame: str = "",
) -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    extra = (f' rx="{radius}"' if radius else "") + (f' stroke="{GRID}"' if border else frame)
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{colour}"{extra}>{inside}</rect>'


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, dashed: bool = False) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{dashes}/>'


def _circle(x: float, y: float, radius: float, colour: str, *, tip: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{escape(tip)}</title></circle>'
