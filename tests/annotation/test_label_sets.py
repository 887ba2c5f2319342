"""Probabilities of label sets against plain enumeration, and a calibration against one that was planted."""

from itertools import chain, combinations
from math import exp

import numpy as np
import pytest

from mralign.annotation.label_sets import (
    Calibration,
    fit_calibration,
    label_probabilities,
    label_shares,
    set_numbers,
    set_probabilities,
)

GIVEN = Calibration(slope=1.5, none=-1.0, pair=0.5)


def enumerated(scores):
    """P(S) by the equation, as a dictionary."""
    sets = chain.from_iterable(combinations(range(len(scores)), size) for size in range(3))
    size = {0: -1.0, 1: 0.0, 2: 0.5}
    odds = {labels: exp(size[len(labels)] + 1.5 * sum(scores[one] for one in labels)) for labels in sets}
    total = sum(odds.values())
    return {labels: value / total for labels, value in odds.items()}


def test_sets_labels_and_shares_are_those_of_enumeration():
    score_NL = np.array([[0.3, -1.0, 2.0, 0.0], [5.0, 4.0, -3.0, 1.0]])
    found_NM = set_probabilities(score_NL, calibration=GIVEN)
    for scores, found_M in zip(score_NL.tolist(), found_NM, strict=True):
        wanted = enumerated(scores)
        numbers = set_numbers(list(wanted), L=4)
        assert sorted(numbers.tolist()) == list(range(11))
        assert found_M[numbers] == pytest.approx(list(wanted.values()), rel=1e-12)
        for label in range(4):
            has = sum(p for labels, p in wanted.items() if label in labels)
            share = sum(p / len(labels) for labels, p in wanted.items() if label in labels)
            assert label_probabilities(found_M[None], L=4)[0, label] == pytest.approx(has)
            assert label_shares(found_M[None], L=4)[0, label] == pytest.approx(share)
        assert label_shares(found_M[None], L=4).sum() == pytest.approx(1 - wanted[()])


def test_scores_however_large_give_probabilities():
    found = set_probabilities(np.array([[1e4, -1e4, 1e4]]), calibration=Calibration())
    assert np.isfinite(found).all() and found.sum() == pytest.approx(1)


def test_a_planted_calibration_is_found():
    rng = np.random.default_rng(0)
    score_NL = rng.normal(size=(20_000, 5))
    cumulated = set_probabilities(score_NL, calibration=GIVEN).cumsum(axis=1)
    drawn_N = (rng.random((20_000, 1)) > cumulated).sum(axis=1)
    found = fit_calibration(score_NL, set_N=drawn_N)
    assert (found.slope, found.none, found.pair) == pytest.approx((1.5, -1.0, 0.5), abs=0.1)


def test_a_size_that_never_occurs_stays_finite():
    score_NL = np.random.default_rng(1).normal(size=(200, 3))
    found = fit_calibration(score_NL, set_N=1 + score_NL.argmax(axis=1))
    assert -13 < found.none < -3 and -13 < found.pair < -3
