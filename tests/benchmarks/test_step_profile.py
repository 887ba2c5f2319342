"""The table of where an optimizer step's time goes, on a tiny model."""

import sys
from pathlib import Path

import pytest
from tiny_policy import VOCABULARY, make_task, save_model

sys.path.insert(0, str(Path(__file__).parent))
from step_profile import GROUPS, profile_steps

from mralign.training.alone import PlainEngine
from mralign.training.policy import build_policy


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_shares_of_known_groups_sum_to_one(tmp_path, tuning):
    save_model(tmp_path / "model")
    task = make_task(tmp_path, tmp_path / "model", tuning=tuning)
    engine = PlainEngine(build_policy(task.model, task.settings, seed=0), task.settings, rate=1e-3)
    found, seconds = profile_steps(engine, task, steps=1, vocabulary=VOCABULARY)
    assert tuple(found) == GROUPS
    assert sum(found.values()) == pytest.approx(1.0)
    assert all(0 <= share < 1 for share in found.values())
    assert seconds > 0
    empty = {group for group, share in found.items() if not share}
    assert empty == ({"LoRA products"} if tuning == "full" else set())
