"""What is logged of an optimizer step.

Sums over the sequences of micro-batches enter, add up over micro-batches and ranks, and become means; seconds become
speed, memory and, on a GPU whose peak is known, the share of it that was used (MFU).
"""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mralign.training.batches import Micro
from mralign.training.objectives.objective import Objective, Sums

# Dense bfloat16 FLOP/s of one GPU, by a part of its name (the vendor's data sheets).
PEAK_FLOPS = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12}


@dataclass(frozen=True)
class Tally:
    """Sums over sequences; `tokens` are completion tokens."""

    loss: float = 0.0
    chosen: float = 0.0
    rejected: float = 0.0
    reward_chosen: float = 0.0
    reward_rejected: float = 0.0
    plain_chosen: float = 0.0
    plain_rejected: float = 0.0
    tokens: float = 0.0
    broken: float = 0.0  # sequences whose loss is no number
    divisor: float = 1.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(a + b for a, b in zip(astuple(self)[:-1], astuple(other)[:-1], strict=True)))

    def tensor(self) -> Tensor:
        return torch.tensor(astuple(self)[:-1], dtype=torch.float64)

    @staticmethod
    def of(values: Tensor) -> Tally:
        return Tally(*values.tolist())

    @staticmethod
    def of_micro(loss_B: Tensor, sums: Sums, *, micro: Micro, broken: int) -> Tally:
        """The sums of one micro-batch."""
        chosen_B = (sums.polarity_B > 0).double()
        reward_B, plain_B = sums.reward_B.detach().double(), sums.plain_B.double()
        return Tally(
            loss=float(loss_B.detach().double().sum()),
            chosen=float(chosen_B.sum()),
            rejected=float((1 - chosen_B).sum()),
            reward_chosen=float((reward_B * chosen_B).sum()),
            reward_rejected=float((reward_B * (1 - chosen_B)).sum()),
            plain_chosen=float((plain_B * chosen_B).sum()),
            plain_rejected=float((plain_B * (1 - chosen_B)).sum()),
            tokens=float(len(micro.target_N)),
            broken=float(broken),
        )


def figures_of(tally: Tally, *, z0: float | None, objective: Objective) -> dict[str, float]:
    """The step's means. Rewards are r of method.md §5, not multiplied by beta; plain ones have all w = 1.

    A class that the batch does not hold has no reward, and the batch then no margin: such a figure is left out.
    """
    figures = {"loss": tally.loss / tally.divisor, "tokens": tally.tokens}
    if not objective.reference:
        return figures
    for kind, margin in (("reward", "margin"), ("plain", "plain_margin")):
        means = _class_means(tally, kind)
        figures |= {f"{kind}_{side}": mean for side, mean in means.items()}
        if len(means) == 2:
            figures[margin] = means["chosen"] - means["rejected"]
    return figures | ({"z0": z0} if z0 is not None else {})


def _class_means(tally: Tally, kind: str) -> dict[str, float]:
    """The mean of `kind` of each class that the batch holds."""
    counts = {side: getattr(tally, side) for side in ("chosen", "rejected")}
    return {side: getattr(tally, f"{kind}_{side}") / count for side, count in counts.items() if count}


def peak_memory(*, gpu: bool) -> float:
    """The most memory so far, GiB: allocated on this worker's GPU, or the largest resident set of this process."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux tells KiB
    used = torch.cuda.max_memory_allocated() if gpu else kib * 1024
    return round(used / 2**30, 3)


def model_flops(config: Any, *, parameters: int, lengths: Sequence[int] | np.ndarray) -> float:
    """Floating-point operations of one forward pass of a decoder over sequences of these lengths.

    2 a parameter and token (`parameters` without the embedding, which is looked up, and the head), and for causal
    attention two products of half of length x length each. A backward pass costs as much again for frozen weights,
    twice for trained.
    """
    heads = config.num_attention_heads
    width = heads * getattr(config, "head_dim", config.hidden_size // heads)
    sizes = np.asarray(lengths, dtype=np.float64)
    return float(2.0 * parameters * sizes.sum() + 2.0 * config.num_hidden_layers * width * (sizes**2).sum())


def mfu(flops: float, *, seconds: float, workers: int, device: str) -> float | None:
    """Model FLOPs utilisation: the share of the GPUs' peak that `flops` of useful work took; None if it is unknown."""
    peak = next((value for name, value in PEAK_FLOPS.items() if name in device), None)
    return None if peak is None else flops / (seconds * workers * peak)
