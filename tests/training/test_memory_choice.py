"""Micro-batches and recomputation chosen by memory: whole optimizer steps stay within the room that was given."""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny_policy import make_task, settings
from transformers import Qwen3ForCausalLM

from mralign.config import Training
from mralign.training import loop, memory_choice
from mralign.training.alone import PlainEngine
from mralign.training.engine import World
from mralign.training.guards import TrainingStopped
from mralign.training.live_bytes import LiveBytes
from mralign.training.memory_choice import largest, settle_memory
from mralign.training.policy import build_policy

AUTO = {"memory": "auto", "micro_batch_tokens": None}
HEAD = 64 * 6 * 4 * 4  # bytes of all logits of a small micro-batch, in the tests that look at small rooms


@pytest.fixture
def auto(tmp_path, tiny_model, monkeypatch):
    """A task that asks for a choice, and the choice for a room of so many bytes and other changes of the settings."""
    task = make_task(tmp_path, tiny_model, **AUTO)
    monkeypatch.setattr(memory_choice, "head_bytes", lambda policy, gpu: HEAD)
    monkeypatch.setattr(memory_choice, "_SHARE", {False: 1.0})

    def choose(room, **changes):
        monkeypatch.setattr(memory_choice, "room_bytes", lambda settings: room)
        asked = replace(task, settings=task.settings.model_copy(update=changes))
        engine = PlainEngine(build_policy(asked.model, asked.settings, seed=0), asked.settings, rate=1e-3)
        return engine, *settle_memory(engine, asked, world=World())

    return choose


def longest_of(task):
    return int((task.reader.index.prompt_tokens_N + task.reader.index.completion_tokens_N).max())


def test_where_there_is_room_nothing_is_recomputed_and_a_step_is_one_micro_batch(auto):
    _, task, choice = auto(2**40)
    assert (task.settings.gradient_checkpointing, choice.recomputation) == (False, False)
    assert task.settings.micro_batch_tokens == 6 * longest_of(task)  # the batch has six examples
    assert choice.figures()["micro_batch_tokens"] == task.settings.micro_batch_tokens
    assert "nothing recomputed" in str(choice) and "training.memory=auto" in str(choice)


def step_bytes(engine, task):
    """What the first optimizer step of a plain engine holds at its most, as it is made."""
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-3
    with LiveBytes() as live:
        loop.optimizer_step(engine, task, 0, world=World(), previous_z0=None)
    return live.peak


def test_less_room_recomputes_more_and_takes_smaller_micro_batches_and_every_step_stays_within(auto):
    _, _, whole = auto(2**40)
    seen = {}
    for share in (1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12):
        room = whole.needed * share
        try:
            engine, task, choice = auto(room)
        except TrainingStopped:
            break
        seen[share] = (choice.recomputation, choice.tokens)
        assert choice.needed <= room
        assert step_bytes(engine, task) <= room, (share, choice)
    assert seen[1.0] == (False, whole.tokens)
    ways = [way for way, _ in seen.values()]
    assert ways == sorted(ways, key=[False, "selective", True].index)
    for way in set(ways):
        sizes = [tokens for found, tokens in seen.values() if found == way]
        assert sizes == sorted(sizes, reverse=True)
    assert len(set(seen.values())) > 2


def test_the_longest_sequence_that_does_not_fit_is_refused_with_one_that_would(auto, tiny_model):
    _, _, whole = auto(2**40)
    always = whole.need.always
    with pytest.raises(TrainingStopped, match=r"training.memory=auto leaves a worker .* GiB .* with everything recomp"):
        auto(always)
    with pytest.raises(TrainingStopped) as caught:
        auto(always, gradient_checkpointing=False)
    said = str(caught.value)
    assert "with nothing recomputed" in said and said.endswith("or training.gradient_checkpointing=true")
    # room for one token less than the longest example has
    choice = auto(2**40, gradient_checkpointing=True)[-1]
    lengths, short = choice.lengths, choice.lengths.example - 1
    room = choice.need.at(1, replace(lengths, example=short, forward=min(short, lengths.forward)))
    longest = max(lengths.example, lengths.forward)
    said = rf"longest sequence \({longest} tokens.*sequences of up to {short} tokens fit"
    with pytest.raises(TrainingStopped, match=said):
        auto(room, gradient_checkpointing=True)


