import numpy as np
import pytest
import torch
from tiny_policy import token_pairs

from mralign.training.batches import packed, padded
from mralign.training.logprobs import TokenLogProbs
from mralign.training.policy import load_model


def naive(model, prompt, completion):
    """Full logits in float64, one sequence, no padding."""
    ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
    logits = model(input_ids=ids).logits[0].double().log_softmax(-1)
    where = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return logits[where, ids[0, 1:][where]]


@pytest.mark.parametrize("layout", [padded, packed])
def test_a_batch_equals_full_logits_of_each_sequence_alone(task, layout):
    model, pairs = load_model(task.model, task.settings), token_pairs(task)
    micro = layout(pairs)
    assert micro.ids_BS.shape[0] == (len(pairs) if layout is padded else 1)
    with torch.no_grad():
        found = TokenLogProbs(model)(micro)
        expected = torch.cat([naive(model, *pair) for pair in pairs])
        alone = torch.cat([TokenLogProbs(model)(layout([pair])) for pair in pairs])
    np.testing.assert_allclose(found.double(), expected, atol=2e-6)
    np.testing.assert_allclose(alone.double(), expected, atol=2e-6)
    assert found.dtype == torch.float32
    assert expected.std() > 0.1  # the model does prefer some tokens: equality is no accident
    sums = [row.sum().item() for row in expected.split([len(completion) for _, completion in pairs])]
    np.testing.assert_allclose(micro.sum(found).detach(), sums, atol=2e-5)


def test_gradient_with_uneven_weights_equals_autograd_through_full_logits(task):
    model = load_model(task.model, task.settings).double()
    (example,) = task.reader.fetch([3])
    pair, weights = (example.prompt_ids, example.completion_ids), torch.from_numpy(example.weights_T).double()
    assert weights.std() > 0.1
    for parameter in model.lm_head.parameters():
        parameter.requires_grad_(False)
    parameter = model.model.layers[0].self_attn.q_proj.weight
    (weights * TokenLogProbs(model)(padded([pair]))).sum().backward()
    ours = parameter.grad.clone()
    parameter.grad = None
    (weights * naive(model, *pair)).sum().backward()
    np.testing.assert_allclose(ours, parameter.grad, rtol=1e-9, atol=1e-12)
