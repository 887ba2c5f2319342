"""ZeRO-3 cuts a model while it loads it: counted for a shape of 32 B, and on two workers that cannot hold it whole."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from python_path import python_path
from ranks import RANK, free_port
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from mralign.config import Lora, Training
from mralign.plan import memory
from mralign.training.modules import adapt

PROGRAM = Path(__file__).with_name("cut_loading.py")
GPU = 80e9  # bytes, as cards are sold
GPUS = 4
QWEN3_32B = {
    "hidden_size": 5120,
    "intermediate_size": 25_600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "tie_word_embeddings": False,
}
ON_GPUS = {"gpu": True, "dtype": "bfloat16", "workers": GPUS, "kernels": "liger", "lora": Lora(r=32, alpha=64)}


@pytest.fixture(scope="module")
def thirty_two():
    """The shape of Qwen3-32B with an adapter of rank 32, without memory."""
    config = Qwen3Config(**QWEN3_32B)
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        return adapt(base.eval(), Training(**ON_GPUS)).to(torch.bfloat16)


def test_a_model_of_32_b_is_never_whole_on_one_of_four_gpus(thirty_two):
    """A parameter is made whole and cut at once, so a GPU holds its pieces of all and one parameter whole."""
    sizes = [p.numel() for p in thirty_two.parameters()]
    whole = 2 * sum(sizes)
    assert whole == pytest.approx(65.8e9, rel=0.01)  # 32.8 B, as the model card counts them, and the adapter
    pieces = 2 * sum(math.ceil(size / GPUS) for size in sizes)
    while_loading = pieces + 2 * max(sizes)
    assert while_loading == pytest.approx(18.0e9, rel=0.01)
    assert while_loading < whole / 3


def test_a_model_of_32_b_is_trained_on_four_gpus_of_80_gb_if_it_is_cut(thirty_two):
    trained = sum(p.numel() for p in thirty_two.parameters() if p.requires_grad)
    parameters = sum(p.numel() for p in thirty_two.parameters()) - trained
    shape = memory.shape_of(Qwen3Config(**QWEN3_32B), parameters=parameters, trained=trained)

    def need(**changes):
        return memory.training(shape, Training(**ON_GPUS, **changes), longest=4096).total

    assert need(zero_stage=3, gradient_checkpointing="selective") < 0.35 * GPU
    assert need(zero_stage=2, gradient_checkpointing="selective") > 0.95 * GPU  # whole there is no room for fragments
    assert need(zero_stage=2) > 1.5 * GPU


def save_model(directory, *, layers):
    """Write a model of about 3 M parameters a layer in bfloat16, and return its size in float32, in which it is
    trained: in its own dtype a process maps its file and has no copy."""
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=512,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        intermediate_size=1536,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config).bfloat16()
    model.save_pretrained(directory)
    return 4 * model.num_parameters()


def loaded(home, *, zero_stage):
    """By rank what each of two said of the model that it loaded."""
    given = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
    given["PYTHONPATH"] = python_path(RANK.parents[1], RANK.parents[2])
    command = [sys.executable, str(PROGRAM), str(home / "tiny"), str(home / "model"), str(zero_stage)]
    running = [
        subprocess.Popen(
            command,
            env={**given, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [process.communicate(timeout=500) for process in running]
    assert [process.returncode for process in running] == [0, 0], told
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


@pytest.mark.slow
@pytest.mark.long
def test_two_workers_load_a_model_that_neither_of_them_ever_holds(tmp_path):
    save_model(tmp_path / "tiny", layers=1)
    size = save_model(tmp_path / "model", layers=32)
    cut, whole = loaded(tmp_path, zero_stage=3), loaded(tmp_path, zero_stage=2)
    print({"size": size, "cut": cut, "whole": whole})
    for found in cut:
        assert 4 * found["all"] == size
        assert found["held"] == pytest.approx(found["all"] / 2, rel=0.02)
        assert found["peak"] < 0.75 * size
    for found in whole:
        assert found["held"] == found["all"]
        assert found["peak"] > 0.95 * size
