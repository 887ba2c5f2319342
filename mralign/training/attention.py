"""Attention over packed sequences without a mask, under the name `varlen` (`training.attention: varlen`).

transformers hands over the queries, keys and values of one packed row and where its sequences begin; what every token
takes from its own sequence leaves. On a GPU in bfloat16 that is torch's variable-length flash attention (no package
beside torch); elsewhere one causal scaled-dot-product attention a sequence, which computes the same.

Axes: B sequences, S positions of all of them, H query heads, K key heads, D size of a head.
"""

from __future__ import annotations

from functools import cache, partial
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

NAME = "varlen"


def register_varlen() -> None:
    """Make the name known to transformers. Done before a model is loaded; doing it again changes nothing."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, varlen_attention)


def varlen_attention(
    module: Any,
    query_1HSD: Tensor,
    key_1KSD: Tensor,
    value_1KSD: Tensor,
    attention_mask: Tensor | None,
    *,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention inside each sequence, (1, S, H, D); the names of the arguments are transformers'.

    `cu_seq_lens_q` (B + 1, int32): where sequences begin, and the end of the last. Raises NotImplementedError for what
    would change the result and is not done here; `policy.check_packing` refuses such models before, where it can tell.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise ValueError("attention=varlen is given packed sequences only: leave training.packing on auto or on")
    windowed = sliding_window is not None and sliding_window < max_length_q
    asked = {
        "a mask": attention_mask is not None,
        f"a soft cap ({softcap})": softcap is not None,
        "sinks": s_aux is not None,
        "a bias by position": position_bias is not None,
        f"a window of {sliding_window} tokens for {max_length_q}": windowed,
        "attention to later tokens": is_causal is False,
    }
    if any(asked.values()):
        wanted = ", ".join(what for what, is_so in asked.items() if is_so)
        raise NotImplementedError(
            f"attention=varlen does not do {wanted}, which this model asks for; give training.attention=eager, or "
            f"another with which transformers does it"
        )
    query, key, value = (x[0].transpose(0, 1) for x in (query_1HSD, key_1KSD, value_1KSD))
    if query.is_cuda and query.dtype == torch.bfloat16:
        from torch.nn.attention.varlen import varlen_attn

        ends, longest, causal = cu_seq_lens_q, max_length_q, (-1, 0)
        out: Any = varlen_attn(
            query, key, value, ends, ends, longest, longest, scale=scaling, window_size=causal, **_shared_heads()
        )
        return out[None], None
    attend: Any = partial(
        torch.nn.functional.scaled_dot_product_attention, is_causal=True, scale=scaling, enable_gqa=True
    )
    each = (query_1HSD, key_1KSD, value_1KSD)
    pieces = []
    for begin, end in pairwise(cu_seq_lens_q.tolist()):
        own = [x[:, :, begin:end] for x in each]
        pieces.append(attend(*own))
    return torch.cat(pieces, dim=2).transpose(1, 2), None


@cache
def _shared_heads() -> dict[str, Any]:
    """The argument by which one head of keys serves several of queries: torch 2.11 always lets it, and has no word for
    it."""
    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}
