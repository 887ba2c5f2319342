"""What a limit of memory leads to, told by the benchmark on a tiny model; and its command line for a card."""

import json
import sys

import pytest
from tiny_policy import make_task, save_model

from mralign.training.alone import PlainEngine
from mralign.training.policy import build_policy


@pytest.fixture
def told(tmp_path, benchmark):
    micro_batches = benchmark("micro_batches")
    save_model(tmp_path / "model")

    def choose(memory):
        task = make_task(tmp_path / memory, tmp_path / "model", memory=memory, micro_batch_tokens=None, epochs=2)
        policy = build_policy(task.model, task.settings, seed=0)
        return micro_batches.choose_and_step(PlainEngine(policy, task.settings, rate=1e-3), task)

    return choose


def test_a_choice_is_told_beside_what_a_step_takes_and_a_refusal_in_words(told, benchmark, capsys):
    found = {"auto": told("auto"), "1MiB": told("1MiB")}
    auto = found["auto"]
    assert 0 < auto["peak_mib"] <= auto["predicted_mib"] <= auto["room_mib"]
    assert (auto["tokens"], auto["gradient_checkpointing"]) == (84, False)  # the whole batch at once
    assert auto["seconds"] > 0 and auto["choosing_s"] > 0
    assert found["1MiB"]["refused"].startswith("training.memory=1MiB leaves a worker")
    benchmark("micro_batches").report(found)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["memory", "auto", "1MiB"]


def test_the_dry_run_says_the_settings_of_every_limit(benchmark, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["micro_batches.py", "--gpu", "--dry"])
    benchmark("micro_batches").main()
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["26GiB", "auto", "40GiB"]
    for limit, settings in found.items():
        assert settings["gpu"] and settings["memory"] == limit
        assert settings["micro_batch_tokens"] is settings["gradient_checkpointing"] is None
