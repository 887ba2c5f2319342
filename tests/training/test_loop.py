"""The loop on a real DeepSpeed engine: oracles of method.md §5 that need no peer library."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from peft import get_peft_model_state_dict
from ranks import KEYS, run_ranks
from tiny_policy import make_task, settings, token_pairs

from mralign.training.alone import PlainEngine
from mralign.training.batches import padded
from mralign.training.checkpoint import State
from mralign.training.engine import World
from mralign.training.logprobs import TokenLogProbs
from mralign.training.loop import learning_rate, train
from mralign.training.objectives import find
from mralign.training.objectives.objective import Sums
from mralign.training.policy import build_policy

AUTO = {"memory": "auto", "micro_batch_tokens": None}
RUNS_OUT = 60  # backward passes of adapted layers, 14 a micro-batch: in the middle of the second step
FULL = {"tuning": "full", "learning_rate": 1e-3}
# Everything that writes an optimizer state of its own kind.
LAYOUTS = {
    "layout_0": {"zero_stage": 0},
    "layout_1": {"zero_stage": 1, "dtype": "bfloat16"},
    "layout_2": {"offload": "optimizer"},
    "layout_3": {"offload": "all", "zero_stage": 3, "gather_all": True, "dtype": "bfloat16"},
    "layout_whole": {"zero_stage": 3},
    "layout_full": {**FULL, "zero_stage": 2, "dtype": "bfloat16"},
}
ALONE = {
    "plain": {},
    "one_sequence_at_a_time": {"micro_batch_tokens": 1},
    "all_at_once": {"micro_batch_tokens": 10**6},
    "packed": {"packing": "on", "micro_batch_tokens": 40},
    "varlen": {"attention": "varlen", "micro_batch_tokens": 40},
    "zero_0": {"zero_stage": 0},
    **{f"ran_out_zero_{stage}": {"zero_stage": stage, "runs_out_after": RUNS_OUT} for stage in (0, 1, 2)},
    "memory_auto": {**AUTO},
    "memory_auto_zero_0": {**AUTO, "zero_stage": 0},
    "memory_auto_zero_3": {**AUTO, "zero_stage": 3, "gather_all": True},
    "memory_packed": {**AUTO, "memory": "900GiB", "packing": "on"},
    "zero_1_checkpointed": {"zero_stage": 1, "gradient_checkpointing": True},
    "selectively_checkpointed": {"gradient_checkpointing": "selective"},
    "bfloat16": {"dtype": "bfloat16"},
    "dora": {"tuning": "dora"},
    "full": FULL,
    "kl_every_2": {"kl_every": 2},
    "kl_pairs_2": {"kl_pairs": 2},
    "no_pairs": {"pairs": "none"},
    "kto": {"method": "kto"},
    "sft": {"method": "sft"},
    "apo_zero": {"method": "apo_zero"},
    "left": {"checkpoint_every": 2, "stop_after": 4, "lora": {"r": 4, "alpha": 8, "dropout": 0.2}},
    "resumed": {"checkpoint": "left", "lora": {"r": 4, "alpha": 8, "dropout": 0.2}},
    "dropped_out": {"lora": {"r": 4, "alpha": 8, "dropout": 0.2}},
    **{f"left_{name}": {**layout, "stop_after": 1, "checkpoint_every": 1} for name, layout in LAYOUTS.items()},
    **{f"resumed_{name}": {**layout, "checkpoint": f"left_{name}", "max_steps": 2} for name, layout in LAYOUTS.items()},
    "zero_3_alone": {"zero_stage": 3, "gather_all": True},
    "zero_2_offloaded": {"offload": "optimizer"},
    "zero_3_offloaded": {"offload": "all", "zero_stage": 3, "gather_all": True, "gradient_checkpointing": True},
    "left_zero_2": {"checkpoint_every": 1, "stop_after": 3},
    "left_zero_3": {"zero_stage": 3, "gather_all": True, "checkpoint_every": 1, "stop_after": 3},
    "resumed_zero_3": {"zero_stage": 3, "gather_all": True, "checkpoint": "left_zero_3"},
}
TOGETHER = {
    "zero_2": {},
    "left_zero_2": {"checkpoint_every": 1, "stop_after": 3},
    "resumed_zero_2": {"checkpoint": "left_zero_2"},
    "zero_3": {"zero_stage": 3, "gather_all": True},
    "left_zero_3": {"zero_stage": 3, "gather_all": True, "checkpoint_every": 1, "stop_after": 3},
    "resumed_zero_3": {"zero_stage": 3, "gather_all": True, "checkpoint": "left_zero_3"},
    "full_zero_3": {"zero_stage": 3, "gather_all": True, **FULL},
}
# What one worker has left two take over, and the other way about: settings by name, `left_` before that name.
GROWN = {
    "zero_2": {},
    "zero_3": {"zero_stage": 3, "gather_all": True},
    **{name: {**layout, "stop_after": 2, "checkpoint_every": 2} for name, layout in LAYOUTS.items()},
}
SHRUNK = {name: GROWN[name] for name in ("zero_2", "zero_3")}


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return {name: tmp_path_factory.mktemp(name) for name in ("alone", "together")}


@pytest.fixture(scope="module")
def alone(homes, tiny_model):
    return run_ranks(homes["alone"], tiny_model, ALONE)


def test_no_worker_loads_a_compiler_that_nobody_uses(alone, homes):
    """It would take every worker over a second."""
    assert (homes["alone"] / "compiler").read_text() == "False"


def taking_over(variants, *, side, home):
    """The variants by new names, each going on from what the one of its name has left in `home`."""
    return {f"{side}_{name}": {**it, "checkpoint": str(home / f"left_{name}")} for name, it in variants.items()}


@pytest.fixture(scope="module")
def together(homes, tiny_model, alone):
    grown = taking_over(GROWN, side="grown", home=homes["alone"])
    return run_ranks(homes["together"], tiny_model, TOGETHER | grown, ranks=2)


@pytest.fixture(scope="module")
def shrunk(tmp_path_factory, tiny_model, homes, together):
    home = homes["shrunk"] = tmp_path_factory.mktemp("shrunk")
    return run_ranks(home, tiny_model, taking_over(SHRUNK, side="shrunk", home=homes["together"]))


@pytest.fixture(scope="module")
def undisturbed(alone):
    return alone["plain"]


VARIANTS = [
    "one_sequence_at_a_time",
    "all_at_once",
    "packed",
    "varlen",
    "zero_0",
    "zero_1_checkpointed",
    "selectively_checkpointed",
    "zero_2",
    "zero_3",
]
VARIANTS += ["zero_2_offloaded", "zero_3_offloaded"]
RAN_OUT = [f"ran_out_zero_{stage}" for stage in (0, 1, 2)]
AUTOMATIC = ["memory_auto", "memory_auto_zero_0", "memory_auto_zero_3", "memory_packed"]


@pytest.mark.parametrize("name", [*VARIANTS, *RAN_OUT, *AUTOMATIC])
def test_cut_layout_ranks_and_zero_stage_do_not_change_the_result(alone, together, undisturbed, name):
    """Gradients of the first step, figures of all six and the weights after them, to 1e-5."""
    history, adapter, gradients = {**alone, **together}[name]
    expected_history, expected, expected_gradients = undisturbed
    assert set(gradients) == set(expected_gradients)
    assert len(gradients) == 2 * 2 * 7  # A and B of seven linear layers in two blocks
    for parameter, values in expected_gradients.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(gradients[parameter], values, atol=1e-5 * largest + 1e-9, err_msg=parameter)
    for row, wanted in zip(history, expected_history, strict=True):
        for key in KEYS:
            if key == "grad_norm" and name.endswith("zero_0"):
                continue  # DeepSpeed's plain engine does not tell it
            assert (key in row) is (key in wanted), (key, row, wanted)
            if key not in wanted:
                continue  # a batch of one class has no reward of the other and no margin
            assert row[key] == pytest.approx(wanted[key], rel=1e-5, abs=1e-5), (key, row, wanted)
    for parameter, values in expected.items():
        np.testing.assert_allclose(adapter[parameter], values, atol=1e-5, err_msg=parameter)  # a thousandth of a step


def test_a_training_alone_in_this_process_is_that_of_deepspeed(tmp_path, tiny_model, undisturbed):
    """Figures of every step and the weights after them, with the epsilon that rank.py gives DeepSpeed."""
    task = make_task(tmp_path, tiny_model, epochs=3)
    engine = PlainEngine(build_policy(task.model, task.settings, seed=task.seed), task.settings, rate=task.rate)
    engine.optimizer.param_groups[0]["eps"] = 1e-3
    state = train(engine, task, world=World(), state=State(), save=lambda state: None)
    expected_history, expected, _ = undisturbed
    for row, wanted in zip(state.history, expected_history, strict=True):
        for key in set(KEYS) & set(wanted):  # a batch of one class has no reward of the other
            assert row[key] == pytest.approx(wanted[key], rel=1e-5, abs=1e-5), (key, row, wanted)
    found = get_peft_model_state_dict(engine.module.model)
    assert set(found) == set(expected)
    for parameter, values in expected.items():
        np.testing.assert_allclose(found[parameter].numpy(), values, atol=1e-5, err_msg=parameter)


def test_bfloat16_trains_close_to_float32(alone, undisturbed):
    history, _, _ = alone["bfloat16"]
    for row, wanted in zip(history, undisturbed[0], strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], abs=0.03)
    assert history[-1]["margin"] == pytest.approx(undisturbed[0][-1]["margin"], rel=0.3)


def test_training_moves_the_two_classes_apart(undisturbed):
    history, adapter, _ = undisturbed
    assert any(np.abs(values).max() > 1e-3 for name, values in adapter.items() if "lora_B" in name)
    assert history[0]["reward_chosen"] == pytest.approx(0.0, abs=1e-4)
    assert history[-1]["margin"] > 0.05
    assert history[-1]["plain_margin"] != history[-1]["margin"]  # the weights are uneven
    assert history[-1]["tokens_per_s"] > 0


@pytest.mark.parametrize("name", ["dora", "full"])
def test_other_tunings_train_and_are_what_they_say(alone, undisturbed, name):
    history, found, _ = alone[name]
    assert history[0]["loss"] == pytest.approx(undisturbed[0][0]["loss"], abs=1e-5)
    assert history[-1]["margin"] > 0.01
    assert any("magnitude" in parameter for parameter in found) == (name == "dora")
    assert any("lora" in parameter for parameter in found) == (name == "dora")
    assert ("lm_head.weight" in found) == (name == "full")


def test_full_tuning_by_zero_3_equals_one_worker(alone, together):
    (history, whole, gradients), (cut, found, cut_gradients) = alone["full"], together["full_zero_3"]
    for row, wanted in zip(cut, history, strict=True):
        found_now, wanted_now = ([r[key] for key in ("loss", "z0")] for r in (row, wanted))
        assert found_now == pytest.approx(wanted_now, rel=1e-3, abs=1e-4)
    for parameter, values in gradients.items():
        largest = np.abs(values).max()
        np.testing.assert_allclose(cut_gradients[parameter], values, atol=1e-5 * largest + 1e-9, err_msg=parameter)
    for parameter, values in whole.items():
        np.testing.assert_allclose(found[parameter], values, atol=1e-4, err_msg=parameter)


def test_z0_is_estimated_every_so_often_and_kept_between(alone, undisturbed):
    z0 = [row["z0"] for row in alone["kl_every_2"][0]]
    assert len(z0) == 6
    assert [z0[1], z0[3], z0[5]] == [z0[0], z0[2], z0[4]]
    assert z0[4] > 0
    assert [row["z0"] for row in alone["no_pairs"][0]] == [0.0] * 6
    assert any(row["z0"] > 0 for row in undisturbed[0])


def test_z0_of_fewer_pairs_is_near_that_of_all(alone, undisturbed):
    few, all_pairs = ([row["z0"] for row in found[0]] for found in (alone["kl_pairs_2"], undisturbed))
    assert [few[0], all_pairs[0]] == pytest.approx([0.0, 0.0], abs=1e-5)
    assert few != all_pairs
    assert max(few) > 0


@pytest.mark.parametrize("method", ["kto", "sft", "apo_zero"])
def test_every_objective_is_the_same_loop(alone, method):
    history, _, _ = alone[method]
    if method == "sft":
        assert history[-1]["loss"] < history[0]["loss"]
        assert "margin" not in history[0]
    else:
        assert history[-1]["margin"] > 0
        assert ("z0" in history[0]) == (method == "kto")
        assert history[-1]["margin"] == pytest.approx(history[-1]["plain_margin"], rel=1e-6)  # every token weighs 1


@pytest.mark.parametrize(
    ("side", "left", "resumed", "whole"),
    [
        ("alone", "left", "resumed", "dropped_out"),  # dropout goes on as it would have
        ("alone", "left_zero_3", "resumed_zero_3", "zero_3_alone"),
        ("together", "left_zero_2", "resumed_zero_2", "zero_2"),
        ("together", "left_zero_3", "resumed_zero_3", "zero_3"),
    ],
)
def test_a_training_that_was_left_goes_on_to_the_same_bits(alone, together, side, left, resumed, whole):
    runs = {"alone": alone, "together": together}[side]
    (history, found, _), (expected_history, expected, _) = runs[resumed], runs[whole]
    assert len(runs[left][0]) < len(history) == len(expected_history) == 6
    for row, wanted in zip(history, expected_history, strict=True):
        same = ("step", "loss", "z0", "margin", "learning_rate")
        assert [row.get(key) for key in same] == [wanted.get(key) for key in same]
    for parameter, values in expected.items():
        assert np.array_equal(found[parameter], values), parameter
    assert not np.array_equal(runs[left][1][parameter], values)


def test_dropout_drops(alone):
    assert [row["loss"] for row in alone["dropped_out"][0]][1:] != [row["loss"] for row in alone["plain"][0]][1:]


TAKEN_OVER = [("grown", name) for name in GROWN] + [("shrunk", name) for name in SHRUNK]


@pytest.mark.parametrize(("side", "name"), TAKEN_OVER)
def test_another_number_of_workers_takes_over_every_bit_of_the_optimizer(homes, shrunk, side, name):
    """Weights in float32, both moments and the number of steps, as DeepSpeed's own functions gather them."""
    places = {"grown": ("alone", "together"), "shrunk": ("together", "shrunk")}[side]
    with np.load(homes[places[0]] / f"left_{name}" / "left.npz") as left:
        expected = dict(left)
    with np.load(homes[places[1]] / f"{side}_{name}" / "taken.npz") as taken:
        found = dict(taken)
    assert set(found) == set(expected)
    assert any(values.any() for key, values in expected.items() if key.endswith("exp_avg"))
    assert expected["steps"] == (3 if name in SHRUNK else 1)
    for key, values in expected.items():
        assert np.array_equal(found[key], values), key


