import numpy as np
import pytest
import torch
from tiny_policy import settings, token_pairs

from mralign.training.attention import varlen_attention
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


def test_varlen_attention_of_packed_sequences_equals_padded_sdpa(task):
    """Values and gradients, float64; on a CPU, where each sequence is one scaled-dot-product attention."""
    pairs, found = token_pairs(task), []
    for attention, layout in (("sdpa", padded), ("varlen", packed)):
        model = load_model(task.model, settings(attention=attention)).double()
        assert model.config._attn_implementation == attention
        logp = TokenLogProbs(model)(layout(pairs))
        (logp * torch.linspace(-1, 2, len(logp), dtype=torch.float64)).sum().backward()
        found.append((logp.detach(), model.model.layers[0].self_attn.k_proj.weight.grad))
    for padded_value, packed_value in zip(*found, strict=True):
        torch.testing.assert_close(packed_value, padded_value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"softcap": 30.0}, r"a soft cap \(30\.0\), which"),
        ({"sliding_window": 3}, "a window of 3 tokens for 5"),
        ({"s_aux": torch.zeros(4)}, "sinks"),
        ({"position_bias": torch.zeros(1)}, "a bias by position"),
        ({"is_causal": False}, "later tokens"),
    ],
)
def test_varlen_attention_says_what_it_cannot_do(given, message):
    query, key = torch.zeros(1, 4, 9, 8), torch.zeros(1, 2, 9, 8)
    ends = {"cu_seq_lens_q": torch.tensor([0, 5, 9], dtype=torch.int32), "max_length_q": 5}
    out, _ = varlen_attention(None, query, key, key, None, **ends, sliding_window=5)
    assert out.shape == (1, 9, 4, 8)
    with pytest.raises(NotImplementedError, match=message):
        varlen_attention(None, query, key, key, None, **ends, **given)
    with pytest.raises(NotImplementedError, match="a mask"):
        varlen_attention(None, query, key, key, torch.zeros(1), **ends)
    with pytest.raises(ValueError, match="packed sequences only"):
        varlen_attention(None, query, key, key, None)


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
