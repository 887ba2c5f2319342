"""z0: how far the policy has moved from the reference on text that it was not asked for (method.md §5)."""

from __future__ import annotations


def kl_estimate(log_ratio_sum: float, pairs: int, *, previous: float | None, ema: float) -> float:
    """z0 = max(0, mean unweighted log-ratio of the mismatched pairs), smoothed over estimates if `ema` > 0.

    `log_ratio_sum` is the sum over all pairs of the optimizer batch, of all ranks; no pair gives 0.
    """
    estimate = max(0.0, log_ratio_sum / pairs) if pairs else 0.0
    if previous is None or ema == 0.0:
        return estimate
    return ema * previous + (1.0 - ema) * estimate
