"""Log-probabilities of completion tokens.

A causal model and a micro-batch enter; log pi(y_t | x, y_<t) of its completion tokens leaves, fp32, flat. The decoder
runs over whole sequences, the LM head over completion positions only (`head.py`). The reference pass and the training
pass both use this module: at step 0 batches of one shape agree to the last bit, others up to rounding.

Axes: B sequences, S positions of a row, N completion tokens, D hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mralign.training.batches import Micro
from mralign.training.head import head_logps


class TokenLogProbs(nn.Module):
    """A causal LM (bare or wrapped by PEFT) whose forward returns logp_N, fp32.

    `sharded`: ZeRO-3 holds the parameters in pieces; a frozen head's weight, read here, is gathered for the whole pass.
    """

    def __init__(self, model: Any, *, chunk: int | None = None, sharded: bool = False) -> None:
        super().__init__()
        self.model, self.chunk, self.sharded = model, chunk, sharded

    @property
    def causal(self) -> Any:
        """The causal LM below PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, micro: Micro) -> Tensor:
        causal = self.causal
        head = causal.get_output_embeddings()
        micro = micro.to(head.weight.device)
        # Right padding needs no mask behind a causal one; without a mask attention takes its fastest way.
        hidden_BSD = causal.get_decoder()(
            input_ids=micro.ids_BS, position_ids=micro.positions_BS, use_cache=False, **micro.limits()
        ).last_hidden_state
        hidden_ND = hidden_BSD.flatten(0, 1)[micro.where_N]
        # A trained head is called as a module, which ZeRO-3 gathers at every call: once a pass, on all ranks alike.
        rows = 2**62 if self.sharded and head.weight.requires_grad else self.chunk
        return head_logps(hidden_ND, head, micro.target_N, chunk=rows)
