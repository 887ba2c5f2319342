"""Rule `zero_floor`: in negatives, the weights below 1 reach down to 0 instead of m.

Theory. In a negative trajectory a weight says how hard the tokens of a step are pushed down. A ratio below 1 says that
negatives take this transition less often than the corpus does, so it is typical of positives (with the anchor `global`,
P lies between P⁺ and P⁻); yet the paper pushes it down with weight m = 1/e at least: the step is punished for what
stands elsewhere in the thought. Here, for negatives and a ratio below 1,

    w = max(0, 1 − (1 − ratio) / (1 − m))

which is 1 at 1, 0 at m and below, and straight between. Only the steps that the paper clips would be too few to matter
(with a third of negatives, a ratio below m means P⁺/P⁻ > 3.6), and a jump to 0 at 1 would let noise decide, for most
ratios lie near 1. A positive's step keeps its floor: to push up, in a thought that came out right, a transition that is
typical of negatives is imitation of something that worked. All other weights are the paper's, exactly.

Axes: T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mralign.transitions.edges import WeightRule
from mralign.transitions.weights import LabelledSteps


def with_zero_floor(ratio_T: np.ndarray, *, polarity_T: np.ndarray, bounds: WeightRule) -> np.ndarray:
    """Clipped ratios, (T,), those below 1 in negatives stretched so that the lower bound becomes 0. A lower bound of 1
    or more leaves nothing to stretch."""
    weight_T: np.ndarray = np.clip(ratio_T, bounds.clip_min, bounds.clip_max)
    if bounds.clip_min >= 1:
        return weight_T
    stretched_T = np.maximum(0.0, 1 - (1 - ratio_T) / (1 - bounds.clip_min))
    return np.where((polarity_T < 0) & (ratio_T < 1), np.minimum(stretched_T, weight_T), weight_T)


@dataclass(frozen=True)
class ZeroFloorRule:
    """The rule; it needs to know nothing of the corpus."""

    bounds: WeightRule

    def __call__(self, steps: LabelledSteps) -> np.ndarray:
        """Weights (T,)."""
        return with_zero_floor(steps.ratio_T, polarity_T=steps.polarity_T, bounds=self.bounds)
