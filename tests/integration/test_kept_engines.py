"""Engines that stay between the stages of one driver: real vLLM on a real Ray, and models that say different things."""

import json
import shutil
import time

import psutil
import pyarrow as pa
import pytest
import torch

from mralign.config import Decoding, Engine, Model
from mralign.rows.schema import GENERATIONS, QUESTIONS
from mralign.run.held import holding, make_room
from mralign.run.part_names import part_name
from mralign.run.placement import Workers
from mralign.run.store import StageDir
from mralign.serving.requests import Sampling
from mralign.serving.streaming import generate

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

BASE = "pkg://mralign.miniworld/data/model"


def engines():
    """The processes of kept engines."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if "KeptEngine" in " ".join(process.cmdline()):
                found.add(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    place = StageDir(str(tmp_path_factory.mktemp("questions")), stage="questions")
    names = ["Where does Ada live?", "Who is the mayor?", "What is the river called?", "When was it built?"]
    rows = [
        {"question_id": f"w/{n}", "dataset": "w", "split": "test", "question": name, "answers": ["x"], "extra": "{}"}
        for n, name in enumerate(names)
    ]
    place.commit(part_name("test-00"), pa.Table.from_pylist(rows, schema=QUESTIONS), schema=QUESTIONS)
    return place


def save_moved(directory, *, tied=False, wrong_by=0.0):
    """The embedded model with moved weights in `directory`/model, and its probe by transformers, off by `wrong_by`."""
    from importlib.resources import files

    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = str(files("mralign.miniworld") / "data" / "model")
    shutil.copytree(base, directory / "model")
    config = AutoConfig.from_pretrained(base, tie_word_embeddings=tied)
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(directory / "model")
    ids = AutoTokenizer.from_pretrained(base)("the river", add_special_tokens=False)["input_ids"]
    prompt, completion = ids, [5, 7, 11, 3]
    with torch.no_grad():
        logp_SV = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    logps = [logp_SV[len(prompt) - 1 + n, token].item() + wrong_by for n, token in enumerate(completion)]
    row = {"prompt_ids": prompt, "completion_ids": completion, "logps": logps, "before": None, "dtype": "float32"}
    (directory / "probe.json").write_text(json.dumps([row]))
    return directory


def sampling(path=BASE, *, probe="", max_replicas=1, draws=4):
    return Sampling(
        model=Model(path=str(path), dtype="float32"),
        engine=Engine(max_model_len=256, max_num_seqs=16, batch_size=8, max_replicas=max_replicas),
        decoding=Decoding(temperature=0.0, max_tokens=24),
        draws=draws,
        probe=str(probe),
    )


def ask(questions, asked, out):
    """Token ids by row, and the stage's figures."""
    place = StageDir(str(out), stage="responses")
    figures = generate(questions, questions.parts(), sampling=asked, out=place)
    return {row["row_id"]: row["token_ids"] for row in place.read(schema=GENERATIONS).to_pylist()}, figures


def test_one_engine_serves_the_base_and_then_the_trained_model_as_new_engines_would(questions, tmp_path):
    trained = save_moved(tmp_path / "training")
    asked = sampling(trained / "model", probe=trained)
    with holding():
        base, _ = ask(questions, sampling(), tmp_path / "base")
        first = engines()
        again, _ = ask(questions, sampling(draws=5), tmp_path / "again")
        moved, figures = ask(questions, asked, tmp_path / "moved")
        assert len(first) == 1
        assert engines() == first
        assert figures["served_minus_trained_logp"] < 1e-4
        assert {row: again[row] for row in base} == base
        make_room([Workers("training workers", "training.workers")])  # one of two CPUs: there is room beside it
        assert engines() == first
        make_room([Workers("training workers", "training.workers", least=2, most=2)])
        end = time.monotonic() + 30
        while engines():
            assert time.monotonic() < end, "the engine is still there"
            time.sleep(0.1)
    alone, _ = ask(questions, asked, tmp_path / "alone")  # by an engine in an actor of Ray Data
    assert moved == alone
    assert moved != base
    assert not engines()


@pytest.mark.long
def test_an_engine_that_the_probe_refuses_or_that_has_a_tied_head_is_replaced(questions, tmp_path):
    wrong = save_moved(tmp_path / "wrong", wrong_by=0.5)
    tied = save_moved(tmp_path / "tied", tied=True)
    with holding():
        ask(questions, sampling(), tmp_path / "base")
        first = engines()
        with pytest.raises(ValueError, match="does not serve what was trained"):
            ask(questions, sampling(wrong / "model", probe=wrong), tmp_path / "out-wrong")
        second = engines()
        _, figures = ask(questions, sampling(tied / "model", probe=tied), tmp_path / "out-tied")
        third = engines()
    assert not first & second
    assert not second & third
    assert figures["served_minus_trained_logp"] < 1e-4


@pytest.mark.long
def test_a_pool_that_ray_data_scales_keeps_its_engines_to_itself(questions, tmp_path):
    with holding():
        rows, _ = ask(questions, sampling(max_replicas=2, draws=1), tmp_path / "scaled")
        assert not engines()
    assert len(rows) == 4 * 2
