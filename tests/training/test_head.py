import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mralign.training.head import head_logps

N, D, V = 37, 16, 29


def make(*, bias=False, dtype=torch.float32, trained=False, vocabulary=V):
    torch.manual_seed(1)
    head = torch.nn.Linear(D, vocabulary, bias=bias, dtype=dtype).requires_grad_(trained)
    hidden = torch.randn(N, D, dtype=dtype, requires_grad=True)
    return hidden, head, torch.randint(0, vocabulary, (N,))


def plain(hidden, head, target):
    return head(hidden).log_softmax(-1)[torch.arange(N), target]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_values_and_gradients_pass_gradcheck_in_fp64_with_uneven_weights(bias, trained):
    hidden, head, target = make(bias=bias, dtype=torch.float64, trained=trained)
    weights = torch.rand(N, dtype=torch.float64) * 3 - 1

    def weighed(h):
        return (weights * head_logps(h, head, target, chunk=5)).sum()

    assert torch.autograd.gradcheck(weighed, hidden)
    torch.testing.assert_close(head_logps(hidden, head, target, chunk=5), plain(hidden, head, target))
    if trained:
        weighed(hidden).backward()
        found = head.weight.grad.clone()
        head.weight.grad = None
        (weights * plain(hidden, head, target)).sum().backward()
        torch.testing.assert_close(found, head.weight.grad)


def test_chunks_do_not_change_the_result():
    hidden, head, target = make()
    whole = head_logps(hidden, head, target, chunk=100)
    torch.testing.assert_close(head_logps(hidden, head, target, chunk=5), whole, rtol=0, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(head_logps(hidden, head, target, chunk=100), whole)


def test_a_frozen_head_gets_no_gradient():
    hidden, head, target = make(bias=True)
    head_logps(hidden, head, target).sum().backward()
    assert head.weight.grad is None
    assert head.bias.grad is None


def test_large_logits_neither_overflow_nor_vanish():
    hidden, head, target = make()
    found = head_logps(hidden * 1000, head, target)
    torch.testing.assert_close(found, plain(hidden * 1000, head, target))
    assert found.min() < -500


def test_log_sum_exp_of_bfloat16_is_taken_in_float32():
    hidden, head, target = make(dtype=torch.bfloat16)
    found = head_logps(hidden, head, target)
    assert found.dtype == torch.float32
    logits = head(hidden).float()  # the product itself is rounded to bfloat16, as in the model
    torch.testing.assert_close(found, logits.log_softmax(-1)[torch.arange(N), target])


@pytest.mark.parametrize("sure", [0.9, 0.99, 0.999, 0.99999])
def test_sure_tokens_keep_their_gradient_in_bfloat16(sure):
    """The hidden states are given, so that the target has the probability `sure`; truth in float64 from the same
    rounded values."""
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 500, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    target = torch.randint(0, 500, (N,))
    hidden = head.weight.double()[target]
    low, high = torch.zeros(N, 1).double(), torch.full((N, 1), 1e4).double()
    for _ in range(60):  # how far along its own row a target must lie
        middle = (low + high) / 2
        p = (middle * hidden @ head.weight.double().T).softmax(1)[torch.arange(N), target][:, None]
        low, high = torch.where(p < sure, middle, low), torch.where(p < sure, high, middle)
    given = (low * hidden).to(torch.bfloat16).requires_grad_()
    head_logps(given, head, target).sum().backward()
    logits = torch.nn.functional.linear(given.detach(), head.weight).double()  # rounded as the model rounds them
    share = logits.softmax(1)
    share[torch.arange(N), target] -= 1
    truth = -share @ head.weight.double()
    error = (given.grad.double() - truth).norm(dim=1) / truth.norm(dim=1)
    assert error.max() < 0.02, error.max()


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return made


@pytest.mark.parametrize("trained", [False, True])
def test_there_is_never_a_full_logits_tensor(trained):
    hidden, head, target = make(trained=trained, vocabulary=500)
    with Largest() as largest:
        head_logps(hidden, head, target, chunk=3).sum().backward()
    assert largest.numel == 500 * D  # the head itself
    with Largest() as largest:
        plain(hidden, head, target)
    assert largest.numel == 500 * N
