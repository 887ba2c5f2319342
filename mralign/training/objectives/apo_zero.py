"""APO-zero for unpaired data (D'Oosterlinck et al. 2024, eq. 7, each side on its own): raise good, lower bad, no z0.

An objective is one file like this one: `training.method=apo_zero` finds it by its name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mralign.config import Training
from mralign.training.objectives import kto
from mralign.training.objectives.objective import Objective, Sums


def losses(sums: Sums, settings: Training) -> Tensor:
    """lambda_c (1 - sigma(beta r)) for polarity +1 and lambda_r sigma(beta r) for -1, fp32 (B,)."""
    lambda_B = torch.where(sums.polarity_B > 0, settings.lambda_chosen, settings.lambda_rejected)
    return lambda_B * torch.sigmoid(-settings.beta * sums.polarity_B * sums.reward_B)


OBJECTIVE = Objective(
    losses=losses,
    weights=False,
    reference=True,
    pairs=False,
    negatives=True,
    per_token=False,
    rate=5e-6,
    start=kto.start,
)
