"""What four workers send each other in an optimizer step: the adapter, and under ZeRO-3 the layers that are used."""

import json
from pathlib import Path

import pytest
from ranks import run_ranks
from tiny_policy import make_task, settings

from mralign.training.batches import deal
from mralign.training.policy import build_policy

PAGE = Path(__file__).parents[2] / "docs" / "training.md"
ADAPTER, MODEL = 87_293_952, 8_190_735_360  # parameters of rank 32 on the shape of Qwen3-8B, and of that
WORKERS = 4
LOW = {"dtype": "bfloat16"}
FULL = {**LOW, "tuning": "full", "learning_rate": 1e-3}
IN_PARTS = {**LOW, "micro_batch_tokens": 1, "batch_size": 12}
WAYS = {
    "zero_0": {"zero_stage": 0},  # which trains in float32 only
    "zero_1": {**LOW, "zero_stage": 1},
    "zero_2": {**LOW, "zero_stage": 2},
    "zero_3": {**LOW, "zero_stage": 3, "gather_all": True},
    "zero_1_in_parts": {**IN_PARTS, "zero_stage": 1},
    "zero_2_in_parts": {**IN_PARTS, "zero_stage": 2},
    "full": {**FULL, "zero_stage": 2},
    "full_zero_3": {**FULL, "zero_stage": 3, "gather_all": True},
}
FIGURES = 200  # bytes of the sums that are logged
ITEM = 2  # bytes of a number in bfloat16


@pytest.fixture(scope="module")
def sent(tiny_model, tmp_path_factory):
    """Of each way what the first worker handed over in the second step: a gradient of the first is looked at."""
    home = tmp_path_factory.mktemp("sent")
    ways = {name: {**way, "max_steps": 2, "threads_per_worker": 1} for name, way in WAYS.items()}
    run_ranks(home, tiny_model, ways, ranks=WORKERS)
    return {name: json.loads((home / name / "sent.json").read_text())[1] for name in WAYS}


@pytest.fixture(scope="module")
def sizes(tiny_model, tmp_path_factory):
    """Numbers of what is trained and of everything, by tuning."""
    task = make_task(tmp_path_factory.mktemp("sizes"), tiny_model)
    found = {}
    for tuning in ("lora", "full"):
        policy = build_policy(task.model, settings(tuning=tuning), seed=0)
        trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        found[tuning] = trained, sum(p.numel() for p in policy.parameters())
    return found


def gigabytes(*, trained, whole, stage, workers, passes=3):
    """What a worker sends in a step of one micro-batch by rings: gradients and weights in two bytes."""
    ring = (workers - 1) / workers
    gradients = ring * trained * ITEM * (1 if stage == 3 else 2)  # scattered, or summed everywhere
    weights = ring * trained * ITEM if stage < 3 else ring * whole * ITEM * passes
    return (gradients + weights) / 1e9


def test_the_table_of_the_page_is_this_arithmetic():
    lines = PAGE.read_text().splitlines()

    def row(start, digits, **given):
        cells = [f"{gigabytes(workers=workers, **given):.{digits}f}" for workers in (8, 64, 512)]
        (line,) = (line for line in lines if line.startswith(f"| {start}"))
        assert line.endswith(" | ".join(["", *cells, ""]).rstrip()), (line, cells)

    row("LoRA r 32, ZeRO 1 and 2", 2, trained=ADAPTER, whole=MODEL, stage=2)
    row("LoRA r 32, ZeRO 3", 2, trained=ADAPTER, whole=MODEL + ADAPTER, stage=3)
    row("full tuning, ZeRO 1 and 2", 2, trained=MODEL, whole=MODEL, stage=2)
    row("full tuning, ZeRO 3", 2, trained=MODEL, whole=MODEL, stage=3)


def summed(found):
    """Bytes of gradients that are summed, the logged figures with them."""
    return found["all_reduce"] + found.get("reduce_scatter_tensor", 0)


@pytest.mark.slow
@pytest.mark.long
def test_gradients_of_the_adapter_are_summed_and_nothing_else(sent, sizes):
    trained, whole = sizes["lora"]
    assert trained < whole / 4
    for name, item in (("zero_0", 4), ("zero_1", ITEM), ("zero_2", ITEM), ("zero_3", ITEM)):
        assert item * trained <= summed(sent[name]) <= item * trained + FIGURES, (name, sent[name])
    assert set(sent["zero_0"]) == {"all_reduce", "calls"}


@pytest.mark.slow
@pytest.mark.long
def test_zero_1_sums_once_a_step_and_zero_2_after_every_micro_batch(sent, sizes, tiny_model, tmp_path):
    trained, _ = sizes["lora"]
    task = make_task(tmp_path, tiny_model, **IN_PARTS)
    index, batch = task.reader.index, task.plan.batch(1).examples
    lengths_N = (index.prompt_tokens_N + index.completion_tokens_N)[batch]
    parts = len(deal(lengths_N, workers=WORKERS, budget=1, packing=False)[0])
    assert parts > 1
    assert summed(sent["zero_1_in_parts"]) == pytest.approx(ITEM * trained, abs=FIGURES)
    assert summed(sent["zero_2_in_parts"]) == pytest.approx(parts * ITEM * trained, abs=FIGURES)


@pytest.mark.slow
@pytest.mark.long
def test_zero_2_sends_gradients_piece_by_piece_while_the_backward_pass_goes_on(sent):
    pieces = {name: sent[name]["calls"]["all_reduce"] for name in ("zero_1", "zero_2")}
    assert pieces["zero_2"] >= pieces["zero_1"] + 7, pieces


@pytest.mark.slow
@pytest.mark.long
def test_the_optimizer_that_is_cut_puts_the_adapter_together_again(sent, sizes):
    trained, _ = sizes["lora"]
    for name in ("zero_1", "zero_2"):
        assert ITEM * trained <= sent[name]["all_gather_into_tensor"] <= 1.02 * ITEM * trained


@pytest.mark.slow
@pytest.mark.long
def test_zero_3_also_fetches_the_frozen_layers_for_every_pass(sent, sizes):
    """z0, forward and backward: about three times the model. What stays whole is not fetched, and pieces of tiny
    tensors are padded."""
    for name, tuning in (("zero_3", "lora"), ("full_zero_3", "full")):
        _, whole = sizes[tuning]
        assert 2.7 * ITEM * whole < sent[name]["all_gather_into_tensor"] < 3.5 * ITEM * whole, (name, sent[name])


@pytest.mark.slow
@pytest.mark.long
def test_full_tuning_sends_the_whole_model(sent, sizes):
    trained, whole = sizes["full"]
    assert trained == whole
    assert summed(sent["full"]) == pytest.approx(ITEM * trained, abs=FIGURES)
    assert ITEM * trained <= sent["full"]["all_gather_into_tensor"] <= 1.02 * ITEM * trained
