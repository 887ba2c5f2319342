"""Rule `shrunk`: ratios are drawn towards 1 by their standard errors, by empirical Bayes over the edges of a polarity.

Theory. The ratio of an edge that few trajectories took is mostly noise, and a noisy weight spoils the gradient of every
token of its step. Let l_e = log ratio of edge e lie around its true value, l_e ~ N(θ_e, s_e²), with its bootstrap
standard error s_e, and let the true values of a polarity lie around 0, θ_e ~ N(0, τ²), for most transitions do not
differ between helpful and harmful thoughts. The posterior mean l_e · τ² / (τ² + s_e²) has the least mean squared error
(James and Stein 1961; Efron and Morris 1973), and w = clip(exp(posterior mean), m, M). τ² is where the standardised
squares have their expectation, Σ_e l_e² / (τ² + s_e²) = E (Paule and Mandel 1982, the mean known to be 0), and 0 where
the sum is smaller even then. Without noise this is the paper's rule; of noise alone every weight is 1. A bootstrap
draws only what was seen, so that the edges which one or two trajectories took are shrunk too little.

Axes: E edges of a polarity, B bootstrap replicates, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mralign.transitions.bootstrap import standard_error
from mralign.transitions.edges import WeightRule, edges_of_sets, replicated_ratios
from mralign.transitions.matrices import Fitted
from mralign.transitions.rules.edge_values import EdgeValues
from mralign.transitions.weights import NAME, LabelledSteps, ratios

_FLOOR = 1e-12  # of a ratio, where the prior is 0
_HALVINGS = 100


def prior_variance(log_E: np.ndarray, *, error_E: np.ndarray) -> float:
    """τ² from log ratios and their standard errors, which are above 0, (E,) each."""

    def excess(variance: float) -> float:
        return float((log_E**2 / (variance + error_E**2)).sum()) - log_E.size

    if not log_E.size or excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float((log_E**2).sum())  # at this variance the sum is at most 1
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def posterior_mean(log_E: np.ndarray, *, error_E: np.ndarray) -> np.ndarray:
    """Log ratios drawn towards 0, (E,). An error of 0 leaves a ratio as it is, an unknown one (nan) makes it 0.

    Edges with such errors take no part in τ².
    """
    usual_E = error_E > 0  # False of nan
    variance = prior_variance(log_E[usual_E], error_E=error_E[usual_E])
    factor_E = np.where(np.isnan(error_E), 0.0, 1.0)
    factor_E[usual_E] = variance / (variance + error_E[usual_E] ** 2)
    mean_E: np.ndarray = factor_E * log_E
    return mean_E


@dataclass(frozen=True)
class ShrunkRule:
    """The rule with the shrunk ratio of every counted edge."""

    ratio: EdgeValues
    bounds: WeightRule

    def __call__(self, steps: LabelledSteps) -> np.ndarray:
        """Weights (T,)."""
        weight_T: np.ndarray = np.clip(self.ratio.of(steps), self.bounds.clip_min, self.bounds.clip_max)
        return weight_T


def shrunk_rule(counts: pa.Table, *, fitted: Fitted, states: Sequence[str], bounds: WeightRule) -> ShrunkRule:
    """The rule of a corpus from its counts (schema.COUNTS), matrices and their replicates, of which there must be
    two."""
    columns: list[tuple[np.ndarray, ...]] = [(np.empty(0, np.int64),) * 3 + (np.empty(0),)]
    for polarity in NAME:
        counted = edges_of_sets(counts, polarity=polarity, K=len(states))
        sign_E = np.full(counted.count_T.size, int(polarity))
        ratio_E = ratios(
            counted.source_T, counted.target_T, polarity=sign_E, matrices=fitted.P, states=states, anchor=bounds.anchor
        )
        drawn_BE = replicated_ratios(counted, polarity=polarity, replicates=fitted.replicates, rule=bounds)
        error_E = standard_error(_log(drawn_BE)) if sign_E.size else np.empty(0)
        mean_E = posterior_mean(_log(ratio_E), error_E=error_E)
        columns.append((sign_E, counted.source_T, counted.target_T, np.exp(mean_E)))
    polarity_E, source_E, target_E, shrunk_E = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return ShrunkRule(EdgeValues.collect(polarity_E, source_E, target_E, shrunk_E, missing=1.0), bounds)


def _log(ratio: np.ndarray) -> np.ndarray:
    logarithm: np.ndarray = np.log(np.maximum(ratio, _FLOOR))
    return logarithm
