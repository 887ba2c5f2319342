"""Log-probabilities of completion tokens, without a full logits tensor.

A causal model and padded sequences enter; fp32 log pi(y_t | x, y_<t) of the completion tokens leaves. The LM head is
applied to completion positions only, in chunks that are recomputed in the backward pass. The reference pass and the
training pass both use this module: at step 0 batches of one shape agree to the last bit, others up to rounding.

Axes: B sequences, S positions of prompt and completion, T completion tokens (right-padded), N = B*T of them flat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK = 1024  # completion tokens whose logits exist at one time


@dataclass(frozen=True)
class Padded:
    """Sequences padded on the right. `where_BT` is the position whose hidden state predicts token t."""

    ids_BS: Tensor  # int64
    attention_BS: Tensor  # int64, 1 on tokens
    where_BT: Tensor  # int64
    target_BT: Tensor  # int64
    mask_BT: Tensor  # float32, 1 on completion tokens


def pad(pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, pad_id: int) -> Padded:
    """Pad (prompt ids, completion ids) pairs; all tensors on the CPU."""
    size_s = max(len(prompt) + len(completion) for prompt, completion in pairs)
    size_t = max(len(completion) for _, completion in pairs)
    ids, attention, where, target, mask = ([] for _ in range(5))
    for prompt, completion in pairs:
        length, tokens = len(prompt) + len(completion), len(completion)
        ids.append(np.concatenate([prompt, completion, np.full(size_s - length, pad_id)]))
        attention.append(np.arange(size_s) < length)
        positions = len(prompt) - 1 + np.arange(size_t)
        where.append(np.where(np.arange(size_t) < tokens, positions, 0))
        target.append(np.concatenate([completion, np.full(size_t - tokens, pad_id)]))
        mask.append(np.arange(size_t) < tokens)
    return Padded(
        ids_BS=torch.from_numpy(np.stack(ids)).long(),
        attention_BS=torch.from_numpy(np.stack(attention)).long(),
        where_BT=torch.from_numpy(np.stack(where)).long(),
        target_BT=torch.from_numpy(np.stack(target)).long(),
        mask_BT=torch.from_numpy(np.stack(mask)).float(),
    )


class TokenLogProbs(nn.Module):
    """A causal LM (bare or wrapped by PEFT) whose forward returns logp_BT, fp32, 0 on padding."""

    def __init__(self, model: Any, *, chunk: int = CHUNK) -> None:
        super().__init__()
        self.model, self.chunk = model, chunk

    def forward(self, batch: Padded) -> Tensor:
        causal = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        device = causal.lm_head.weight.device
        hidden_BSD = causal.get_decoder()(
            input_ids=batch.ids_BS.to(device), attention_mask=batch.attention_BS.to(device), use_cache=False
        ).last_hidden_state
        where_BTD = batch.where_BT.to(device)[..., None].expand(-1, -1, hidden_BSD.shape[-1])
        hidden_ND = hidden_BSD.gather(1, where_BTD).flatten(0, 1)
        logp_N = head_logps(hidden_ND, causal.lm_head, batch.target_BT.to(device).flatten(), chunk=self.chunk)
        return logp_N.view(batch.target_BT.shape) * batch.mask_BT.to(device)


def head_logps(hidden_ND: Tensor, head: Any, target_N: Tensor, *, chunk: int = CHUNK) -> Tensor:
    """log softmax(head(hidden))[target], fp32 (N,), `chunk` rows of logits at a time."""
    pieces = [
        checkpoint(_chunk_logps, hidden, head, target, use_reentrant=False)
        for hidden, target in zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True)
    ]
    return torch.cat(pieces)


def _chunk_logps(hidden_ND: Tensor, head: Any, target_N: Tensor) -> Tensor:
    logits_NV = head(hidden_ND).float()
    return logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(1)
