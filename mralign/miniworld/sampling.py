"""Sampling: completions of many prompts from a model small enough to be run a step at a time for hundreds of rows.

Prompts of one length are batched together, so nothing is padded; finished rows leave the batch. Axes: B rows, V words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import DynamicCache, PreTrainedModel

ROWS_PER_BATCH = 512


@dataclass(frozen=True)
class SamplerParams:
    """How completions are drawn: `temperature` > 0, at most `max_new_tokens`, `draws` a question, from one `seed`."""

    temperature: float = 0.7
    draws: int = 3
    max_new_tokens: int = 144
    seed: int = 20_000


def sample(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], *, eos: int, params: SamplerParams
) -> list[list[int]]:
    """One completion for each prompt, ending with `eos` unless it was cut at max_new_tokens."""
    generator = torch.Generator().manual_seed(params.seed)
    rows_of_length: dict[int, list[int]] = defaultdict(list)
    for row, prompt in enumerate(prompts):
        rows_of_length[len(prompt)].append(row)
    out: list[list[int]] = [[] for _ in prompts]
    for _, rows in sorted(rows_of_length.items()):
        for start in range(0, len(rows), ROWS_PER_BATCH):
            batch = rows[start : start + ROWS_PER_BATCH]
            ids = torch.tensor([list(prompts[row]) for row in batch])
            for row, completion in zip(batch, _complete(model, ids, eos, params, generator), strict=True):
                out[row] = completion
    return out


@torch.inference_mode()
def _complete(
    model: PreTrainedModel, ids_BT: torch.Tensor, eos: int, params: SamplerParams, generator: torch.Generator
) -> list[list[int]]:
    completions: list[list[int]] = [[] for _ in range(len(ids_BT))]
    alive = torch.arange(len(ids_BT))
    cache = DynamicCache(config=model.config)
    for _ in range(params.max_new_tokens):
        out = model(input_ids=ids_BT, past_key_values=cache, use_cache=True, logits_to_keep=1)
        probs_BV = (out.logits[:, -1] / params.temperature).softmax(-1)
        next_B = torch.multinomial(probs_BV, 1, generator=generator)[:, 0]
        for row, token in zip(alive.tolist(), next_B.tolist(), strict=True):
            completions[row].append(token)
        going_B = next_B != eos
        if not going_B.any():
            break
        if not going_B.all():
            cache.batch_select_indices(going_B.nonzero()[:, 0])
            alive, next_B = alive[going_B], next_B[going_B]
        ids_BT = next_B[:, None]
    return completions
