"""A number for every counted transition, found again for the steps that take it.

Axes: E counted transitions, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mralign.transitions.weights import LabelledSteps


@dataclass(frozen=True)
class EdgeValues:
    """Numbers (E,) by polarity, source and target; `missing` is that of any other transition."""

    key_E: np.ndarray  # ascending
    value_E: np.ndarray
    missing: float

    @classmethod
    def collect(
        cls, polarity_E: np.ndarray, source_E: np.ndarray, target_E: np.ndarray, value_E: np.ndarray, *, missing: float
    ) -> EdgeValues:
        """From transitions given as set codes, each polarity and pair once."""
        key_E = _keys(polarity_E, source_E, target_E)
        order_E = np.argsort(key_E)
        return cls(key_E[order_E], value_E[order_E], missing)

    def of(self, steps: LabelledSteps) -> np.ndarray:
        """The number of every step, (T,)."""
        key_T = _keys(steps.polarity_T, steps.source_T, steps.target_T)
        return found(key_T, key_E=self.key_E, value_E=self.value_E, missing=self.missing)


def found(key_T: np.ndarray, *, key_E: np.ndarray, value_E: np.ndarray, missing: float) -> np.ndarray:
    """The value of each key (T,) by ascending keys (E,); `missing` where it is not among them."""
    if not key_E.size:
        return np.full(key_T.size, missing)
    place_T = np.minimum(np.searchsorted(key_E, key_T), key_E.size - 1)
    return np.where(key_E[place_T] == key_T, value_E[place_T], missing)


def _keys(polarity: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One int64 for each transition; set codes are below 2**20 (counts.py)."""
    key: np.ndarray = ((polarity.astype(np.int64) + 1) << 40) | (source.astype(np.int64) << 20) | target
    return key
