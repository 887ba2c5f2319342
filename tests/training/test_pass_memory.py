"""What a pass takes of memory, by a formula fitted to short ones: against the passes themselves, and by hand."""

import numpy as np
import pytest
import torch
from tiny_policy import settings
from transformers import AutoModelForCausalLM, Qwen3Config

from mralign.config import Lora, Training
from mralign.plan import memory
from mralign.training import pass_memory
from mralign.training.alone import PlainEngine
from mralign.training.batches import layout
from mralign.training.live_bytes import LiveBytes, peak_bytes
from mralign.training.logprobs import TokenLogProbs
from mralign.training.lora import fuse_lora
from mralign.training.modules import adapt
from mralign.training.pass_memory import PassBytes, bytes_to_come, fitted, head_bytes, measured
from mralign.training.policy import build_policy
from mralign.training.recomputation import recompute

IDS = np.arange(2, 60)


def test_bytes_that_live_together_by_hand():
    given = torch.zeros(1000, requires_grad=True)
    with LiveBytes() as live:
        doubled = given * 2  # 4000 bytes
        whole = doubled.exp()  # keeps itself
        view = whole.view(10, 100)
        assert live.now == 8000
        del doubled
        assert live.now == 4000  # a product with a number keeps nothing
        del whole
        assert live.now == 4000  # the view holds it
        doubled_in_place = view.detach().mul_(2)
        assert live.now == 4000
        del view, doubled_in_place
        assert live.now == 0
    assert live.peak == 8000


def test_three_points_give_the_formula_back():
    wanted = {False: (5000.0, 30.0, 0.25), True: (5000.0, 30.0, 0.25)}
    for packed, (once, token, pair) in wanted.items():
        sizes = [(50, 50), (100, 100), (200, 200 if packed else 100)]
        points = [(t, row, once + token * t + pair * t * row) for t, row in sizes]
        found = fitted(points, packed=packed)
        assert (found.once, found.token, found.pair) == pytest.approx((once, token, pair))
        row = 800 if packed else 100
        assert found.at(800, longest=100) == pytest.approx(once + token * 800 + pair * 800 * row)


def test_less_for_a_longer_sequence_counts_as_nothing():
    found = fitted([(50, 50, 1100.0), (100, 100, 1150.0), (200, 100, 1300.0)], packed=False)
    assert found == PassBytes(once=1000.0, token=1.5, pair=0.0, packed=False)


def kept_for_backward(policy, micro):
    """Bytes that autograd keeps, as its own hooks tell: each storage once, parameters left out."""
    storages = {}
    parameters = {p.untyped_storage().data_ptr() for p in policy.parameters()}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        found = policy(micro)
    assert found.requires_grad
    return sum(storages.values())


WAYS = [
    ({}, False),
    ({}, "selective"),
    ({}, True),
    ({"packing": "on"}, False),
    ({"attention": "varlen"}, "selective"),
    ({"attention": "eager"}, True),
    ({"tuning": "full"}, False),
    ({"tuning": "dora"}, True),
]


@pytest.mark.parametrize(("changes", "what"), WAYS)
def test_a_larger_micro_batch_takes_what_the_formula_says(task, changes, what):
    chosen = settings(**changes)
    policy = build_policy(task.model, chosen, seed=0)
    recompute(policy.model, what)
    with_gradient, without = measured(policy, chosen, IDS, longest=60)
    micro = layout(chosen)([(np.resize(IDS, 1), np.resize(IDS, 59))] * 7)
    policy.chunk = 2
    found = peak_bytes(lambda: pass_memory._with_gradient(policy, chosen, micro), gpu=False)
    assert found == pytest.approx(with_gradient.at(420, longest=60), rel=0.03)
    found = peak_bytes(lambda: pass_memory._without_gradient(policy, micro), gpu=False)
    assert found == pytest.approx(without.at(420, longest=60), rel=0.03)
    if what is False:
        kept = kept_for_backward(policy, micro)
        assert kept <= with_gradient.at(420, longest=60) <= 2 * kept
    assert all(p.grad is None for p in policy.parameters())


