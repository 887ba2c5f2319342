"""What a training process is told before anything is computed."""

import os

import pytest
import torch
from tiny_policy import settings
from transformers.integrations import is_deepspeed_zero3_enabled

from mralign.config import Lora, Model
from mralign.training import engine
from mralign.training.engine import World, cut_while_loading, gradient_buckets, missing_device, prepare_process
from mralign.training.guards import TrainingStopped


@pytest.fixture(autouse=True)
def device_of_this_process(monkeypatch):
    """What these tests tell DeepSpeed must not reach those that come after them."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def test_a_worker_without_cuda_says_so_and_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with pytest.raises(TrainingStopped, match=r"finds no CUDA device \(CUDA_VISIBLE_DEVICES: '1'\); install the CUDA"):
        prepare_process(settings(gpu=True))
    assert missing_device(settings(gpu=False)) is None


def test_deepspeed_is_told_the_device_of_the_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")
    prepare_process(settings(gpu=True))
    assert os.environ["DS_ACCELERATOR"] == "cuda"


@pytest.mark.parametrize("own", [None, "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_segments_of_a_gpus_memory_grow_unless_the_user_has_configured_them(monkeypatch, own):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    if own:
        monkeypatch.setenv(own, "max_split_size_mb:64")
    asked = []
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", asked.append)
    prepare_process(settings(gpu=True))
    there = {name: os.environ[name] for name in names if name in os.environ}
    if own:
        assert (there, asked) == ({own: "max_split_size_mb:64"}, [])
    else:
        assert (there, asked) == ({"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, ["expandable_segments:True"])


def test_a_bucket_of_gradients_is_no_larger_than_what_is_trained_and_several_workers_send_while_they_compute():
    adapter = [400_000] * 200
    for stage, workers in ((1, 1), (2, 1), (3, 1), (1, 4), (3, 4)):
        assert gradient_buckets(adapter, zero_stage=stage, workers=workers) == {"reduce_bucket_size": 80_000_000}
    eighths = {"reduce_bucket_size": 10_000_000, "overlap_comm": True}
    assert gradient_buckets(adapter, zero_stage=2, workers=4) == eighths
    assert gradient_buckets([7, 90], zero_stage=2, workers=4)["reduce_bucket_size"] == 90  # each fits
    assert gradient_buckets([10**9], zero_stage=1, workers=4) == {"reduce_bucket_size": 500_000_000}  # DeepSpeed's own


def test_a_model_is_cut_while_it_is_loaded_and_only_then(monkeypatch):
    monkeypatch.setattr(engine, "_join_ranks", lambda settings: None)
    with cut_while_loading(Model(path="p"), settings(zero_stage=3), rate=1e-3, world=World()):
        assert is_deepspeed_zero3_enabled()
    assert not is_deepspeed_zero3_enabled()


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ({"adapter": "a"}, {}),
        ({}, {"tuning": "dora"}),
        ({}, {"lora": Lora(modules_to_save=("lm_head",))}),
        ({}, {"zero_stage": 2}),
    ],
)
def test_weights_that_are_computed_with_before_the_training_are_loaded_whole(model, changes):
    chosen = settings(**{"zero_stage": 3, **changes})
    with cut_while_loading(Model(path="p", **model), chosen, rate=1e-3, world=World()):
        assert not is_deepspeed_zero3_enabled()
