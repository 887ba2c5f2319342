"""From the decoder's last hidden states to logits, as the model itself does it.

Hidden states enter, logits leave, by the model's own forward pass in which the decoder is replaced by one that returns
those hidden states. Whatever a family does around its head (scales, soft caps, a dense layer before it) is then applied
without being known by name. Where the model's logits are those of its linear head to the last bit, the faster way of
`head.py` is taken instead; that is found by trying both, not by reading the configuration.

Axes: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPast

_TOKENS = 8  # hidden states that are tried
_SPREAD = 30.0  # standard deviation of the logits that are tried: a soft cap shows clearly


class _Hidden(BaseModelOutputWithPast):
    """A decoder's output that holds hidden states; every other field that a family asks for is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def decoder_of(causal: Any) -> Any:
    """The module of `causal` that turns token ids into last hidden states.

    Raises ValueError where the model has none beside itself, or no output layer.
    """
    candidates = [causal.get_decoder(), causal.base_model, getattr(causal, "model", None)]
    found = next((module for module in candidates if _is_decoder(module, causal)), None)
    if found is None or causal.get_output_embeddings() is None:
        raise ValueError(
            f"a model of type {causal.config.model_type} does not say which part of it makes hidden states and which "
            f"makes logits of them; training needs both (get_decoder and get_output_embeddings of transformers)"
        )
    return found


def _is_decoder(module: Any, causal: Any) -> bool:
    return module is not None and module is not causal and module.get_output_embeddings() is None


def own_logits(causal: Any, hidden_ND: Tensor) -> Tensor:
    """The model's logits (N, V) of these hidden states, by its own forward pass. Gradients flow to `hidden_ND`."""
    hidden: Any = hidden_ND[None]
    ids_1N = torch.zeros(1, len(hidden_ND), dtype=torch.int64, device=hidden_ND.device)
    with ExitStack() as replaced:
        # A model calls its decoder, or what stands around it (multimodal ones), or now this and now that.
        for body in {decoder_of(causal), causal.base_model} - {causal}:
            replaced.enter_context(_answers(body, _Hidden(last_hidden_state=hidden)))
        return causal(input_ids=ids_1N, use_cache=False, return_dict=True).logits[0]


@contextmanager
def _answers(module: Any, answer: Any) -> Iterator[None]:
    """For a while `module` computes nothing and returns `answer`."""
    patched = vars(module).get("forward")
    module.forward = lambda *args, **kwargs: answer
    try:
        yield
    finally:
        if patched is None:
            del module.forward
        else:
            module.forward = patched


@torch.no_grad()
def is_plain(causal: Any) -> bool:
    """Whether the model's logits are its linear head's, to the last bit, on hidden states that would show otherwise.

    An adapted or wrapped head is never plain: it may be one only until it is trained.
    """
    head = causal.get_output_embeddings()
    if type(head) is not nn.Linear or "forward" in vars(head):
        return False
    weight_VD = head.weight
    generator = torch.Generator().manual_seed(0)
    noise_ND = torch.randn(_TOKENS, weight_VD.shape[1], generator=generator).to(weight_VD)
    spread = head(noise_ND).float().std()
    hidden_ND = noise_ND * (_SPREAD / spread.clamp(min=1e-6)).to(noise_ND.dtype)
    return torch.equal(own_logits(causal, hidden_ND).float(), head(hidden_ND[None])[0].float())
