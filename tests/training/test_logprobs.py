import numpy as np
import torch

from mralign.training.logprobs import TokenLogProbs, head_logps, pad
from mralign.training.reference import load_model


def naive(model, prompt, completion):
    """Full logits in float64, one sequence, no padding."""
    ids = torch.from_numpy(np.concatenate([prompt, completion]))[None]
    logits = model(input_ids=ids).logits[0].double().log_softmax(-1)
    where = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
    return logits[where, ids[0, 1:][where]]


def test_padded_batch_equals_full_logits_of_each_sequence_alone(tiny_model, examples):
    model = load_model(tiny_model, dtype="float32")
    with torch.no_grad():
        found = TokenLogProbs(model)(pad([(e.prompt_ids, e.completion_ids) for e in examples], pad_id=0))
        for row, example in zip(found, examples, strict=True):
            expected = naive(model, example.prompt_ids, example.completion_ids)
            np.testing.assert_allclose(row[: len(expected)].double(), expected, atol=2e-6)
            assert not row[len(expected) :].any()
    assert found.dtype == torch.float32
    assert expected.std() > 0.1  # the model does prefer some tokens: equality is no accident


def test_gradient_with_uneven_weights_equals_autograd_through_full_logits(tiny_model, examples):
    model = load_model(tiny_model, dtype="float32").double()
    example = examples[3]
    weights = torch.from_numpy(example.weights_T).double()
    parameter = model.model.layers[0].self_attn.q_proj.weight
    (weights * TokenLogProbs(model)(pad([(example.prompt_ids, example.completion_ids)], pad_id=0))[0]).sum().backward()
    chunked = parameter.grad.clone()
    parameter.grad = None
    (weights * naive(model, example.prompt_ids, example.completion_ids)).sum().backward()
    np.testing.assert_allclose(chunked, parameter.grad, rtol=1e-4, atol=1e-6)  # log-sum-exp is taken in float32


def test_chunks_do_not_change_the_result():
    torch.manual_seed(1)
    hidden, head, target = torch.randn(37, 16), torch.nn.Linear(16, 29, bias=False), torch.randint(0, 29, (37,))
    whole = head_logps(hidden, head, target, chunk=100)
    torch.testing.assert_close(head_logps(hidden, head, target, chunk=5), whole, rtol=0, atol=1e-6)
