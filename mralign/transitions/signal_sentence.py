"""What the figures of the signal check mean, in one sentence, by a rule that does not depend on who reads them.

A `Signal` enters, a verdict and a sentence leave. The rule, in this order:
 1. Without two questions of either polarity nothing can be said.
 2. An AUC that permuted polarities reach as well, or whose interval holds .5, is not told from chance; that is final
    only where the interval ends below `USEFUL`.
 3. One that is not above the AUC of the length of the thought says no more than the length does.
 4. One that the same labels in random order reach owes nothing to their order.
A sentence never stops a run: it is what the figures are worth, told before the training is paid for.
"""

from __future__ import annotations

from enum import StrEnum

from mralign.transitions.signal import LEVEL
from mralign.transitions.signal_result import Signal

USEFUL = 0.6  # a held-out AUC below it can hardly carry a gain


class Verdict(StrEnum):
    """What transitions are worth."""

    NOTHING = "nothing"  # too little to compute anything
    UNSURE = "unsure"
    CHANCE = "chance"
    LENGTH = "length"
    FREQUENCIES = "frequencies"
    ORDER = "order"


_ENDINGS = {
    Verdict.UNSURE: "not told from chance, but a signal may be hidden by the small number: annotate more trajectories "
    "before you pay for a training",
    Verdict.CHANCE: "not told from chance: expect no gain over KTO",
    Verdict.LENGTH: "no better than the length of the thought{length}: expect no gain over KTO",
    Verdict.FREQUENCIES: "better than the length of the thought{length}, but no better than the same labels in random "
    "order{shuffled}: a gain over KTO would come from which strategies occur, not from their order",
    Verdict.ORDER: "better than the length of the thought{length} and than the same labels in random order{shuffled}: "
    "transitions carry a signal, a gain over KTO is possible",
}


def verdict_of(signal: Signal) -> Verdict:
    """The verdict, by the rule above."""
    if signal.null is None or signal.shuffled is None or signal.over_length is None:
        return Verdict.NOTHING
    found = signal.auc["transitions"]
    if signal.null.p > LEVEL or found.low <= 0.5:
        return Verdict.UNSURE if found.high >= USEFUL else Verdict.CHANCE
    if signal.over_length.low <= 0:
        return Verdict.LENGTH
    return Verdict.FREQUENCIES if signal.shuffled.p > LEVEL else Verdict.ORDER


def sentence_of(signal: Signal) -> str:
    """The verdict as a sentence, with the figures that it rests on."""
    questions = f"With {signal.questions['positive']} positive and {signal.questions['negative']} negative questions"
    verdict = verdict_of(signal)
    if verdict is Verdict.NOTHING or signal.noise is None or signal.shuffled is None:
        return f"{questions}, nothing can be said of the signal: at least 2 of each are needed."
    found = signal.auc["transitions"]
    given = {
        "length": f" ({figure(signal.auc[signal.length].value)} by {signal.length})",
        "shuffled": f" ({figure(signal.shuffled.mean)})",
    }
    noise = f"{signal.noise.not_told} of {signal.noise.edges} weights cannot be told from 1"
    held_out = f"held-out AUC {figure(found.value)} ({figure(found.low)} to {figure(found.high)})"
    return f"{questions}, {noise}; {held_out}, {_ENDINGS[verdict].format(**given)}."


def figure(value: float) -> str:
    """Two decimals, without the 0 before the point: .53, 1.00, -.04."""
    return f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 0.995 else f"{value:.2f}"
