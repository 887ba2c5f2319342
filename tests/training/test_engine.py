"""What a training process is told before anything is computed."""

import os

import pytest
import torch
from tiny_policy import settings
from transformers.integrations import is_deepspeed_zero3_enabled

from mralign.config import Lora, Model
from mralign.training.engine import World, cut_while_loading, missing_device, prepare_process
from mralign.training.guards import TrainingStopped


def test_a_worker_without_cuda_says_so_and_is_not_tried_again(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")  # of whoever started the process
    with pytest.raises(TrainingStopped, match=r"finds no CUDA device \(CUDA_VISIBLE_DEVICES: '1'\); install the CUDA"):
        prepare_process(settings(gpu=True))
    assert missing_device(settings(gpu=False)) is None


def test_deepspeed_is_told_the_device_of_the_settings(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    prepare_process(settings(gpu=True))
    assert os.environ["DS_ACCELERATOR"] == "cuda"


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