def test_recomputing_more_takes_less(task):
    found = {}
    for what in (False, "selective", True):
        policy = build_policy(task.model, settings(), seed=0)
        recompute(policy.model, what)
        found[what] = measured(policy, settings(), IDS, longest=60)[0].token
    assert found[True] < found["selective"] < found[False]


def test_the_pieces_of_the_head_take_no_more_than_is_counted(task, monkeypatch):
    """With pieces so small that logits are most of what the head takes."""
    monkeypatch.setattr("mralign.training.head.CHUNK_BYTES", 4 * 64 * 512)
    monkeypatch.setattr(pass_memory, "CHUNK_BYTES", 4 * 64 * 512)
    for tuning, dtype in (("lora", torch.float32), ("lora", torch.bfloat16), ("full", torch.float32)):
        policy = build_policy(task.model, settings(tuning=tuning), seed=0).to(dtype)
        head, hidden = policy.causal.get_output_embeddings(), torch.randn(1024, 32, dtype=dtype, requires_grad=True)
        target = torch.zeros(1024, dtype=torch.int64)

        def passed(chunk, head=head, hidden=hidden, target=target):
            from mralign.training.head import head_logps

            return peak_bytes(lambda: head_logps(hidden, head, target, chunk=chunk).sum().backward(), gpu=False)

        assert passed(512) - passed(8) <= head_bytes(policy, gpu=False)


def test_what_the_first_step_adds_is_counted(task):
    policy = build_policy(task.model, settings(), seed=0)
    engine = PlainEngine(policy, settings(), rate=1e-3)
    numbers = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert bytes_to_come(engine, settings(zero_stage=0), workers=1) == numbers * (4 + 8 + 8)
    for parameter in engine.trained:
        parameter.grad = torch.zeros_like(parameter)
    engine.step()
    assert bytes_to_come(engine, settings(zero_stage=0), workers=1) == pytest.approx(numbers * 12, rel=0.01)


@pytest.fixture(scope="module")
def eight():
    """The shape of Qwen3-8B with two of its layers, without memory, an adapter of rank 32 on it."""
    config = Qwen3Config(
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151_936,
    )
    chosen = Training(dtype="bfloat16", attention="sdpa", packing="off", lora=Lora(r=32, alpha=64))
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
        policy = adapt(base.eval(), chosen).to(torch.bfloat16)
    fuse_lora(policy)
    shape = memory.shape_of(config, parameters=1, trained=1)
    return chosen, policy, shape


def test_a_token_of_the_shape_of_qwen3_8b_takes_what_the_plan_counts(eight, monkeypatch):
    """Two ways to count, of which the plan's was read off what autograd keeps: they agree to about a tenth, where
    nothing is recomputed and where all is. Attention is computed in parts on `meta`, which the formula tells apart."""
    chosen, model, shape = eight
    # these two look at numbers
    monkeypatch.setattr("mralign.training.logprobs.is_plain", lambda causal: True)
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda positions: None)
    policy = TokenLogProbs(model)
    micro = layout(chosen)
    sizes = {}
    for what in (False, True):
        recompute(model, what)
        points = []
        for rows, tokens in ((1, 128), (1, 256), (2, 256)):
            given = micro([(IDS[:1], np.resize(IDS, tokens - 1))] * rows)
            moved = type(given)(**{k: v.to("meta") if torch.is_tensor(v) else v for k, v in vars(given).items()})
            policy.chunk = 2
            peak = peak_bytes(lambda moved=moved: pass_memory._with_gradient(policy, chosen, moved), gpu=False)
            points.append((rows * tokens, tokens, peak))
        sizes[what] = fitted(points, packed=False)
    for what, found in sizes.items():
        settings_now = chosen.model_copy(update={"gradient_checkpointing": what})
        assert found.token == pytest.approx(memory.activations(shape, settings_now, tokens=1), rel=0.12), what
    assert sizes[False].pair > 2 * 32 * 2  # the scores of two layers with 32 heads in bfloat16
