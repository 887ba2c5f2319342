"""Rule `held_out`: a transition keeps its weight only where the ratio holds out of sample.

Theory. A ratio is estimated from the very trajectories that it weighs, so an edge that one of them took by chance
speaks for itself. Here whole questions are held out in F folds (signal.py), and every edge e collects the
log-likelihood that the matrices of the polarities gain over the pooled one on its held-out occurrences:

    gain(e) = Σ_f Σ_± n_f^±(e) · log [ Pr(e | P^±_{−f}) / Pr(e | P_{−f}) ]

with n_f^±(e) occurrences in fold f and matrices estimated without that fold. The weight of e is the paper's where
gain(e) > 0, for both polarities, and 1 elsewhere: the choice between the two models of an edge by cross-validation
(Stone 1974). The gain of an edge without a difference has a negative mean, since what was learnt of it is noise, but
not always a negative sign: some such edges keep their weights. Neutral trajectories, and questions with trajectories of
both polarities, take no part in the gain.

Axes: G distinct transitions, F folds, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mralign.rows import SIGNED
from mralign.transitions.counts import Counts
from mralign.transitions.edges import WeightRule
from mralign.transitions.em import Settings, estimate_replicated
from mralign.transitions.rules.edge_values import EdgeValues
from mralign.transitions.signal import FOLDS, Design, design_of, fit, log_probability
from mralign.transitions.walks import Corpus, Walks, walks
from mralign.transitions.weights import LabelledSteps


def held_out_gain(walk: Walks, *, design: Design, settings: Settings) -> np.ndarray:
    """The gain of every transition in nats, (G,)."""
    G, F = walk.source_G.size, design.folds
    cell_T = (design.fold_N * 2 + design.positive_N)[walk.row_T]
    n_FSG = np.bincount(cell_T * G + walk.group_T, minlength=2 * F * G).reshape(F, 2, G)
    n_FG = n_FSG.sum(axis=1)
    whole = Counts(walk.source_G, walk.target_G, n_FG.sum(axis=0), tuple(SIGNED))
    pooled = estimate_replicated(whole, n_TB=(whole.n - n_FG).T, K=walk.K, settings=settings)[1:]
    fitted = fit(walk, design=design, settings=settings)
    gain_G = np.zeros(G)
    for fold in range(F):
        base_G = log_probability(pooled[fold].P, walk=walk)
        gain_G += n_FSG[fold, 1] * (log_probability(fitted.positive[fold], walk=walk) - base_G)
        gain_G += n_FSG[fold, 0] * (log_probability(fitted.negative[fold], walk=walk) - base_G)
    return gain_G


def gains(corpus: Corpus, *, settings: Settings, seed: int) -> EdgeValues:
    """The gains of a corpus, for both polarities; nothing where a polarity has fewer than two questions."""
    signed = corpus.signed()
    folds = min(FOLDS, *(signed.questions(polarity) for polarity in SIGNED))
    if folds < 2:
        empty = np.empty(0, dtype=np.int64)
        return EdgeValues(empty, np.empty(0), missing=0.0)
    walk = walks(signed)
    gain_G = held_out_gain(walk, design=design_of(signed, folds=folds, seed=seed), settings=settings)
    polarity_E = np.repeat([int(polarity) for polarity in SIGNED], gain_G.size)
    sides = len(SIGNED)
    source_E, target_E = np.tile(walk.source_G, sides), np.tile(walk.target_G, sides)
    return EdgeValues.collect(polarity_E, source_E, target_E, np.tile(gain_G, sides), missing=0.0)


@dataclass(frozen=True)
class HeldOutRule:
    """The rule with the gain of every counted edge."""

    gain: EdgeValues
    bounds: WeightRule

    def __call__(self, steps: LabelledSteps) -> np.ndarray:
        """Weights (T,)."""
        clipped_T = np.clip(steps.ratio_T, self.bounds.clip_min, self.bounds.clip_max)
        return np.where(self.gain.of(steps) > 0, clipped_T, 1.0)
