"""A small world built through the command line: what it leaves behind, and that a seed gives the same questions."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from mralign.miniworld.__main__ import main
from mralign.miniworld.world import WorldParams, WorldSplit, make_world

SIZES = ["--entities", "16", "--values-per-relation", "8", "--train", "40", "--dev", "12", "--test", "12"]
MODEL = ["--hidden", "32", "--heads", "2", "--key-value-heads", "1", "--feed-forward", "64"]
TRAINING = ["--epochs", "6", "--warmup-steps", "10", "--sampler-draws", "1"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "mralign.miniworld", "build", "--seed", "5", "--out", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run(command + SIZES + MODEL + TRAINING, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert '"criteria"' in done.stdout
    # Processor seconds, not wall seconds: a busy machine must not fail the test.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    return out


@pytest.fixture(scope="module")
def record(built: Path) -> dict[str, Any]:
    text = (built / "world.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_training_lowers_the_loss(record: dict[str, Any]) -> None:
    training = record["training"]
    assert training["last_loss"] < 0.6 * training["first_loss"]
    assert training["steps"] > 50
    assert training["tokens"] > 50_000


def test_record_holds_every_setting(record: dict[str, Any]) -> None:
    assert record["seed"] == 5
    assert record["parameters"]["WorldParams"]["entities"] == 16
    assert record["parameters"]["SamplerParams"]["temperature"] == 0.7
    assert set(record["criteria"]) == {"train", "dev"}


def test_questions_files(built: Path) -> None:
    world = make_world(5, params=WorldParams(entities=16, values_per_relation=8, train=40, dev=12, test=12))
    seen: set[str] = set()
    for split in WorldSplit:
        lines = (built / "questions" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert rows == [{"id": f.fact_id, "question": f.question, "answer": [f.gold]} for f in world.splits[split]]
        assert not seen & {row["question"] for row in rows}
        seen |= {row["question"] for row in rows}
    assert len(seen) == 64


def test_files_load_with_transformers(built: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(built / "model")
    tokenizer = AutoTokenizer.from_pretrained(built / "model")
    assert model.config.architectures == ["Qwen3ForCausalLM"]
    assert model.config.tie_word_embeddings is False
    assert model.lm_head.weight.data_ptr() != model.model.embed_tokens.weight.data_ptr()
    assert len(tokenizer) == model.config.vocab_size
    generation = GenerationConfig.from_pretrained(built / "model")
    assert generation.eos_token_id == tokenizer.eos_token_id == model.config.eos_token_id
    assert generation.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


@pytest.mark.usefixtures("one_thread")
def test_same_seed_same_questions_and_model(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["build", "--seed", "5", "--out", str(tmp_path), *SIZES, *MODEL, *TRAINING])
    assert "step" in capsys.readouterr().out
    for name in ("questions/train.jsonl", "questions/dev.jsonl", "questions/test.jsonl", "model/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes(), name


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The command line sets one thread for its process: give the tests' process its threads back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_wrong_sizes_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="entities"):
        main(["build", "--seed", "1", "--out", str(tmp_path), "--entities", "4", "--train", "100"])
    assert not list(tmp_path.iterdir())
