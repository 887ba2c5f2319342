"""The losses, as sums over a micro-batch that add up to the batch's loss however it is cut (METHOD 5).

Per-token log-probabilities, weights, polarities and z0 enter; the micro-batch's share of the loss and what is worth
logging leave. Axes: B sequences of the micro-batch, T completion tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class KtoSettings:
    """beta, and the two sides' lambdas."""

    beta: float
    lambda_chosen: float
    lambda_rejected: float


def reward(logp_BT: Tensor, *, reference_BT: Tensor, weights_BT: Tensor) -> Tensor:
    """r(x, y) = sum_t w_t [log pi - log pi_ref], fp32 (B,). The answer's tokens carry w = 1."""
    return (weights_BT * (logp_BT - reference_BT)).sum(1)


def kto_loss(reward_B: Tensor, *, polarity_B: Tensor, z0: Tensor, settings: KtoSettings) -> Tensor:
    """lambda_y - v of each sequence, fp32 (B,).

    v = lambda_c sigma(beta (r - z0)) for polarity +1 and lambda_r sigma(beta (z0 - r)) for -1.
    """
    lambda_B = torch.where(polarity_B > 0, settings.lambda_chosen, settings.lambda_rejected)
    value_B = lambda_B * torch.sigmoid(settings.beta * polarity_B * (reward_B - z0))
    return lambda_B - value_B


def kl_estimate(log_ratio_sum: float, pairs: int, *, previous: float | None, ema: float) -> float:
    """z0 = max(0, mean unweighted log-ratio of the mismatched pairs), smoothed over steps if `ema` > 0.

    `log_ratio_sum` is the sum over all pairs of the optimizer batch, of all ranks; no pair gives 0.
    """
    estimate = max(0.0, log_ratio_sum / pairs) if pairs else 0.0
    if previous is None or ema == 0.0:
        return estimate
    return ema * previous + (1.0 - ema) * estimate


def sft_loss(logp_BT: Tensor) -> Tensor:
    """Summed cross-entropy of each sequence, fp32 (B,); divide by the batch's tokens for the mean."""
    return -logp_BT.sum(1)
