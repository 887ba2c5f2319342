"""What is told of a model in a store before its weights are fetched: whether kept engines can take it."""

import pytest
from dated_model import MINIWORLD

from mralign.config import Model
from mralign.serving import warm

LOCAL = Model(path=str(MINIWORLD), dtype="float32")
FAR = Model(path="s3://bucket/warm", dtype="float32")  # a process looks for a model of that name once


@pytest.fixture
def store(bucket):
    """The mini model in a store."""
    for file in MINIWORLD.iterdir():
        bucket.objects[f"warm/{file.name}"] = file.read_bytes()
    return bucket


def test_no_weights_are_fetched_to_compare_models(store):
    assert warm._differ_in_weights_only(LOCAL, FAR)
    assert not warm._fills_memory(FAR) and warm._fills_memory(LOCAL) == warm._fills_memory(FAR)
    before = warm._files(FAR)
    assert before == warm._files(FAR) != warm._files(LOCAL)
    store.objects["warm/model.safetensors"] += b" "
    assert warm._files(FAR) != before
    fetched = {key for method, key, _ in store.calls if method == "GET" and key}
    assert "warm/config.json" in fetched and "warm/model.safetensors" not in fetched


def test_a_model_with_other_settings_of_its_own_does_not_differ_in_weights_only(store):
    there = store.objects["warm/generation_config.json"]
    store.objects["other/generation_config.json"] = there.replace(b"{", b'{"top_k": 7, ', 1)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        store.objects[f"other/{name}"] = store.objects[f"warm/{name}"]
    assert not warm._differ_in_weights_only(LOCAL, Model(path="s3://bucket/other", dtype="float32"))


def test_a_large_model_in_a_store_fills_the_memory(store, monkeypatch):
    monkeypatch.setattr(warm.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 2**20})())
    assert warm._fills_memory(FAR) and warm._fills_memory(LOCAL)
