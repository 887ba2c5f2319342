"""Times, rates, counts and money as a person reads them, for tables and lines on a terminal."""

from __future__ import annotations

from mralign.cli.progress import RunProgress, StageProgress, TimeLeft

_SHOWN_FIGURES = ("loss", "reward_chosen", "reward_rejected", "margin", "z0")


def duration(seconds: float) -> str:
    """under 1 s, 12 s, 3 min 05 s, 2 h 07 min, 3 d 04 h."""
    whole = round(seconds)
    if whole < 1:
        return "under 1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02} h"


def rate(a_second: float, *, unit: str) -> str:
    """12 rows/s, 1.5 rows/s, 20 rows/min."""
    if a_second >= 10:
        return f"{a_second:,.0f} {unit}/s"
    if a_second >= 1:
        return f"{a_second:.1f} {unit}/s"
    return f"{60 * a_second:.1f} {unit}/min"


def count(done: int, total: int | None) -> str:
    """1,200 of 3,000."""
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


def money(amount: float, *, currency: str) -> str:
    """USD 0.0031, USD 12.40: two digits after the point, more for less than one."""
    digits = 2 if amount >= 1 or amount == 0 else 4
    return f"{currency} {amount:,.{digits}f}".strip()


def spent(progress: RunProgress) -> list[str]:
    """What the endpoints of a run have cost, and what they will, by currency; empty where none is paid."""
    parts = []
    for currency, (so_far, expected) in progress.money().items():
        parts.append(f"{money(so_far, currency=currency)} spent")
        if expected is not None and expected > so_far:
            parts.append(f"about {money(expected, currency=currency)} forecast")
    return parts


def time_left(left: TimeLeft | None) -> str:
    """about 4 min 05 s; at least 4 min 05 s."""
    if left is None:
        return ""
    return f"{'about' if left.whole else 'at least'} {duration(left.seconds)}"


def training_figures(stage: StageProgress) -> list[str]:
    """Loss and rewards of the last optimizer step, each with its name."""
    shown = [name for name in _SHOWN_FIGURES if name in stage.figures]
    return [f"{name.replace('_', ' ')} {stage.figures[name]:.3f}" for name in shown]
