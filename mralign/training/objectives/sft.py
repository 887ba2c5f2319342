"""SFT: cross-entropy on positive trajectories, a mean over the batch's completion tokens (method.md §5)."""

from __future__ import annotations

from torch import Tensor

from mralign.config import Training
from mralign.training.objectives.objective import Objective, Sums


def losses(sums: Sums, settings: Training) -> Tensor:
    """- log pi(y|x) of each sequence, fp32 (B,)."""
    return -sums.logp_B


OBJECTIVE = Objective(
    losses=losses, weights=False, reference=False, pairs=False, negatives=False, per_token=True, rate=1e-4
)
