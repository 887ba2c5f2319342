"""What four workers send each other in an optimizer step: the adapter, and under ZeRO-3 the layers that are used."""

import json
from pathlib import Path

import pytest
from ranks import run_ranks
from tiny_policy import make_task, settings

from mralign.training.policy import build_policy

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
ADAPTER, MODEL = 87_293_952, 8_190_735_360  # parameters of rank 32 on the shape of Qwen3-8B, and of that
WAYS = {
    "zero_0": {"zero_stage": 0},
    "zero_1": {"zero_stage": 1},
    "zero_2": {"zero_stage": 2},
    "zero_3": {"zero_stage": 3, "gather_all": True},
    "full": {"tuning": "full", "learning_rate": 1e-3},
}
FIGURES = 200  # bytes of the sums that are logged


@pytest.fixture(scope="module")
def sent(tiny_model, tmp_path_factory):
    home = tmp_path_factory.mktemp("sent")
    run_ranks(home, tiny_model, {name: {**way, "max_steps": 2} for name, way in WAYS.items()}, ranks=4)
    return {name: json.loads((home / name / "sent.json").read_text())[1] for name in WAYS}


@pytest.fixture(scope="module")
def sizes(tiny_model, tmp_path_factory):
    """Bytes in float32 of what is trained and of everything, by tuning."""
    task = make_task(tmp_path_factory.mktemp("sizes"), tiny_model)
    found = {}
    for tuning in ("lora", "full"):
        policy = build_policy(task.model, settings(tuning=tuning), seed=0)
        trained = sum(4 * p.numel() for p in policy.parameters() if p.requires_grad)
        found[tuning] = trained, sum(4 * p.numel() for p in policy.parameters())
    return found


def gigabytes(*, trained, whole, stage, workers, passes=3):
    """What a worker sends in a step by rings: gradients in float32, weights in two bytes."""
    ring = (workers - 1) / workers
    gradients = ring * trained * 4 * (1 if stage == 3 else 2)  # scattered, or summed everywhere
    weights = ring * trained * 2 if stage < 3 else ring * whole * 2 * passes
    return (gradients + weights) / 1e9


def test_the_table_of_the_page_is_this_arithmetic():
    lines = PAGE.read_text().splitlines()

    def row(start, digits, **given):
        cells = [f"{gigabytes(workers=workers, **given):.{digits}f}" for workers in (8, 64, 512)]
        (line,) = (line for line in lines if line.startswith(f"| {start}"))
        assert line.endswith(" | ".join(["", *cells, ""]).rstrip()), (line, cells)

    row("LoRA r 32, ZeRO 2", 2, trained=ADAPTER, whole=MODEL, stage=2)
    row("LoRA r 32, ZeRO 3", 2, trained=ADAPTER, whole=MODEL + ADAPTER, stage=3)
    row("full tuning, ZeRO 2", 1, trained=MODEL, whole=MODEL, stage=2)


@pytest.mark.slow
@pytest.mark.long
def test_gradients_of_the_adapter_are_summed_and_nothing_else(sent, sizes):
    trained, whole = sizes["lora"]
    assert trained < whole / 4
    for name in ("zero_0", "zero_1", "zero_2"):
        summed = sent[name]["all_reduce"] + sent[name].get("reduce_scatter_tensor", 0)
        assert trained <= summed <= trained * 1.02 + FIGURES, (name, sent[name])
    assert set(sent["zero_0"]) == {"all_reduce"}


@pytest.mark.slow
@pytest.mark.long
def test_the_optimizer_that_is_cut_puts_the_adapter_together_again(sent, sizes):
    trained, _ = sizes["lora"]
    for name in ("zero_1", "zero_2"):
        assert trained <= sent[name]["all_gather_into_tensor"] <= trained * 1.02


@pytest.mark.slow
@pytest.mark.long
def test_zero_3_also_fetches_the_frozen_layers_for_every_pass(sent, sizes):
    _, whole = sizes["lora"]
    assert sent["zero_3"]["all_gather_into_tensor"] > 2 * whole


@pytest.mark.slow
@pytest.mark.long
def test_full_tuning_sends_the_whole_model(sent, sizes):
    trained, whole = sizes["full"]
    assert trained == whole
    assert trained <= sent["full"]["all_gather_into_tensor"] <= trained * 1.02
