"""A tiny trained policy and what an export reads of it, for tests of the end of a training."""

from dataclasses import replace

import pytest
import torch
from tiny_policy import VOCABULARY, make_task, save_model, settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from mralign.config import Model, RunConfig
from mralign.run.stage import Context
from mralign.run.store import StageDir
from mralign.training.checkpoint import WEIGHTS
from mralign.training.engine import World
from mralign.training.policy import build_policy
from mralign.training.write_probe import write_probe

TOKEN = "hf_thisIsTheSecretOfTheTest"

FIGURES = {
    "steps": 42,
    "workers": 3,
    "workers_changed": [],
    "class_balance": None,
    "last": {"loss": 0.4321, "margin": 1.5, "z0": 0.25, "learning_rate": 1e-6, "seconds": 9.0},
}


def configured(model="Qwen/Qwen3-8B", *, adapter=None, **training):
    return RunConfig(
        questions={"train": [{"name": "q", "path": "/private/questions.jsonl"}]},
        http={"base_url": "https://endpoint.example/v1", "key_env": "MY_KEY"},
        model={"path": str(model), "adapter": adapter, "dtype": "float32"},
        training=settings(**training),
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The tiny model with a tokenizer of one word a token."""
    directory = tmp_path_factory.mktemp("base") / "tiny-base"
    save_model(directory)
    words = {"<end>": 0, "<pad>": 1} | {f"t{n}": n for n in range(2, VOCABULARY)}
    whole = Tokenizer(models.WordLevel(words, unk_token="t2"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<end>", pad_token="<pad>")
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def task(base, tmp_path_factory):
    return make_task(tmp_path_factory.mktemp("task"), base)


def stir(model, *, seed):
    """What a training does to a policy, at once."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)


def checkpoint_of(task, directory, *, base, adapter=None, tuning="lora"):
    """What `save` in training/stage.py leaves of a trained policy, as far as an export reads it."""
    directory.mkdir(parents=True)
    chosen = settings(tuning=tuning)
    policy = build_policy(Model(path=str(base), adapter=adapter, dtype="float32"), chosen, seed=3)
    stir(policy, seed=11)
    policy.model.save_pretrained(directory / WEIGHTS)
    write_probe(policy, replace(task, settings=chosen), world=World(), directory=directory)
    return directory


def context(home, config):
    upstream = {name: StageDir(f"{home}/{name}/ff", stage=name, fingerprint=f"{name}-mark") for name in ("examples",)}
    return Context(config, StageDir(f"{home}/training/cc33", stage="training", fingerprint="cc33"), upstream)


def logps(model, row):
    """log p of each completion token by transformers alone."""
    ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
    with torch.no_grad():
        scores = model(ids).logits.log_softmax(dim=-1)[0]
    place = len(row["prompt_ids"])
    return scores[place - 1 : -1].gather(1, ids[0, place:, None])[:, 0]


def largest_difference(model, rows, *, of="logps"):
    model.eval()
    return max((logps(model, row) - torch.tensor(row[of])).abs().max().item() for row in rows)


def load(directory):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


@pytest.fixture
def online(monkeypatch, tmp_path):
    """`online(hub)`: this process's huggingface_hub talks to it."""
    from huggingface_hub import constants

    def connect(hub):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("MY_HUB_TOKEN", TOKEN)

    return connect
