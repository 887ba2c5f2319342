"""Numbers, funnels and counts become text.

Numbers as the stages wrote them enter, strings leave, for the page and for the terminal alike. Rates are shares in
[0, 1] when they enter and percent when they leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.rows import Polarity

DASH = "–"
_MILESTONES = {"verdict": "decided", "kept": "kept"}
RULES = ("equal", "intersection", "confident", "adjudicated", "unlabelled")


def percent(share: float | None, *, digits: int = 1) -> str:
    """A share as percent with one decimal, or `digits` of them; a dash for None."""
    return DASH if share is None else f"{100 * share:.{digits}f}"


def with_interval(share: float | None, interval: Sequence[float] | None) -> str:
    """34.1 [31.2, 37.0]."""
    if share is None or interval is None:
        return percent(share)
    return f"{percent(share)} [{percent(interval[0])}, {percent(interval[1])}]"


def number(value: float | None) -> str:
    """Thousands separated by thin spaces, one decimal where there is a fraction."""
    if value is None:
        return DASH
    return (
        f"{value:,.0f}".replace(",", "\u2009") if float(value).is_integer() else f"{value:,.1f}".replace(",", "\u2009")
    )


def figure(value: float) -> str:
    """Four significant digits, whole numbers in full."""
    return number(value) if float(value).is_integer() else f"{value:.4g}"


def signed(points: float) -> str:
    """+3.2 or −1.4."""
    return f"{points:+.1f}".replace("-", "−")


def duration(seconds: float) -> str:
    """12.3 s, 4 min 05 s, 2 h 07 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    return f"{minutes} min {round(seconds) % 60:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Plain text columns: the first is the widest text, all are left-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("   ".join(cells).rstrip())
    return "\n".join(lines)


def funnel_steps(funnel: Sequence[Mapping[str, Any]], *, dataset: str) -> list[tuple[str, int, int | None]]:
    """Bars (label, rows, polarity) of one data set: what entered, what was left by each filter that dropped something,
    what was decided and what was kept."""
    rows = [row for row in funnel if row["dataset"] == dataset]
    bars: list[tuple[str, int, int | None]] = [(f"{row['unit']} in", row["rows_in"], None) for row in rows[:1]]
    for row in rows:
        name, polarity = row["filter"].replace("_", " "), row["polarity"]
        if name in ("verdict", "kept"):
            bars.append((f"{polarity_name(polarity)}: {_MILESTONES[name]} {row['unit']}", row["rows_out"], polarity))
        elif row["rows_in"] != row["rows_out"]:
            side = "" if polarity is None else f"{polarity_name(polarity)}: "
            bars.append((f"{side}after {name}", row["rows_out"], polarity))
    return bars


def source_rows(funnel: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """(split, data set, records read, records put aside by reason, questions kept), one row a source."""
    rows = []
    for row in funnel:
        dropped = ", ".join(f"{reason} {n}" for reason, n in row["dropped"].items())
        rows.append((row["split"], row["dataset"], f"{row['records']}", dropped or DASH, f"{row['kept']}"))
    return rows


def funnel_text(funnel: Sequence[Mapping[str, Any]]) -> str:
    """The funnel of the candidates for a terminal: what was left by each filter that dropped something."""
    names = dict.fromkeys(row["dataset"] for row in funnel)
    rows = [(name, label, f"{n}") for name in names for label, n, _ in funnel_steps(funnel, dataset=name)]
    return aligned([("data set", "", "rows"), *rows])


def polarity_name(polarity: int | None) -> str:
    """positive, negative, neutral; a dash before the verdict."""
    return DASH if polarity is None else Polarity(polarity).name.lower()


def label_order(labels: Mapping[int, Mapping[str, int]]) -> list[str]:
    """All labels, the most frequent first, ties by name."""
    total: dict[str, int] = {}
    for counts in labels.values():
        for label, count in counts.items():
            total[label] = total.get(label, 0) + count
    return sorted(total, key=lambda label: (-total[label], label))


def rule_rows(rules: Mapping[str, int]) -> list[tuple[str, int, str]]:
    """(rule, steps, percent of all steps) in the order of method.md §2a."""
    total = sum(rules.values())
    names = [*RULES, *sorted(set(rules) - set(RULES))]
    return [(name, rules.get(name, 0), percent(rules.get(name, 0) / total if total else None)) for name in names]
