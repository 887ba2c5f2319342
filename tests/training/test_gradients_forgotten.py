"""DeepSpeed's engines after a backward pass that broke off, and after passes were measured: as if nothing had been.

One process is a group of its own here; the whole trainings of test_loop.py have the rest.
"""

import socket
from dataclasses import replace

import pytest
import torch
from tiny_policy import make_task

from mralign.training import loop, lora
from mralign.training.begin import begin
from mralign.training.engine import World
from mralign.training.memory_choice import settle_memory
from mralign.training.out_of_memory import forget_gradients

pytestmark = pytest.mark.slow
PASSES = (5, 20, 27)  # of 28 through adapted layers of a step with two micro-batches


@pytest.fixture(scope="module", autouse=True)
def group():
    """The process group that begins with the first engine, gone afterwards."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (variables | {"MASTER_PORT": str(port)}).items():
            patch.setenv(name, value)
        yield
    torch.distributed.destroy_process_group()


def gradients(engine, task):
    """The gradients of the first step, as they are before the update; the update is made as well."""
    from deepspeed.utils import safe_get_full_grad

    step, found = engine.step, {}

    def noted():
        named = engine.module.named_parameters()
        found.update({name: safe_get_full_grad(p).clone() for name, p in named if p.requires_grad})
        step()

    engine.step = noted
    loop.optimizer_step(engine, task, 0, world=World(), previous_z0=None)
    engine.destroy()
    return found


def break_off(engine, task, monkeypatch, *, after):
    """A step whose so many-th backward pass through an adapted layer finds no memory."""
    plain, passes = lora._LoraLinear.backward, []

    def backward(ctx, *arriving):
        passes.append(1)
        if len(passes) == after:
            raise torch.OutOfMemoryError("tried to allocate 1.00 GiB")
        return plain(ctx, *arriving)

    with monkeypatch.context() as patch:
        patch.setattr(lora._LoraLinear, "backward", staticmethod(backward))
        with pytest.raises(torch.OutOfMemoryError):
            loop.optimizer_step(engine, task, 0, world=World(), previous_z0=None)


LAYOUTS = [(0, "float32"), (1, "float32"), (2, "float32"), (1, "bfloat16"), (2, "bfloat16")]


@pytest.mark.parametrize(("stage", "dtype"), LAYOUTS)
def test_a_step_that_broke_off_leaves_nothing(tmp_path, tiny_model, monkeypatch, stage, dtype):
    task = make_task(tmp_path, tiny_model, zero_stage=stage, dtype=dtype)
    wanted = gradients(begin(task, world=World())[0], task)
    for after in PASSES:
        engine, _ = begin(task, world=World())
        break_off(engine, task, monkeypatch, after=after)
        forget_gradients(engine)
        found = gradients(engine, task)
        for name, values in wanted.items():
            assert torch.equal(values, found[name]), (name, after)


@pytest.mark.parametrize("changes", [{"zero_stage": 2}, {"zero_stage": 3}, {"zero_stage": 3, "tuning": "full"}])
def test_measured_passes_leave_nothing(tmp_path, tiny_model, changes):
    task = make_task(tmp_path, tiny_model, **changes)
    wanted = gradients(begin(task, world=World())[0], task)
    engine, _ = begin(task, world=World())
    asked = replace(task, settings=task.settings.model_copy(update={"memory": "auto"}))
    settled, choice = settle_memory(engine, asked, world=World())
    assert settled.settings.gradient_checkpointing is False and choice.needed <= choice.room
    found = gradients(engine, task)
    for name, values in wanted.items():
        assert torch.equal(values, found[name]), name
