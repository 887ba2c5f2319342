"""KTO (Ethayarajh et al. 2024, eq. 7; method.md §5): every token weighs 1."""

from __future__ import annotations

import torch
from torch import Tensor

from mralign.config import Training
from mralign.training.objectives.objective import Objective, Sums


def losses(sums: Sums, settings: Training) -> Tensor:
    """lambda_y - v of each sequence, fp32 (B,).

    v = lambda_c sigma(beta (r - z0)) for polarity +1 and lambda_r sigma(beta (z0 - r)) for -1.
    """
    lambda_B = torch.where(sums.polarity_B > 0, settings.lambda_chosen, settings.lambda_rejected)
    value_B = lambda_B * torch.sigmoid(settings.beta * sums.polarity_B * (sums.reward_B - sums.z0))
    return lambda_B - value_B


def start(polarity: float, settings: Training) -> float:
    """lambda_y / 2: a fresh policy equals the reference, r = 0 and z0 = 0."""
    return (settings.lambda_chosen if polarity > 0 else settings.lambda_rejected) / 2


OBJECTIVE = Objective(
    losses=losses,
    weights=False,
    reference=True,
    pairs=True,
    negatives=True,
    per_token=False,
    rate=5e-6,
    start=start,
)