def test_what_is_given_is_taken(auto):
    _, task, choice = auto(2**40, micro_batch_tokens=17)
    assert (task.settings.micro_batch_tokens, task.settings.gradient_checkpointing) == (17, False)
    _, task, _ = auto(2**40, gradient_checkpointing="selective")
    assert task.settings.gradient_checkpointing == "selective"
    least = auto(2**40, micro_batch_tokens=1, gradient_checkpointing=True)[2].needed
    _, task, choice = auto(least, micro_batch_tokens=400)
    assert (task.settings.micro_batch_tokens, task.settings.gradient_checkpointing) == (400, True)
    assert "more than there is: training.micro_batch_tokens is given" in str(choice)


def test_a_model_that_cannot_recompute_is_not_told_to(auto, monkeypatch):
    monkeypatch.setattr(Qwen3ForCausalLM, "supports_gradient_checkpointing", False)
    _, _, choice = auto(2**40)
    with pytest.raises(TrainingStopped, match="with nothing recomputed"):
        auto(choice.need.always)


def test_without_mismatched_pairs_no_pass_without_gradient_counts(tmp_path, tiny_model, auto):
    task = make_task(tmp_path / "sft", tiny_model, **AUTO, method="sft")
    engine = PlainEngine(build_policy(task.model, task.settings, seed=0), task.settings, rate=1e-3)
    auto(2**40)  # so much room
    _, choice = settle_memory(engine, task, world=World())
    assert choice.lengths.forward == 0
    need, lengths = choice.need, choice.lengths
    with_gradient = need.gradient.at(choice.tokens, longest=lengths.example)
    assert choice.needed == pytest.approx(need.always + with_gradient)


def test_the_rank_with_the_least_decides(auto, monkeypatch):
    monkeypatch.setattr(memory_choice, "all_gather", lambda value: [value, 23] if type(value) is int else [value])
    _, task, _ = auto(2**40)
    assert task.settings.micro_batch_tokens == 23
    monkeypatch.setattr(memory_choice, "all_gather", lambda value: [value, value and False])
    with pytest.raises(TrainingStopped):  # on the other rank nothing fits
        auto(2**40)


def test_without_memory_nothing_is_measured_or_changed(task, monkeypatch):
    monkeypatch.setattr(memory_choice, "measured", lambda *args, **kwargs: pytest.fail("measured"))
    assert settle_memory(None, task, world=World()) == (task, None)
    plain = Training()
    assert (plain.tokens_used, plain.recomputation_used) == (4096, False)


def test_a_size_is_a_number_and_a_unit():
    sizes = {"26GiB": 26 * 2**30, "1.5 GiB": 1.5 * 2**30, "900MiB": 900 * 2**20}
    assert {given: settings(memory=given).memory_bytes for given in sizes} == sizes
    assert settings(memory="auto").memory_bytes is settings(memory=None).memory_bytes is None
    for wrong in ("26GB", "26", 26, "much", "-1GiB", "GiB", "\u0663GiB", "auto ", "0GiB"):
        with pytest.raises(ValidationError, match="is no size: give a number above 0 with GiB or MiB, as 26GiB, or"):
            settings(memory=wrong)


def test_the_largest_that_fits():
    assert [largest(lambda n, bound=bound: n <= bound, most=10) for bound in (0, 1, 7, 10, 99)] == [0, 1, 7, 10, 10]


def test_no_gradient_and_no_random_number_is_left_by_the_measuring(auto):
    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    engine, _, _ = auto(2**40)
    assert all(p.grad is None for p in engine.module.parameters())
    assert engine.module.chunk is None
    assert wanted.shape == (1,)
