"""The loop on a real DeepSpeed engine: oracles of METHOD.md section 5 that need no peer library."""

import json
import os
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_policy import make_task, settings

from mralign.training.logprobs import TokenLogProbs, pad
from mralign.training.loss import KtoSettings, kto_loss, reward
from mralign.training.reference import score
from mralign.training.worker import World, build_policy, deal, learning_rate

RANK = Path(__file__).with_name("rank.py")


def run_ranks(tmp_path, model, *, ranks=1, **changes):
    """Train in `ranks` processes with a process group of their own; (history, adapter tensors)."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (RANK.parents[1], RANK.parents[2])))
    target = tmp_path / f"out-{'-'.join(f'{k}{v}' for k, v in changes.items())}-{ranks}"
    running = [
        subprocess.Popen(
            [sys.executable, str(RANK), model, str(target), json.dumps({**changes, "workers": ranks})],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]
    assert [process.wait(timeout=240) for process in running] == [0] * ranks
    history = json.loads((target / "state.json").read_text())["history"]
    adapter = load_file(target / "adapter" / "adapter_model.safetensors")
    return history, {name: values.float().numpy() for name, values in adapter.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, tiny_model):
    return run_ranks(tmp_path_factory.mktemp("ranks"), tiny_model)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 3},
        {"micro_batch_size": 6},
        {"zero_stage": 0},
        {"ranks": 2, "micro_batch_size": 1},
        {"ranks": 2, "zero_stage": 3, "micro_batch_size": 1, "gather_all": True},
    ],
)
def test_cut_ranks_and_zero_stage_do_not_change_the_result(tmp_path, tiny_model, undisturbed, changes):
    history, adapter = run_ranks(tmp_path, tiny_model, **changes)
    expected_history, expected = undisturbed
    for row, wanted in zip(history, expected_history, strict=True):
        for key in ("loss", "z0", "grad_norm", "reward_chosen", "reward_rejected", "tokens"):
            if key == "grad_norm" and changes.get("zero_stage") == 0:
                continue  # DeepSpeed's plain engine does not tell it
            assert row[key] == pytest.approx(wanted[key], rel=2e-4, abs=2e-5), (key, row, wanted)
    for name, values in expected.items():
        np.testing.assert_allclose(adapter[name], values, atol=2e-5, err_msg=name)


def test_bfloat16_trains_close_to_float32(tmp_path, tiny_model, undisturbed):
    history, _ = run_ranks(tmp_path, tiny_model, dtype="bfloat16")
    for row, wanted in zip(history, undisturbed[0], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], abs=0.03)
    assert history[-1]["margin"] == pytest.approx(undisturbed[0][-1]["margin"], rel=0.3)


def test_training_moves_the_two_classes_apart(undisturbed):
    history, adapter = undisturbed
    assert any(np.abs(values).max() > 1e-3 for name, values in adapter.items() if "lora_B" in name)
    assert history[0]["reward_chosen"] == pytest.approx(0.0, abs=1e-4)
    assert history[-1]["margin"] > 0.05


def test_a_fresh_lora_has_reward_exactly_zero_and_half_of_lambda_as_loss(tiny_model, examples):
    task = make_task(tiny_model, examples)
    batch = examples[:4]
    pairs = [(e.prompt_ids, e.completion_ids) for e in batch]
    policy = build_policy(task)
    reference = score(TokenLogProbs(policy.model.get_base_model()), pairs, pad_id=0)
    logp = policy(pad(pairs, pad_id=0))
    rows = torch.zeros_like(logp)
    for place, values in enumerate(reference):
        rows[place, : len(values)] = torch.from_numpy(values)
    weights = torch.rand(logp.shape)
    r = reward(logp, reference_BT=rows, weights_BT=weights)
    assert r.tolist() == [0.0] * 4
    polarity = torch.tensor([float(e.polarity) for e in batch])
    loss = kto_loss(r, polarity_B=polarity, z0=torch.tensor(0.0), settings=KtoSettings(0.1, 1.0, 1.5))
    assert loss.mean().item() == np.mean([0.5 if e.polarity > 0 else 0.75 for e in batch])


def test_a_reference_of_another_model_is_caught_at_step_0(tmp_path, tiny_model):
    with pytest.raises(AssertionError, match=r"\[1\] == \[0\]"):
        run_ranks(tmp_path, tiny_model, spoil_reference=True)


def test_every_place_is_dealt_once_and_all_ranks_make_the_same_number_of_passes(tiny_model, examples):
    batch = make_task(tiny_model, examples).batches()[0]
    for size, micro in [(1, 2), (2, 2), (3, 1), (2, 4)]:
        dealt = [deal(batch, world=World(rank, size), micro=micro) for rank in range(size)]
        assert len({len(rounds) for rounds in dealt}) == 1
        places = np.concatenate([places for rounds in dealt for places in rounds])
        assert sorted(p for p in places if p >= 0) == list(range(len(batch.examples)))


def test_learning_rate_warms_up_then_falls_to_zero():
    s = settings(learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(step, total=10, settings=s) for step in range(10)]
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
    assert rates[2] == 1.0
    assert rates[-1] == pytest.approx(1 / 8)
    assert all(a > b for a, b in pairwise(rates[2:]))
