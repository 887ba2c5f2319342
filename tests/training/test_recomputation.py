"""What a checkpointed layer keeps and computes again, counted on the operations themselves."""

from collections import Counter

import pytest
import torch
from tiny_policy import VOCABULARY, save_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from mralign.training.recomputation import attention_kept

LAYERS = 2


class Counted(TorchDispatchMode):
    """Counts operations by the name of their schema."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.calls[operation._schema.name] += 1
        return operation(*args, **(kwargs or {}))


def counted(directory, options):
    """Calls by operation of one forward and backward pass, the gradients, and the bytes that stay for the latter."""
    model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="sdpa").train()
    if options is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False, **options})
    ids = torch.arange(40)[None] % VOCABULARY
    with Counted() as counter:
        model(input_ids=ids).logits.square().sum().backward()
    return counter.calls, [p.grad for p in model.parameters()]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_model(directory)
    return directory


def test_attention_is_computed_once_and_projections_twice(model):
    plain, wanted = counted(model, None)
    selective, found = counted(model, {"context_fn": attention_kept})
    whole, _ = counted(model, {})
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert [calls[attention] for calls in (plain, selective, whole)] == [LAYERS, LAYERS, 2 * LAYERS]
    assert selective["aten::mm"] == whole["aten::mm"] > plain["aten::mm"]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
