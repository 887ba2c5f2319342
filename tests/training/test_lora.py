from functools import partial

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from tiny_policy import settings
from torch import nn

from mralign.training.lora import fuse_lora
from mralign.training.policy import build_policy, load_model


def adapted(*, bias=False, **changes):
    """A small network of two linear layers, as PEFT adapts it, with an adapter that is not zero; fp64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 5, bias=bias)).double()
    policy = get_peft_model(network, LoraConfig(r=3, lora_alpha=7, target_modules=["0", "2"], **changes))
    for parameter in policy.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return policy.double()


def gradients(policy, x, weights):
    policy.zero_grad()
    x = x.clone().requires_grad_()
    (policy(x) * weights).sum().backward()
    return [x.grad, *(p.grad for p in policy.parameters() if p.requires_grad)]


@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_are_pefts(bias):
    policy = adapted(bias=bias)
    x, weights = torch.randn(2, 4, 6, dtype=torch.float64), torch.randn(2, 4, 5, dtype=torch.float64)
    wanted, slopes = policy(x), gradients(policy, x, weights)
    assert fuse_lora(policy) == 2
    torch.testing.assert_close(policy(x), wanted)
    for mine, its in zip(gradients(policy, x, weights), slopes, strict=True):
        torch.testing.assert_close(mine, its)
    assert torch.autograd.gradcheck(policy, x.requires_grad_())
    assert all(p.grad is None for p in policy.parameters() if not p.requires_grad)


def test_a_disabled_and_a_merged_adapter_are_pefts_business():
    policy = adapted()
    x = torch.randn(4, 6, dtype=torch.float64)
    with policy.disable_adapter():
        base = policy(x)
    assert fuse_lora(policy) == 2
    with policy.disable_adapter():
        assert torch.equal(policy(x), base)
    fused = policy(x)
    assert not torch.allclose(fused, base)
    policy.merge_adapter()
    torch.testing.assert_close(policy(x), fused)  # added once
    policy.unmerge_adapter()
    policy.add_adapter("second", policy.peft_config["default"])
    policy.base_model.set_adapter(["default", "second"])  # the second one is zero
    torch.testing.assert_close(policy(x), fused)
    torch.testing.assert_close(policy.merge_and_unload()(x), fused)


def test_an_output_may_be_changed_in_place_and_an_input_may_be_empty():
    policy = adapted()
    fuse_lora(policy)
    layer = policy.base_model.model[0]
    wanted = 2 * layer(torch.ones(4, 6).double())
    assert torch.equal(layer(torch.ones(4, 6).double()).mul_(2), wanted)
    assert layer(torch.ones(2, 0, 6).double()).shape == (2, 0, 8)


@pytest.mark.parametrize(("stage", "fused"), [(2, True), (3, False)])
def test_a_policy_has_them_unless_zero_3_gathers_weights_layer_by_layer(task, stage, fused):
    policy = build_policy(task.model, settings(zero_stage=stage), seed=0)
    layers = [module for module in policy.modules() if type(module) is Linear]
    assert len(layers) == 2 * 7
    assert all(isinstance(layer.forward, partial) == fused for layer in layers)


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"lora_dropout": 0.1}, {"lora_bias": True}])
def test_what_is_not_plain_stays_as_it_is(changes):
    bias = "lora_bias" in changes
    assert fuse_lora(adapted(bias=bias, **changes)) == 0


def test_a_layer_that_is_not_at_one_dtype_yet_stays_as_it_is():
    policy = adapted().float()
    for name, parameter in policy.named_parameters():
        if "lora_" not in name:
            parameter.data = parameter.data.bfloat16()
    x = torch.randn(4, 6).bfloat16()
    wanted = policy(x)
    fuse_lora(policy)
    assert torch.equal(policy(x), wanted)


def test_every_adapted_layer_of_a_real_decoder_is_plain(tiny_model, task):
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = get_peft_model(load_model(task.model, settings()), config)
    assert fuse_lora(policy) == 2 * 7  # q, k, v, o, gate, up, down of two blocks
