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


def kto_loss(
    logp_BT: Tensor,
    *,
    reference_BT: Tensor,
    polarity_B: Tensor,
    weights_BT: Tensor | None = None,
    z0: Tensor | float = 0.0,
    beta: float = 0.1,
    lambda_chosen: float = 1.0,
    lambda_rejected: float = 1.5,
) -> Tensor:
    """The loss of each sequence from the log-probabilities of its tokens, fp32 (B,): docs/method.md §5, 5.1 to 5.4.

    `logp_BT`, `reference_BT`: float (B, T), log pi and log pi_ref of each completion token; both are 0 where a shorter
    sequence has no token. `polarity_B`: (B,), +1 or -1. `weights_BT`: (B, T), 1 for the answer; None weighs all by 1,
    which is plain KTO. `z0`: the estimate of 5.2, without gradient. Raises ValueError for shapes that do not fit.

    >>> import mralign, torch
    >>> logp = torch.tensor([[-1.0, -2.0], [-1.0, -2.0]])
    >>> mralign.kto_loss(logp, reference_BT=logp, polarity_B=torch.tensor([1, -1])).tolist()  # lambda / 2
    [0.5, 0.75]
    """
    weights = torch.ones_like(logp_BT) if weights_BT is None else weights_BT
    for name, given in (("reference_BT", reference_BT), ("weights_BT", weights)):
        if given.shape != logp_BT.shape:
            raise ValueError(f"{name} has shape {tuple(given.shape)}, logp_BT {tuple(logp_BT.shape)}; allowed is one")
    if polarity_B.shape != logp_BT.shape[:1]:
        raise ValueError(f"polarity_B has shape {tuple(polarity_B.shape)}; allowed is {tuple(logp_BT.shape[:1])}")
    ratio_BT = (logp_BT - reference_BT).float()
    sums = Sums(
        logp_B=logp_BT.float().sum(dim=1),
        reward_B=(weights * ratio_BT).sum(dim=1),
        plain_B=ratio_BT.sum(dim=1),
        polarity_B=polarity_B,
        z0=torch.as_tensor(z0, dtype=torch.float32),
    )
    return losses(sums, Training(beta=beta, lambda_chosen=lambda_chosen, lambda_rejected=lambda_rejected))


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
