"""Log-probabilities of completion tokens.

A causal model and a micro-batch enter; log pi(y_t | x, y_<t) of its completion tokens leaves, fp32, flat. The decoder
runs over whole sequences, the LM head over completion positions only (`head.py`, `readout.py`). The reference pass and
the training pass both use this module: at step 0 batches of one shape agree to the last bit, others up to rounding.

Axes: B sequences, S positions of a row, N completion tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn

from mralign.training.batches import Micro, with_last_position
from mralign.training.head import head_logps, logits_logps
from mralign.training.readout import decoder_of, is_plain, own_logits


class TokenLogProbs(nn.Module):
    """A causal LM (bare or wrapped by PEFT) whose forward returns logp_N, fp32.

    `sharded`: ZeRO-3 holds the parameters in pieces; a frozen head's weight, read here, is gathered for the whole pass.
    `rope_length`: every micro-batch gets one more token at the last position of that length, seen by no other, so that
    a rotary embedding that looks for the longest position finds the same in all. Raises
    ValueError for a model that does not say where its hidden states are.
    """

    def __init__(
        self, model: Any, *, chunk: int | None = None, sharded: bool = False, rope_length: int | None = None
    ) -> None:
        super().__init__()
        self.model, self.chunk, self.sharded, self.rope_length = model, chunk, sharded, rope_length
        decoder_of(self.causal)
        with _whole(self.causal.get_output_embeddings()):
            self.plain = is_plain(self.causal)

    @property
    def causal(self) -> Any:
        """The causal LM below PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(self, micro: Micro, *, own: bool = False) -> Tensor:
        """`own`: by the model's own forward pass and full logits, for a check of the other way."""
        causal = self.causal
        head = causal.get_output_embeddings()
        if self.rope_length is not None:
            micro = with_last_position(micro, self.rope_length - 1)
        micro = micro.to(next(head.parameters()).device)
        # Right padding needs no mask behind a causal one; without a mask attention takes its fastest way.
        given: dict[str, Any] = {"input_ids": micro.ids_BS, "use_cache": False, **micro.limits()}
        if micro.positions_BS is not None:
            given["position_ids"] = micro.positions_BS
        if own:
            logp_BSV = causal(**given).logits.float().log_softmax(-1)
            return logp_BSV.flatten(0, 1)[micro.where_N, micro.target_N]
        hidden_BSD = decoder_of(causal)(**given).last_hidden_state
        hidden_ND = hidden_BSD.flatten(0, 1)[micro.where_N]
        # A head that is called as a module is gathered by ZeRO-3 at every call: once a pass, on all ranks alike.
        gathered = self.sharded and (head.weight.requires_grad or not self.plain)
        rows = 2**62 if gathered else self.chunk
        if self.plain:
            return head_logps(hidden_ND, head, micro.target_N, chunk=rows)
        return logits_logps(hidden_ND, partial(own_logits, causal), micro.target_N, chunk=rows)


def _whole(head: Any) -> AbstractContextManager[Any]:
    """A context in which a head that was cut among the ranks while it was loaded is whole. Enter it on all ranks."""
    cut = [parameter for parameter in head.parameters() if hasattr(parameter, "ds_id")] if head is not None else []
    if not cut:
        return nullcontext()
    import deepspeed

    gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(cut)
    return gathered