@pytest.mark.parametrize("name", SHRUNK)
@pytest.mark.parametrize("side", ["grown", "shrunk"])
def test_a_training_goes_on_with_another_number_of_workers_as_if_undisturbed(
    homes, alone, together, shrunk, undisturbed, side, name
):
    left, runs = {"grown": (alone, together), "shrunk": (together, shrunk)}[side]
    history, adapter, _ = runs[f"{side}_{name}"]
    expected_history, expected, _ = undisturbed
    assert history[:3] == left[f"left_{name}"][0]
    for row, wanted in zip(history, expected_history, strict=True):
        found_now, wanted_now = ([r[key] for key in KEYS if key in wanted] for r in (row, wanted))
        assert found_now == pytest.approx(wanted_now, rel=1e-5, abs=1e-5)
    for parameter, values in expected.items():
        np.testing.assert_allclose(adapter[parameter], values, atol=1e-5, err_msg=parameter)
    home = homes["together" if side == "grown" else "shrunk"]
    state = json.loads((home / f"{side}_{name}" / "state.json").read_text())
    before, after = (1, 2) if side == "grown" else (2, 1)
    assert (state["regrouped"], state["workers"]) == ([[3, before, after]], after)


def test_a_fresh_lora_has_reward_exactly_zero_and_half_of_lambda_as_loss(tmp_path, tiny_model, task):
    pairs = token_pairs(task, range(4))
    micro = padded(pairs)
    policy = build_policy(task.model, task.settings, seed=task.seed)
    with torch.no_grad():
        reference = TokenLogProbs(policy.causal)(micro)
    ratio = policy(micro) - reference
    assert ratio.tolist() == [0.0] * len(micro.target_N)
    polarity = torch.tensor([1.0, -1.0, 1.0, 1.0])
    reward = micro.sum(torch.rand_like(ratio) * ratio)
    sums = Sums(micro.sum(reference), reward, micro.sum(ratio), polarity, torch.tensor(0.0))
    assert find("mralign").losses(sums, task.settings).mean().item() == np.mean([0.5, 0.75, 0.5, 0.5])


