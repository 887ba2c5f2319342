"""What one forward and backward pass takes of memory, by the tokens of its micro-batch.

A policy and real token ids enter; a formula leaves, fitted to three short passes with gradient and three without. A
pass takes something once, something a token, and something a pair of tokens: of one sequence where micro-batches are
padded, of the whole row where they are packed (attention with a mask; torch's fused ones take nothing so). The head,
which works on so many rows of logits at a time, is measured with few of them and counted apart.

Where layers of experts send tokens depends on the tokens; there the formula is as good as the tokens are alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from mralign.config import Training
from mralign.training.batches import Micro, Pair, layout, packs
from mralign.training.head import CHUNK_BYTES, CHUNK_BYTES_GPU
from mralign.training.live_bytes import peak_bytes
from mralign.training.logprobs import TokenLogProbs

_LONGEST = {True: 1024, False: 256}  # tokens of a measured sequence, on a GPU and on a CPU
_CHUNK = 2  # rows of logits while it is measured


@dataclass(frozen=True)
class PassBytes:
    """bytes = once + token x T + pair x T x L, for T tokens in micro-batches whose longest row has L."""

    once: float
    token: float
    pair: float
    packed: bool

    def at(self, tokens: int, *, longest: int) -> float:
        """Bytes of a micro-batch of so many tokens. `longest`: of its sequences."""
        row = tokens if self.packed else longest
        return self.once + self.token * tokens + self.pair * tokens * row


def fitted(points: Sequence[tuple[int, int, float]], *, packed: bool) -> PassBytes:
    """The formula through three points (tokens, longest row, bytes); what would fall with the tokens counts as 0."""
    rows = [[1, tokens, tokens * longest] for tokens, longest, _ in points]
    sizes = [size for *_, size in points]
    once, token, pair = np.linalg.solve(np.array(rows, dtype=np.float64), np.array(sizes, dtype=np.float64))
    if pair < 0:
        (t_1, _, size_1), (t_2, _, size_2) = points[-2:]
        token, pair = (size_2 - size_1) / (t_2 - t_1), 0.0
        once = size_2 - token * t_2
    return PassBytes(float(once), float(max(token, 0.0)), float(pair), packed)


def measured(
    policy: TokenLogProbs, settings: Training, ids: np.ndarray, *, longest: int
) -> tuple[PassBytes, PassBytes]:
    """The formulas of a pass with gradient and of one without. `ids`: any real tokens; `longest`: of all sequences.

    Gradients are made and dropped; no parameter's own is touched. Call on all ranks: ZeRO-3 fetches layers.
    """
    tokens = 2 * max(2, min(longest, _LONGEST[settings.gpu]) // 2)
    build, packing = layout(settings), packs(settings)
    once = 2 if packing else 1  # a packed row of one sequence needs no mask, others do
    cuts = [(tokens // 2, once), (tokens, once), (tokens, 2 * once)]  # lengths and numbers of sequences
    micros = [build([_pair(ids, size)] * count) for size, count in cuts]
    sizes = [(size * count, size * count if packing else size) for size, count in cuts]
    given, policy.chunk = policy.chunk, _CHUNK
    try:
        found = []
        for one_pass in (partial(_with_gradient, policy, settings), partial(_without_gradient, policy)):
            if settings.gpu:
                one_pass(micros[0])  # workspaces and compiled kernels stay
            points = [(*size, _peak(one_pass, micro, settings)) for size, micro in zip(sizes, micros, strict=True)]
            found.append(fitted(points, packed=packing))
    finally:
        policy.chunk = given
    return found[0], found[1]


def _peak(one_pass: Callable[[Micro], None], micro: Micro, settings: Training) -> float:
    return float(peak_bytes(partial(one_pass, micro), gpu=settings.gpu))


def _pair(ids: np.ndarray, tokens: int) -> Pair:
    """A sequence of so many tokens, nearly all of them completion: the head has the most to do."""
    row = np.resize(ids, tokens)
    return row[:1], row[1:]


def _with_gradient(policy: TokenLogProbs, settings: Training, micro: Micro) -> None:
    trained = [p for p in policy.parameters() if p.requires_grad]
    if settings.tuning == "full":
        trained = trained[:1]  # the embedding: a backward pass down to it, without a second copy of the model
    torch.autograd.grad(policy(micro).sum(), trained, allow_unused=True)


@torch.no_grad()
def _without_gradient(policy: TokenLogProbs, micro: Micro) -> None:
    policy(micro)


def head_bytes(policy: TokenLogProbs, *, gpu: bool) -> float:
    """What the head takes at its most, whatever the micro-batch: logits of one piece in two precisions where it is
    frozen, and what their gradients take where it is not; hidden states and their gradients beside them."""
    head = policy.causal.get_output_embeddings()
    vocabulary, hidden = getattr(head.weight, "ds_shape", head.weight.shape)
    logits = 2 if policy.plain and not head.weight.requires_grad else 4
    return float((logits + 3 * hidden / vocabulary) * (CHUNK_BYTES_GPU if gpu else CHUNK_BYTES))


def bytes_to_come(engine: Any, settings: Training, *, workers: int) -> float:
    """What the first optimizer step allocates besides its passes and keeps: gradients in float32 and their sum over
    ranks, DeepSpeed's bucket for sending them, and the optimizer's moments where they are not there yet."""
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    numbers = sum(getattr(p, "ds_tensor", p).numel() for p in trained)  # ZeRO-3: this rank's piece
    gradients = numbers * (trained[0].element_size() + 2 * 4)
    if settings.tuning == "full":
        gradients += max(getattr(p, "ds_numel", p.numel()) for p in trained) * trained[0].element_size()
    bucket = getattr(engine.optimizer, "reduce_bucket_size", 0) if settings.zero_stage in (1, 2) else 0
    if getattr(engine.optimizer, "overlap_comm", False):
        bucket *= 2  # one is sent while the next is filled
    return gradients + 4 * bucket + _moments_to_come(engine, settings, numbers=numbers, workers=workers)


def _moments_to_come(engine: Any, settings: Training, *, numbers: int, workers: int) -> float:
    if settings.gpu and settings.offload != "none":
        return 0.0
    held = 0
    for state in engine.optimizer.state.values():
        held += sum(value.nbytes for value in state.values() if isinstance(value, torch.Tensor))
    return float(max(0, 8 * numbers // (workers if settings.zero_stage in (1, 2) else 1) - held))
