"""The table of where an optimizer step's time goes, on a tiny model."""

import pytest
from tiny_policy import VOCABULARY, make_task, save_model

from mralign.training.alone import PlainEngine
from mralign.training.policy import build_policy


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_shares_of_known_groups_sum_to_one(tmp_path, benchmark, tuning):
    step_profile = benchmark("step_profile")
    save_model(tmp_path / "model")
    task = make_task(tmp_path, tmp_path / "model", tuning=tuning)
    engine = PlainEngine(build_policy(task.model, task.settings, seed=0), task.settings, rate=1e-3)
    found, seconds = step_profile.profile_steps(engine, task, steps=1, vocabulary=VOCABULARY)
    assert tuple(found) == step_profile.GROUPS
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(0 <= share < 1 for share in found.values())
    assert seconds > 0
    empty = {group for group, share in found.items() if not share}
    assert empty == ({"LoRA products"} if tuning == "full" else set())
