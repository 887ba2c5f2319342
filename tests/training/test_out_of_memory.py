"""Memory that runs out in a micro-batch: the step begins again with smaller ones, or the next try does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_policy import make_task, settings

from mralign.training import loop
from mralign.training.alone import PlainEngine
from mralign.training.board import Board
from mralign.training.checkpoint import State
from mralign.training.engine import World
from mralign.training.guards import TrainingStopped
from mralign.training.loop import train
from mralign.training.out_of_memory import MemoryRanOut, at_most, with_less
from mralign.training.policy import build_policy
from mralign.training.worker import within_memory


@pytest.fixture
def fresh(tmp_path, tiny_model):
    task = make_task(tmp_path, tiny_model, max_steps=2, micro_batch_tokens=64)
    return task, PlainEngine(build_policy(task.model, task.settings, seed=0), task.settings, rate=1e-2)


def limit(monkeypatch, *, tokens):
    """An allocator to which micro-batches of more tokens are too large. Returns the sizes that are tried."""
    plain, tried = PlainEngine.__call__, []

    def call(self, micro, **given):
        tried.append(micro.ids_BS.numel())
        if micro.ids_BS.numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has more to say")
        return plain(self, micro, **given)

    monkeypatch.setattr(PlainEngine, "__call__", call)
    return tried


def test_the_step_begins_again_with_half_the_tokens_and_the_rest_of_the_training_keeps_them(fresh, monkeypatch):
    task, engine = fresh
    tried, said = limit(monkeypatch, tokens=64), []
    state = train(engine, task, world=World(), state=State(), save=lambda state: None, warn=said.append)
    assert said == ["memory ran out in step 1: it begins again with micro-batches of 32 tokens"]
    assert tried[0] > 64 >= max(tried[1:])  # a pass without gradient takes twice the tokens
    assert state.memory == {"micro_batch_tokens": 32, "ran_out_at_step": 1}
    assert [row["micro_batch_tokens"] for row in state.history] == [32, 32]

    small = replace(task, settings=task.settings.model_copy(update={"micro_batch_tokens": 32}))
    other = PlainEngine(build_policy(task.model, small.settings, seed=0), small.settings, rate=1e-2)
    monkeypatch.undo()
    wanted = train(other, small, world=World(), state=State(), save=lambda state: None)
    same = ("loss", "z0", "grad_norm")
    assert [[row[key] for key in same] for row in state.history] == [
        [row[key] for key in same] for row in wanted.history
    ]
    for mine, its in zip(engine.module.parameters(), other.module.parameters(), strict=True):
        assert torch.equal(mine, its)
    assert "micro_batch_tokens" not in wanted.history[0] and wanted.memory == {}


def test_one_sequence_that_does_not_fit_stops_the_training(fresh, monkeypatch):
    task, engine = fresh
    limit(monkeypatch, tokens=5)
    with pytest.raises(
        TrainingStopped, match=r"one sequence in a micro-batch \(CUDA out of memory. .* 2.00 GiB.\); give"
    ):
        train(engine, task, world=World(), state=State(), save=lambda state: None)


def test_halving_begins_at_what_a_batch_can_have(fresh):
    _, engine = fresh
    less = with_less(engine, settings(micro_batch_tokens=10**6), world=World(), shortest=3, most=84, said="x")
    assert less.micro_batch_tokens == 42


@pytest.mark.parametrize(
    ("changes", "world"),
    [({}, World(0, 2)), ({"zero_stage": 3}, World()), ({"offload": "optimizer"}, World())],
)
def test_where_others_wait_or_the_step_is_half_sent_the_next_try_takes_less(fresh, changes, world):
    _, engine = fresh
    with pytest.raises(MemoryRanOut, match="the next try takes micro-batches of 32 tokens") as caught:
        with_less(engine, settings(micro_batch_tokens=64, **changes), world=world, shortest=3, most=99, said="no\nroom")
    assert caught.value.tokens == 32


def test_a_later_try_takes_no_more_than_ran_out():
    given = settings(micro_batch_tokens=64)
    assert at_most(given, None) is at_most(given, 64) is given
    assert at_most(given, 32).micro_batch_tokens == 32
    assert at_most(settings(micro_batch_tokens=None), 2048).tokens_used == 2048


def test_another_fault_is_not_taken_for_it(fresh, monkeypatch):
    task, engine = fresh
    monkeypatch.setattr(loop, "optimizer_step", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(engine, task, world=World(), state=State(), save=lambda state: None)


class Remote:
    """An object as Ray's handle of an actor shows it."""

    def __init__(self, held):
        self.held = held

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.held, name))


def test_a_worker_takes_what_memory_chooses_and_no_more_than_an_earlier_try_leaves(fresh):
    task, engine = fresh
    board, state = Board(), State()
    found = within_memory(engine, task, state, world=World(), board=Remote(board), most=20)
    assert (found.settings.tokens_used, state.memory, board.news) == (20, {"micro_batch_tokens": 20}, [])
    assert within_memory(engine, task, state, world=World(), board=Remote(board), most=None) is task
    assert state.memory == {}

    asked = replace(task, settings=settings(memory="900GiB", micro_batch_tokens=None))
    for rank in (0, 1):
        found = within_memory(engine, asked, state, world=World(rank, 1), board=Remote(board), most=20)
    assert found.settings.tokens_used == state.memory["micro_batch_tokens"] == 20
    assert state.memory["memory"] == "900GiB" and state.memory["needed_gib"] > 0
    (told,) = board.news  # the first worker speaks for all
    assert str(told).startswith("training.memory=900GiB: micro-batches of 84 tokens, nothing recomputed")
