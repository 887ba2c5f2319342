"""A sentence encoder of the user's: its vectors against transformers by hand, a labeller that needs them, faults."""

import json
import random

import numpy as np
import pytest
import torch
from minilm import MISSING, find_minilm, save_minilm
from planted import planted
from safetensors.torch import load_file, save_file
from tiny_encoder import WORDS, save_encoder
from transformers import AutoModel, AutoTokenizer

from mralign.annotation.labeller_file import MANIFEST, read_labeller, write_labeller
from mralign.annotation.labeller_fit import LabelledThought, fit
from mralign.annotation.segment_encoder import LENGTH, open_encoder
from mralign.annotation.step_labels import StepLabels

LABELS = ("odd", "even")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("tiny"))


def lessons(count, *, words, seed):
    """Thoughts whose segments have one word each, labelled by what no word says of another: even or odd."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        chosen = dice.sample(words, 4)
        steps = [StepLabels(n, n, (LABELS[int(word[1:]) % 2 == 0],), (9.0,)) for n, word in enumerate(chosen)]
        found.append(LabelledThought(f"q/{seed}-{number}", tuple(chosen), tuple(steps)))
    return found


def by_hand(place, text):
    tokenizer, model = AutoTokenizer.from_pretrained(place), AutoModel.from_pretrained(place).eval()
    with torch.no_grad():
        mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(dim=0)
    return (LENGTH * mean / mean.norm()).numpy()


def test_a_vector_is_the_mean_over_the_tokens_of_its_segment_alone(tiny):
    encoder = open_encoder(str(tiny))
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9"]
    found = encoder.encode(texts)
    assert found.dtype == np.float32 and found.shape == (3, encoder.dimensions) == (3, 32)
    assert np.allclose(found, [by_hand(tiny, text) for text in texts], atol=1e-5)
    assert np.isfinite(encoder.encode(["w1 " * 500])).all()  # longer than the encoder


@pytest.mark.skipif(find_minilm() is None, reason=MISSING)
def test_a_real_encoder_is_read_as_sentence_transformers_reads_it(tmp_path):
    from sentence_transformers import SentenceTransformer

    place = save_minilm(tmp_path)
    texts = ["Wait, I should check the other candidate.", "So the answer is Paris.", "Hmm."]
    wanted = SentenceTransformer(str(place), device="cpu").encode(texts, normalize_embeddings=True)
    assert np.allclose(open_encoder(str(place)).encode(texts), LENGTH * wanted, atol=1e-5)


def right(labeller, thoughts):
    sums = []
    for lesson in thoughts:
        said = labeller.predict_steps(lesson.segments, spans=[(n, n) for n in range(4)])
        steps = labeller.adjudicate(lesson.segments, spans=list(zip(said.first_N, said.last_N, strict=True)))
        sums += [own.labels == step.labels for own, step in zip(steps, lesson.steps, strict=True)]
    return sum(sums) / len(sums)


def test_it_tells_words_that_were_never_seen_and_the_labeller_is_read_as_it_was_written(tiny, tmp_path):
    known, unknown = lessons(60, words=WORDS[:200], seed=1), lessons(40, words=WORDS[200:], seed=2)
    with_encoder = fit(known, labels=LABELS, encoder=open_encoder(str(tiny))).labeller
    without = fit(known, labels=LABELS).labeller
    assert right(with_encoder, unknown) > 0.95 and right(without, unknown) < 0.7
    write_labeller(tmp_path, with_encoder, report={})
    found = read_labeller(str(tmp_path))
    assert found.encoder == with_encoder.encoder
    assert all(found.annotate(one.segments) == with_encoder.annotate(one.segments) for one in unknown)


def test_a_labeller_whose_encoder_is_gone_or_another_is_refused(tiny, tmp_path):
    place = tmp_path / "encoder"
    place.mkdir()
    for file in tiny.iterdir():
        (place / file.name).write_bytes(file.read_bytes())
    labeller = fit(lessons(30, words=WORDS, seed=3), labels=LABELS, encoder=open_encoder(str(place))).labeller
    write_labeller(tmp_path / "own", labeller, report={})
    weights = load_file(place / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match="was learned with another encoder than the one in"):
        read_labeller(str(tmp_path / "own"))
    (place / "config.json").unlink()
    with pytest.raises(ValueError, match="which is not there; put it there, or learn the labeller again"):
        read_labeller(str(tmp_path / "own"))
    manifest = json.loads((tmp_path / "own" / MANIFEST).read_text())
    manifest["encoder"]["dimensions"] = 10**9
    (tmp_path / "own" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"labeller\.json is no labeller's"):
        read_labeller(str(tmp_path / "own"))


def test_weights_that_could_run_code_are_not_read(tiny, tmp_path):
    mark = tmp_path / "ran"
    for file in tiny.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(planted(mark))
    with pytest.raises(ValueError, match="cannot be loaded"):
        open_encoder(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    own_code = {"auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.Config"}, "model_type": "own"}
    (tmp_path / "config.json").write_text(json.dumps(config | own_code))
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    with pytest.raises(ValueError, match="cannot be loaded"):
        open_encoder(str(tmp_path))
    assert not mark.exists()
    with pytest.raises(ValueError, match=r"no config\.json lies there, so no encoder"):
        open_encoder("some/hub-name")
