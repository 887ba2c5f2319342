"""A labeller of one's own in a run: how far it agreed with its panel, whom the panel was asked about, and the money.

The figures of the stage `annotation` enter, blocks of the page leave. Intervals are of questions that the labeller had
not seen when it was learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mralign.report.blocks import Block, Facts, Grid
from mralign.report.wording import DASH, figure, number, percent

_HEAD = ("Labeller", "Learned from", "Pair", "Strict %", "Entail %", "κ strict", "κ entail", "ℓ1 %", "Δ log w")
_NOTE = (
    "As mralign distill has written it, with 95 % intervals over questions. Δ log w: the mean change of a step's "
    "log-weight if the labeller's matrices take the place of the panel's."
)


def labeller_blocks(written: Mapping[str, Any]) -> list[Block]:
    """Nothing where no labeller took part."""
    blocks: list[Block] = []
    rows: list[tuple[str, ...]] = []
    for name, found in written.get("labellers", {}).items():
        rows += _rows(name, found=found)
    if rows:
        blocks.append(Grid("Labellers, on questions held out", _HEAD, rows, _NOTE))
    if "cascade" in written:
        blocks.append(Facts("Cascade", _cascade(written["cascade"], annotators=written.get("annotators", {}))))
    return blocks


def _rows(name: str, *, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The labeller beside its panel, and the panel's annotators beside one another."""
    rows = []
    for place, entry in enumerate(found["agreement"]):
        whose = (name, number(found["trajectories"])) if place == 0 else ("", "")
        shares = [_share(entry[key]) for key in ("strict", "entail")]
        kappas = [_decimals(entry[key]) for key in ("kappa_strict", "kappa_entail")]
        change = _decimals(found["weight_change"]) if place == 0 else ""
        rows.append((*whose, " – ".join(entry["pair"]), *shares, *kappas, _share(entry["mean_l1"], digits=2), change))
    return rows


def _share(interval: Sequence[float] | None, *, digits: int = 1) -> str:
    if interval is None:
        return DASH
    value, low, high = (percent(part, digits=digits) for part in interval)
    return f"{value} [{low}, {high}]"


def _decimals(interval: Sequence[float] | None) -> str:
    if interval is None:
        return DASH
    value, low, high = (f"{part:.3f}".replace("-", "−") for part in interval)
    return f"{value} [{low}, {high}]"


def _cascade(found: Mapping[str, int], *, annotators: Mapping[str, Mapping[str, float]]) -> list[tuple[str, str]]:
    asked, of = found["asked"], found["asked"] + found["left"]
    money = sum(counts.get("money", 0.0) for counts in annotators.values())
    facts = [
        ("Trajectories that the panel was asked about", f"{number(asked)} of {number(of)}, {percent(asked / of)} %")
    ]
    facts.append(("Money for the panel's replies", figure(money)))
    if asked:
        facts.append(("About all of them it would be, at the same price", figure(money * of / asked)))
    return facts