def test_a_reference_of_another_model_is_caught_at_step_0(tmp_path, tiny_model):
    (said,) = run_ranks(tmp_path, tiny_model, {"spoilt": {"spoil_reference": 0.5}}, fails=True)
    assert "at step 0 the mean reward is" in said
    assert "expected 0, allowed 0.001" in said


def test_a_loss_that_is_no_number_stops_with_the_examples(tmp_path, tiny_model):
    said = run_ranks(tmp_path, tiny_model, {"broken": {"spoil_reference": float("nan")}}, ranks=2, fails=True)
    for rank in said:
        assert "at step 1 the loss is not finite; examples: q" in rank
        assert "/on/" in rank


def test_learning_rate_warms_up_then_falls_to_zero():
    s = settings(warmup_ratio=0.2)
    rates = [learning_rate(step, total=10, rate=1.0, settings=s) for step in range(10)]
    assert rates[:2] == pytest.approx([1 / 3, 2 / 3])
    assert rates[2] == 1.0
    assert rates[-1] == pytest.approx(1 / 8)
    assert all(a > b for a, b in pairwise(rates[2:]))


def test_the_default_learning_rate_is_the_objectives(tmp_path, tiny_model):
    for method, rate in (("mralign", 5e-6), ("kto", 5e-6), ("sft", 1e-4)):
        assert make_task(tmp_path / method, tiny_model, method=method, learning_rate=None).rate == rate
    assert make_task(tmp_path / "given", tiny_model, method="sft", learning_rate=3e-4).rate == 3e-4
