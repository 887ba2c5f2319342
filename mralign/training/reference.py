"""The reference scalars: what pi_ref says of every matched and every planned mismatched pair.

A model and (prompt, completion) pairs enter; per-token fp32 log-probabilities of matched pairs and the unweighted sums
of all leave. pi_ref never changes, so this is computed once, with the training model's code and dtype, and no
reference model is held while training. Weights are no part of it: new weights rerun nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from mralign.engines.adapter import load_merged
from mralign.training.logprobs import TokenLogProbs, pad
from mralign.training.pairs import Batch

_LOGIT_CHANGES = ("final_logit_softcapping", "logits_scaling", "logit_scale")


def load_model(path: str, *, dtype: str, adapter: str | None = None, trust_remote_code: bool = False) -> Any:
    """A causal LM from a local directory or hub name, in `dtype` (float32 | bfloat16 | float16), eval mode, CPU.

    `adapter`: a LoRA adapter that is merged into it first.
    Raises ValueError for a model that changes its logits after the head: our log-probabilities would miss that.
    """
    adapters = [adapter] if adapter else []
    model = load_merged(path, adapters=adapters, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    changed = {name: getattr(model.config, name, None) for name in _LOGIT_CHANGES}
    changed = {name: value for name, value in changed.items() if value not in (None, 1, 1.0)}
    if changed:
        raise ValueError(f"model {path} changes its logits after the head ({changed}), which training does not do yet")
    return model


def pairs_to_score(row_ids: Sequence[str], batches: Sequence[Batch]) -> list[tuple[str, str]]:
    """Distinct (prompt row, completion row) of the planned batches: matched pairs first, then mismatched ones."""
    planned = sorted({int(i) for batch in batches for i in batch.examples})
    matched = [(row_ids[i], row_ids[i]) for i in planned]
    mismatched = {
        (row_ids[i], row_ids[j])
        for batch in batches
        for i, j in zip(batch.examples, batch.partners, strict=True)
        if j >= 0
    }
    return matched + sorted(mismatched)


@torch.no_grad()
def score(policy: TokenLogProbs, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, pad_id: int) -> list[np.ndarray]:
    """fp32 log-probabilities (T,) of the completion tokens of each (prompt ids, completion ids) pair."""
    logp_BT = policy(pad(pairs, pad_id=pad_id)).cpu().numpy()
    return [row[: len(completion)] for row, (_, completion) in zip(logp_BT, pairs, strict=True)]
