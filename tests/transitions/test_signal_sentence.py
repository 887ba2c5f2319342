"""The rule from figures to a sentence, on both sides of each of its boundaries."""

import json
from dataclasses import replace

import pytest

from mralign.transitions.auc import Interval
from mralign.transitions.signal import Chance
from mralign.transitions.signal_noise import Noise
from mralign.transitions.signal_result import Signal
from mralign.transitions.signal_sentence import SignalVerdict, figure, record_of, sentence_of, table_of, verdict_of

STRONG = Signal(
    trajectories={"positive": 300, "negative": 140},
    questions={"positive": 100, "negative": 48},
    folds=10,
    estimator="em",
    auc={
        "transitions": Interval(0.71, 0.64, 0.78),
        "transitions_sum": Interval(0.7, 0.6, 0.8),
        "frequencies": Interval(0.6, 0.52, 0.68),
        "segments": Interval(0.55, 0.47, 0.63),
    },
    length="segments",
    over_length=Interval(0.16, 0.05, 0.27),
    over_frequencies=Interval(0.11, 0.02, 0.2),
    null=Chance(0.71, mean=0.5, low=0.4, high=0.6, p=0.005, draws=199),
    shuffled=Chance(0.71, mean=0.58, low=0.51, high=0.65, p=0.01, draws=99),
    noise=Noise(edges=87, not_told=61, told_share=0.42, effective=12.34),
)


def with_auc(value, low, high):
    return replace(STRONG, auc={**STRONG.auc, "transitions": Interval(value, low, high)})


def test_a_signal_that_passes_all_is_of_the_order():
    assert verdict_of(STRONG) is SignalVerdict.ORDER
    assert sentence_of(STRONG) == (
        "With 100 positive and 48 negative questions, 61 of 87 weights cannot be told from 1; held-out AUC .71 (.64 to "
        ".78), better than the length of the thought (.55 by segments) and than labels without their order (.60 by "
        "frequencies, .58 in random order): transitions carry a signal, a gain over KTO is possible."
    )


@pytest.mark.parametrize(
    ("signal", "expected"),
    [
        (replace(STRONG, null=replace(STRONG.null, p=0.05)), SignalVerdict.ORDER),
        (replace(STRONG, null=replace(STRONG.null, p=0.055)), SignalVerdict.UNSURE),
        (with_auc(0.53, 0.501, 0.59), SignalVerdict.ORDER),
        (with_auc(0.53, 0.5, 0.59), SignalVerdict.CHANCE),
        (with_auc(0.53, 0.47, 0.599), SignalVerdict.CHANCE),
        (with_auc(0.53, 0.47, 0.6), SignalVerdict.UNSURE),
        (with_auc(0.4, 0.3, 0.49), SignalVerdict.CHANCE),
        (replace(STRONG, over_length=Interval(0.1, 0.001, 0.2)), SignalVerdict.ORDER),
        (replace(STRONG, over_length=Interval(0.1, 0.0, 0.2)), SignalVerdict.LENGTH),
        (replace(STRONG, over_frequencies=Interval(0.1, 0.001, 0.2)), SignalVerdict.ORDER),
        (replace(STRONG, over_frequencies=Interval(0.1, 0.0, 0.2)), SignalVerdict.FREQUENCIES),
        (replace(STRONG, shuffled=replace(STRONG.shuffled, p=0.05)), SignalVerdict.ORDER),
        (replace(STRONG, shuffled=replace(STRONG.shuffled, p=0.06)), SignalVerdict.FREQUENCIES),
        (Signal(trajectories={"positive": 3, "negative": 1}, questions={"positive": 3, "negative": 1}), "nothing"),
    ],
)
def test_the_rule_at_its_boundaries(signal, expected):
    assert verdict_of(signal) == expected
    assert sentence_of(signal).endswith(".")
    assert sentence_of(signal).count("{") == 0


def test_an_earlier_rule_wins():
    weak = replace(with_auc(0.53, 0.47, 0.59), over_length=Interval(-0.1, -0.2, 0.0))
    assert verdict_of(weak) is SignalVerdict.CHANCE
    assert sentence_of(weak).endswith("; held-out AUC .53 (.47 to .59), not told from chance: expect no gain over KTO.")
    long = replace(STRONG, over_length=Interval(0.0, -0.1, 0.1), shuffled=replace(STRONG.shuffled, p=0.9))
    assert sentence_of(long).endswith(
        "no better than the length of the thought (.55 by segments): expect no gain over KTO."
    )


def test_nothing_to_hold_out_is_said_and_no_fault():
    empty = Signal(trajectories={"positive": 9, "negative": 0}, questions={"positive": 3, "negative": 0})
    said = "With 3 positive and 0 negative questions, nothing can be said of the signal: at least 2 of each are needed."
    assert sentence_of(empty) == said
    assert table_of(json.loads(json.dumps(record_of(empty)))) == said


@pytest.mark.parametrize(
    ("value", "shown"), [(0.534, ".53"), (1.0, "1.00"), (0.997, "1.00"), (0.0, ".00"), (-0.044, "-.04"), (0.1, ".10")]
)
def test_figures_have_two_decimals(value, shown):
    assert figure(value) == shown


def test_the_table_of_a_record_that_was_read_back():
    record = json.loads(json.dumps(record_of(STRONG), allow_nan=False))
    assert record["verdict"] == "order"
    lines = table_of(record).splitlines()
    assert lines[0] == "held-out AUC of            AUC   95 %"
    assert lines[1] == "transitions, mean           .71   .64 to  .78"
    assert lines[4] == "thought length, segments    .55   .47 to  .63"
    assert lines[5] == "labels in random order      .58   .51 to  .65   p = 0.010 of 99 shuffles"
    assert lines[6] == "polarity permuted           .50   .40 to  .60   p = 0.005 of 199 permutations"
    assert lines[8] == (
        "weights: 87 edges, 61 cannot be told from 1; the others carry 42% of what the weights change; "
        "effective number of edges 12.3"
    )
    assert lines[-1] == sentence_of(STRONG)
