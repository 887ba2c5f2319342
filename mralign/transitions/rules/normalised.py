"""Rule `normalised`: the paper's weights of a trajectory, divided by their mean over its labelled steps.

Theory. Weights do two things at once: they say which steps of a trajectory matter more than others, and, where their
mean is not 1, how much the whole trajectory counts, which a learning rate or λ could do as well. Before clipping, the
mean of P^±/P over transitions drawn from P^± is 1 or more (it is 1 + a χ² divergence), so the paper's rule tends to
take larger steps than KTO at the same rate. With a mean of 1 in each trajectory, only the division of
credit between its steps is left. If this rule does as well as the paper's, its gain is that division; if it falls back
to KTO, the gain was a step size. Weights are clipped before they are divided, so that one may leave [m, M]. The unit is
the step, not the token: unlabelled steps and the answer weigh 1, which is the mean.

Axes: T steps, N trajectories.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mralign.transitions.edges import WeightRule
from mralign.transitions.weights import LabelledSteps


def with_mean_one(weight_T: np.ndarray, *, row_T: np.ndarray) -> np.ndarray:
    """Weights divided by their mean in each trajectory, (T,); all weights above 0."""
    total_N = np.bincount(row_T, weights=weight_T)
    steps_N = np.bincount(row_T)
    divided_T: np.ndarray = weight_T * steps_N[row_T] / total_N[row_T]
    return divided_T


@dataclass(frozen=True)
class NormalisedRule:
    """The rule; it needs to know nothing of the corpus."""

    bounds: WeightRule

    def __call__(self, steps: LabelledSteps) -> np.ndarray:
        """Weights (T,)."""
        clipped_T = np.clip(steps.ratio_T, self.bounds.clip_min, self.bounds.clip_max)
        return with_mean_one(clipped_T, row_T=steps.row_T)
