"""What an objective says of itself, and what it is given.

Sums over each sequence's tokens enter (`Sums`), the loss of each sequence leaves; the loop divides the sum over the
whole optimizer batch by sequences or by tokens, so losses add up however a batch is cut.

Axes: B sequences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mralign.config import Training


@dataclass(frozen=True)
class Sums:
    """Sums over the completion tokens of each sequence, fp32 (B,). Without a reference the rewards are zero."""

    logp_B: Tensor  # log pi(y|x)
    reward_B: Tensor  # sum_t w_t [log pi - log pi_ref]; the answer's tokens carry w = 1 (method.md §5)
    plain_B: Tensor  # the same with all w = 1
    polarity_B: Tensor  # +1 | -1
    z0: Tensor  # scalar, without gradient; 0 where the objective has no pairs


@dataclass(frozen=True)
class Objective:
    """A loss and what it needs."""

    losses: Callable[[Sums, Training], Tensor]  # (B,)
    weights: bool  # tokens are weighed by the matrices of the stage `weights`; else all w = 1
    reference: bool  # log-ratios to pi_ref
    pairs: bool  # z0 from mismatched pairs
    negatives: bool  # also trains on negative trajectories
    per_token: bool  # the batch's loss is divided by its completion tokens, else by its sequences
    rate: float  # learning rate where none is given
    start: Callable[[float, Training], float] | None = None  # loss of a sequence of polarity p at step 0, if known
