"""Embeddings by a real sentence model, through both engines, offline."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from minilm import MISSING, find_minilm, save_minilm

from mralign.config import Embedding
from mralign.serving.embedding import check_embedding, embed

needs_minilm = pytest.mark.skipif(find_minilm() is None, reason=MISSING)
TEXTS = ["recall a fact", "retrieve known fact", "check the answer", "verify result", "draw an analogy"]


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    return str(save_minilm(tmp_path_factory.mktemp("minilm")))


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def by_transformers(texts, path):
    """The oracle: mean over the tokens' last hidden states, by transformers alone."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(path)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(path)(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None]
    return ((hidden * mask).sum(1) / mask.sum(1)).numpy()


@needs_minilm
def test_sentence_transformers_gives_what_the_model_computes(minilm):
    settings = Embedding(engine="sentence_transformers", path=minilm, batch_size=2)
    found = embed(TEXTS, settings=settings)
    assert found.dtype == np.float32 and found.shape == (5, 384)
    expected = by_transformers(TEXTS, minilm)
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 1 - 1e-5
    assert cosine(found[0], found[1]) > cosine(found[0], found[4]) + 0.2
    np.testing.assert_allclose(embed(TEXTS[::-1], settings=settings)[::-1], found, atol=1e-5)


@needs_minilm
def test_a_prefix_is_put_before_every_text(minilm):
    plain, query = (Embedding(engine="sentence_transformers", path=minilm, prefix=p) for p in ("", "query: "))
    asked = embed(["recall a fact"], settings=query)
    np.testing.assert_allclose(asked, embed(["query: recall a fact"], settings=plain), atol=1e-6)
    assert np.abs(asked - embed(["recall a fact"], settings=plain)).max() > 1e-3


@needs_minilm
@pytest.mark.integration
def test_vllm_pooling_gives_the_same_vectors(minilm):
    code = (
        "import json, sys; from mralign.config import Embedding; from mralign.serving.embedding import embed\n"
        "texts, path = json.loads(sys.argv[1])\n"
        "print(json.dumps(embed(texts, settings=Embedding(engine='vllm', path=path)).tolist()))"
    )
    command = [sys.executable, "-c", code, json.dumps([TEXTS, minilm])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.array(json.loads(done.stdout.splitlines()[-1]), dtype=np.float32)
    expected = embed(TEXTS, settings=Embedding(engine="sentence_transformers", path=minilm))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_path_without_a_model_is_refused_before_anything_is_loaded(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "nothing"), "./nothing"):
        with pytest.raises(ValueError, match=r"no config\.json.*give a model directory or a hub name"):
            check_embedding(Embedding(path=path))
    check_embedding(Embedding(path="BAAI/bge-m3"))


@pytest.mark.parametrize(("engine", "extra"), [("vllm", "gpu"), ("sentence_transformers", "discovery")])
def test_a_missing_engine_is_named_with_its_extra(engine, extra, monkeypatch):
    monkeypatch.setattr("mralign.serving.embedding.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=rf"discovery\.embedding\.engine={engine} is not installed.*mralign\[{extra}\]"
    ):
        check_embedding(Embedding(engine=engine))


def test_vectors_that_are_not_finite_are_refused(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    broken = np.array([[1.0, np.nan]])
    monkeypatch.setattr("mralign.serving.embedding._sentence_transformers", lambda texts, settings: broken)
    with pytest.raises(ValueError, match=r"not finite; try discovery\.embedding\.dtype=float32"):
        embed(["a"], settings=Embedding(engine="sentence_transformers", path=str(tmp_path)))
