"""The training core on a GPU, where there is one: the same oracles as on a CPU (test_loop.py), on the same tiny model.

python -m pytest tests/training/test_gpu.py
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from ranks import KEYS, run_ranks
from tiny_policy import make_task, settings, token_pairs
from transformers.models.qwen3 import modeling_qwen3

from mralign.training.batches import packed, padded
from mralign.training.head import head_logps
from mralign.training.logprobs import TokenLogProbs
from mralign.training.policy import base_policy, build_policy, load_model
from mralign.training.step_figures import PEAK_FLOPS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

BFLOAT = {"gpu": True, "dtype": "bfloat16"}
FLOAT = {  # in float32: as on a CPU
    "plain": {},
    "zero_0": {"zero_stage": 0},
    "zero_1_checkpointed": {"zero_stage": 1, "gradient_checkpointing": True},
    "zero_3": {"zero_stage": 3},
    "zero_3_checkpointed": {"zero_stage": 3, "gradient_checkpointing": True},
    "offloaded": {"offload": "optimizer"},
    "offloaded_whole": {"zero_stage": 3, "offload": "all"},
    "packed": {"packing": "on", "micro_batch_tokens": 40},
    "varlen": {"attention": "varlen", "micro_batch_tokens": 40},
    "memory": {"memory": "auto", "micro_batch_tokens": None},
    "dora": {"tuning": "dora"},
    "full": {"tuning": "full", "learning_rate": 1e-3},
    "full_zero_3": {"tuning": "full", "learning_rate": 1e-3, "zero_stage": 3},
}
LOW = {  # in bfloat16: near to one another
    "plain": {},
    "padded": {"attention": "sdpa"},
    "zero_1": {"zero_stage": 1},
    "zero_3": {"zero_stage": 3},
    "micro_batches": {"micro_batch_tokens": 40},
    "memory": {"memory": "auto", "micro_batch_tokens": None},
    "checkpointed": {"gradient_checkpointing": True},
    "selectively_checkpointed": {"gradient_checkpointing": "selective"},
    "liger_selectively_checkpointed": {"kernels": "liger", "gradient_checkpointing": "selective"},
    "liger": {"kernels": "liger", "micro_batch_tokens": 40},
    "liger_checkpointed": {"kernels": "liger", "gradient_checkpointing": True},
    "liger_zero_3": {"kernels": "liger", "zero_stage": 3},
    "offloaded_whole": {"zero_stage": 3, "offload": "all"},
    "full": {"tuning": "full", "learning_rate": 1e-3},
}


def assert_like(found, wanted, *, tolerance):
    for row, other in zip(found, wanted, strict=True):
        for key in KEYS:
            if key in row and key in other:
                assert row[key] == pytest.approx(other[key], rel=tolerance, abs=tolerance), (key, row, other)


@pytest.fixture(scope="module")
def on_cpu(tiny_model, tmp_path_factory):
    """Histories, weights and gradients of the same trainings on the CPU."""
    kinds = {"plain": {}, "dora": {"tuning": "dora"}, "full": FLOAT["full"]}
    return run_ranks(tmp_path_factory.mktemp("cpu"), tiny_model, kinds)


@pytest.fixture(scope="module")
def in_float32(tiny_model, tmp_path_factory):
    """All of FLOAT, in one process: a start takes longer than a training."""
    ways = {name: {"gpu": True, **way} for name, way in FLOAT.items()}
    return run_ranks(tmp_path_factory.mktemp("float32"), tiny_model, ways, go_on=True)


@pytest.fixture(scope="module")
def in_bfloat16(tiny_model, tmp_path_factory):
    """All of LOW; those with Liger's kernels apart, which change a model's layers for the whole process."""
    found = {}
    for liger in (False, True):
        ways = {name: {**BFLOAT, **way} for name, way in LOW.items() if ("liger" in name) is liger}
        found |= run_ranks(tmp_path_factory.mktemp("bfloat16"), tiny_model, ways, go_on=True)
    return found


def result(found, name):
    """What a training left; the test fails with what it said if it failed."""
    assert not isinstance(found[name], str), found[name]
    return found[name]


@pytest.mark.parametrize("name", FLOAT)
def test_in_float32_every_way_is_the_training_of_a_cpu(in_float32, on_cpu, name):
    history, _, gradients = result(in_float32, name)
    wanted, _, its = on_cpu[FLOAT[name].get("tuning", "plain")]
    assert_like(history, wanted, tolerance=1e-3)
    assert history[0]["memory_gib"] > 0
    assert set(gradients) == set(its)
    for parameter, values in gradients.items():
        np.testing.assert_allclose(values, its[parameter], rtol=0, atol=1e-4 * np.abs(its[parameter]).max() + 1e-9)


@pytest.mark.parametrize("name", LOW)
def test_in_bfloat16_every_way_begins_alike(in_bfloat16, on_cpu, name):
    """Gradients of the first step point where those in float32 do; rounding makes them differ by some percent."""
    if "liger" in name:
        pytest.importorskip("liger_kernel")
    history, _, gradients = result(in_bfloat16, name)
    wanted, _, its = on_cpu[LOW[name].get("tuning", "plain")]
    assert history[0]["loss"] == pytest.approx(wanted[0]["loss"], abs=5e-3)
    assert history[-1]["loss"] == pytest.approx(wanted[-1]["loss"], abs=0.05)
    mine, other = (np.concatenate([values[n].ravel() for n in sorted(its)]) for values in (gradients, its))
    assert mine @ other / np.linalg.norm(mine) / np.linalg.norm(other) > 0.99
    if any(kind in torch.cuda.get_device_name() for kind in PEAK_FLOPS):
        assert 0 < history[0]["mfu"] < 1


def test_a_base_in_four_bits_is_trained(tiny_model, tmp_path):
    pytest.importorskip("bitsandbytes")
    history, weights, _ = run_ranks(tmp_path, tiny_model, {"qlora": {**BFLOAT, "tuning": "qlora"}})["qlora"]
    assert history[0]["loss"] == pytest.approx(first_loss(tmp_path, tiny_model), abs=5e-3)
    assert history[-1]["loss"] < history[0]["loss"]
    assert all(np.isfinite(values).all() for values in weights.values())


def first_loss(home, model):
    """The loss of a fresh policy: the mean of lambda / 2 over the first batch."""
    task = make_task(home / "alone", model)
    polarities = task.reader.index.polarity_N[task.plan.batch(0).examples]
    return float(np.mean([0.5 if p > 0 else 0.75 for p in polarities]))


@pytest.mark.parametrize("kernels", ["torch", "liger"])
def test_packed_varlen_gives_the_log_probabilities_of_padded_float64(task, kernels, monkeypatch):
    if kernels == "liger":
        pytest.importorskip("liger_kernel")
        for name in ("apply_rotary_pos_emb", "Qwen3RMSNorm", "Qwen3MLP"):  # Liger changes them for the whole process
            monkeypatch.setattr(modeling_qwen3, name, getattr(modeling_qwen3, name))
    pairs = token_pairs(task)
    exact = TokenLogProbs(load_model(task.model, settings()).double())(padded(pairs))
    low = settings(**BFLOAT, attention="varlen", kernels=kernels)
    found = TokenLogProbs(load_model(task.model, low).cuda())(packed(pairs))
    single = [TokenLogProbs(load_model(task.model, low).cuda())(packed([pair])) for pair in pairs]
    assert (found.cpu() - exact).abs().max() < 0.1
    assert (found - torch.cat(single)).abs().max() < 0.1  # no sequence sees another
    torch.testing.assert_close(found.cpu().double().sum(), exact.sum(), rtol=5e-3, atol=0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("trained", [False, True])
def test_the_head_in_bfloat16_gives_values_and_gradients_of_float64(trained, bias):
    torch.manual_seed(0)
    head = torch.nn.Linear(256, 5000, bias=bias).cuda().bfloat16().requires_grad_(trained)
    hidden = (3 * torch.randn(300, 256, device="cuda")).bfloat16().requires_grad_()
    target = torch.randint(0, 5000, (300,), device="cuda")
    weights = torch.rand(300, device="cuda", dtype=torch.float64) * 3 - 1

    exact_hidden = hidden.detach().double().requires_grad_()
    exact_head = deepcopy(head).double()
    exact = torch.log_softmax(exact_head(exact_hidden), -1)[torch.arange(300), target]
    (weights * exact).sum().backward()
    found = head_logps(hidden, head, target, chunk=77)
    (weights * found).sum().backward()
    assert found.dtype == torch.float32
    assert (found - exact).norm() / exact.norm() < 1e-2
    assert (hidden.grad - exact_hidden.grad).norm() / exact_hidden.grad.norm() < 2e-2
    for mine, its in zip(head.parameters(), exact_head.parameters(), strict=True):
        assert (mine.grad is None) == (not trained)
        assert not trained or (mine.grad - its.grad).norm() / its.grad.norm() < 2e-2


def test_a_policy_in_four_bits_says_what_its_base_says(task):
    """A fresh adapter changes nothing."""
    pytest.importorskip("bitsandbytes")
    chosen = settings(**BFLOAT, tuning="qlora")
    micro = packed(token_pairs(task))
    with torch.no_grad():
        base = base_policy(task.model, chosen)(micro)
        policy = build_policy(task.model, chosen, seed=0)(micro)
    torch.testing.assert_close(policy, base, rtol=0, atol=1e-5)
