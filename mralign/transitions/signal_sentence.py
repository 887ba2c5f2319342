"""What the figures of the signal check mean, in one sentence, by a rule that does not depend on who reads them.

A `Signal` enters, a verdict and a sentence leave. The rule, in this order:
 1. Without two questions of either polarity nothing can be said.
 2. An AUC that permuted polarities reach as well, or whose interval holds .5, is not told from chance; that is final
    only where the interval ends below `USEFUL`.
 3. One that is not above the AUC of the length of the thought says no more than the length does.
 4. One that is not above the AUC of label frequencies, or that the same labels in random order reach, owes nothing to
    their order. Both are asked: a matrix of transitions pays for its many entries, so that labels in random order do
    worse than their frequencies alone.
A sentence never stops a run: it is what the figures are worth, told before the training is paid for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from mralign.transitions.signal import LEVEL
from mralign.transitions.signal_result import Signal

USEFUL = 0.6  # a held-out AUC below it can hardly carry a gain


class SignalVerdict(StrEnum):
    """What transitions are worth."""

    NOTHING = "nothing"  # too little to compute anything
    UNSURE = "unsure"
    CHANCE = "chance"
    LENGTH = "length"
    FREQUENCIES = "frequencies"
    ORDER = "order"


_ENDINGS = {
    SignalVerdict.UNSURE: "not told from chance, but a signal may be hidden by the small number: annotate more "
    "trajectories before you pay for a training",
    SignalVerdict.CHANCE: "not told from chance: expect no gain over KTO",
    SignalVerdict.LENGTH: "no better than the length of the thought{length}: expect no gain over KTO",
    SignalVerdict.FREQUENCIES: "better than the length of the thought{length}, but no better than labels without their "
    "order{frequencies}: a gain over KTO would come from which strategies occur, not from what follows what",
    SignalVerdict.ORDER: "better than the length of the thought{length} and than labels without their "
    "order{frequencies}: transitions carry a signal, a gain over KTO is possible",
}


def verdict_of(signal: Signal) -> SignalVerdict:
    """The verdict, by the rule above."""
    if signal.null is None or signal.shuffled is None or signal.over_length is None or signal.over_frequencies is None:
        return SignalVerdict.NOTHING
    found = signal.auc["transitions"]
    if signal.null.p > LEVEL or found.low <= 0.5:
        return SignalVerdict.UNSURE if found.high >= USEFUL else SignalVerdict.CHANCE
    if signal.over_length.low <= 0:
        return SignalVerdict.LENGTH
    ordered = signal.over_frequencies.low > 0 and signal.shuffled.p <= LEVEL
    return SignalVerdict.ORDER if ordered else SignalVerdict.FREQUENCIES


def sentence_of(signal: Signal) -> str:
    """The verdict as a sentence, with the figures that it rests on."""
    questions = f"With {signal.questions['positive']} positive and {signal.questions['negative']} negative questions"
    verdict = verdict_of(signal)
    if verdict is SignalVerdict.NOTHING or signal.noise is None or signal.shuffled is None:
        return f"{questions}, nothing can be said of the signal: at least 2 of each are needed."
    found = signal.auc["transitions"]
    given = {
        "length": f" ({figure(signal.auc[signal.length].value)} by {signal.length})",
        "frequencies": f" ({figure(signal.auc['frequencies'].value)} by frequencies, {figure(signal.shuffled.mean)} "
        "in random order)",
    }
    noise = f"{signal.noise.not_told} of {signal.noise.edges} weights cannot be told from 1"
    held_out = f"held-out AUC {figure(found.value)} ({figure(found.low)} to {figure(found.high)})"
    return f"{questions}, {noise}; {held_out}, {_ENDINGS[verdict].format(**given)}."


def record_of(signal: Signal) -> dict[str, Any]:
    """The signal, its verdict and its sentence as JSON."""
    return asdict(signal) | {"verdict": verdict_of(signal).value, "sentence": sentence_of(signal)}


_ROWS = {
    "transitions": "transitions, mean",
    "transitions_sum": "transitions, sum",
    "frequencies": "label frequencies",
    "segments": "thought length, segments",
    "tokens": "thought length, tokens",
}
_RANDOM_ROWS = (
    ("shuffled", "labels in random order", "shuffles"),
    ("null", "polarity permuted", "permutations"),
)


def rows_of(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of each score its title, its AUC, and its interval or what chance gives; empty where nothing was computed."""
    rows = [(title, *_row(record["auc"][name])) for name, title in _ROWS.items() if name in record["auc"]]
    return [*rows, *(_random_row(record[name], title=title, unit=unit) for name, title, unit in _RANDOM_ROWS if rows)]


def weights_of(record: Mapping[str, Any]) -> str:
    """What of the weights is noise, as a clause."""
    noise = record["noise"]
    return (
        f"{noise['edges']} edges, {noise['not_told']} cannot be told from 1; the others carry "
        f"{noise['told_share']:.0%} of what the weights change; effective number of edges {noise['effective']:.1f}"
    )


def table_of(record: Mapping[str, Any]) -> str:
    """The record of a signal as lines for a terminal; the sentence is the last one."""
    sentence = str(record["sentence"])
    rows = rows_of(record)
    if not rows:
        return sentence
    lines = [f"{title:<26} {auc:>4}  {interval}" for title, auc, interval in rows]
    weights = f"weights: {weights_of(record)}"
    return "\n".join([f"{'held-out AUC of':<26} AUC   95 %", *lines, "", weights, "", sentence])


def _random_row(random: Mapping[str, Any], *, title: str, unit: str) -> tuple[str, str, str]:
    auc, interval = _row({**random, "value": random["mean"]})
    return title, auc, f"{interval}   p = {random['p']:.3f} of {random['draws']} {unit}"


def _row(found: Mapping[str, float]) -> tuple[str, str]:
    return figure(found["value"]), f"{figure(found['low']):>4} to {figure(found['high']):>4}"


def figure(value: float) -> str:
    """Two decimals, without the 0 before the point: .53, 1.00, -.04."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"
