import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_families import family
from tiny_policy import make_sources, make_task, settings, token_pairs
from transformers import AutoModelForCausalLM

from mralign.config import Model
from mralign.training.batches import padded
from mralign.training.logprobs import TokenLogProbs
from mralign.training.policy import base_policy, load_model
from mralign.training.reference import blocks, model_mark, planned_pairs, score
from mralign.training.task_files import check_shelf, local_model


def addresses(task, *, mark="m"):
    return {(block.kind, block.name): block.address for block in blocks(task.reader, task.plan, mark=mark)}


def test_every_example_and_every_planned_pair_is_on_the_shelf(task):
    policy = TokenLogProbs(load_model(task.model, task.settings))
    examples = task.reader.fetch(range(len(task.reader.index)))
    with torch.no_grad():
        for example in examples:
            alone = policy(padded([(example.prompt_ids, example.completion_ids)]))
            np.testing.assert_allclose(example.reference_T, alone, atol=2e-6)
        for step in range(len(task.plan)):
            batch, (block, within) = task.plan.batch(step), task.plan.block_of(step)
            sums = task.reader.shelf.pair_sums(block, step=within)
            has = batch.partners >= 0
            assert len(sums) == has.sum() > 0
            for x, y, total in zip(batch.examples[has], batch.partners[has], sums, strict=True):
                alone = policy(padded([(examples[x].prompt_ids, examples[y].completion_ids)]))
                assert total == pytest.approx(float(alone.double().sum()), abs=1e-5)


def test_weights_other_objectives_and_more_epochs_score_only_what_is_new(tmp_path, tiny_model):
    short = addresses(make_task(tmp_path / "a", tiny_model))
    assert len(set(short.values())) == len(short) == 3 + 1
    assert addresses(make_task(tmp_path / "b", tiny_model, method="kto")) == short
    assert addresses(make_task(tmp_path / "c", tiny_model, lambda_rejected=2.0, micro_batch_tokens=99)) == short
    longer = addresses(make_task(tmp_path / "d", tiny_model, epochs=2))
    assert {key: longer[key] for key in short} == short
    assert set(longer) - set(short) == {("pairs", "1-000000")}
    other = addresses(make_task(tmp_path / "e", tiny_model, batch_size=3))
    assert [key for key in short if other[key] != short[key]] == [("pairs", "0-000000")]
    assert not set(addresses(make_task(tmp_path / "f", tiny_model), mark="n").values()) & set(short.values())


def test_pairs_that_are_the_same_in_every_epoch_are_scored_once(tmp_path, tiny_model):
    once = addresses(make_task(tmp_path / "a", tiny_model, pairs="trl"))
    thrice = addresses(make_task(tmp_path / "b", tiny_model, pairs="trl", epochs=3))
    assert len(thrice) == len(once) + 2
    assert set(thrice.values()) == set(once.values())


def test_the_mark_follows_model_and_dtype_and_nothing_else(tmp_path, tiny_model):
    model = Model(path=tiny_model, dtype="float32")
    mark = model_mark(model, settings())
    assert model_mark(model, settings(learning_rate=1.0, epochs=7, zero_stage=3, beta=2.0)) == mark
    assert model_mark(model, settings(dtype="bfloat16")) != mark
    shutil.copytree(tiny_model, tmp_path / "copy")
    assert model_mark(model.model_copy(update={"path": str(tmp_path / "copy")}), settings()) == mark
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "rope_theta": 5.0}))
    assert model_mark(model.model_copy(update={"path": str(tmp_path / "copy")}), settings()) != mark


def test_planned_pairs_are_those_of_the_batches(task):
    (name,) = task.plan.blocks()
    found = list(zip(*(column.tolist() for column in planned_pairs(task.plan, name)), strict=True))
    expected = [
        (step, int(i), int(j))
        for step in range(len(task.plan))
        for i, j in zip(task.plan.batch(step).examples, task.plan.batch(step).partners, strict=True)
        if j >= 0
    ]
    assert found == expected


def test_the_order_of_the_scores_is_that_of_the_pairs_whatever_the_budget(task):
    policy, pairs = TokenLogProbs(load_model(task.model, task.settings)), token_pairs(task)
    whole = score(policy, pairs, settings=task.settings.model_copy(update={"micro_batch_tokens": 10**6}))
    for budget, packing in ((1, "off"), (20, "off"), (50, "on")):
        changed = task.settings.model_copy(update={"micro_batch_tokens": budget, "packing": packing})
        for row, wanted, (_, completion) in zip(score(policy, pairs, settings=changed), whole, pairs, strict=True):
            assert row.dtype == np.float32
            assert len(row) == len(completion)
            np.testing.assert_allclose(row, wanted, atol=2e-6)


def test_sft_has_no_reference_and_positive_examples_only(tmp_path, tiny_model):
    sources = make_sources(tmp_path, tiny_model, method="sft")
    assert sources.reference is None
    task = sources.load()
    assert (task.reader.index.polarity_N == 1).all()
    assert 0 < len(task.reader.index) < 13
    assert all(example.reference_T is None for example in task.reader.fetch([0, 1]))


def test_a_model_that_caps_its_logits_is_scored_by_its_own(tmp_path, task):
    family("gemma2").save_pretrained(tmp_path)
    model, pairs = Model(path=str(tmp_path), dtype="float32"), token_pairs(task)[:3]
    found = score(base_policy(model, settings(attention="eager")), pairs, settings=settings(attention="eager"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    for (prompt, completion), row in zip(pairs, found, strict=True):
        ids = torch.from_numpy(np.concatenate([prompt, completion])).long()[None]
        with torch.no_grad():
            logits = plain(input_ids=ids).logits[0]
        assert logits.abs().max() <= 2.0  # the cap
        wanted = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0]
        np.testing.assert_allclose(row, wanted, atol=5e-6)


def test_a_policy_with_an_adapter_is_the_adapted_model(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    model = Model(path=tiny_model, dtype="float32")
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(load_model(model, settings()), lora).eval()
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[1, 5, 3, 2]])
    merged = load_model(model.model_copy(update={"adapter": str(tmp_path)}), settings())
    with torch.no_grad():
        wanted, found, base = (m(input_ids=ids).logits for m in (adapted, merged, load_model(model, settings())))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert (found - base).abs().max() > 1e-2


def test_a_block_without_its_examples_in_one_run_is_the_same_in_another(tmp_path, tiny_model):
    """Two runs with equal tokens cut the same parts: their blocks have the same addresses."""
    one, two = (make_sources(tmp_path / name, tiny_model) for name in ("one", "two"))
    assert addresses(one.load()) == addresses(replace(two, weights=None).load())


def test_a_shelf_that_lost_a_block_is_told_before_any_worker_starts(tmp_path, tiny_model):
    sources = make_sources(tmp_path, tiny_model)
    check_shelf(sources)
    (tmp_path / "shelf" / sources.shelf.parts()[0]).unlink()
    with pytest.raises(ValueError, match=r"1 of 4 blocks of the reference are gone from .*shelf; delete .*reference"):
        check_shelf(sources)
    check_shelf(make_sources(tmp_path / "sft", tiny_model, method="sft"))


def test_a_relative_model_is_found_from_another_working_directory(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model, tmp_path / "mine")
    found = local_model(Model(path="mine", adapter="mine"))
    assert (found.path, found.adapter) == (str(tmp_path / "mine"), str(tmp_path / "mine"))
    for elsewhere in ("Qwen/Qwen3-8B", "s3://bucket/model"):
        assert local_model(Model(path=elsewhere)).path == elsewhere
    assert local_model(Model()).path.endswith("miniworld/data/model")


def test_an_edited_objective_is_another_one(tmp_path, monkeypatch):
    from mralign.training import objectives

    before = objectives.source_digest("kto")
    assert before != objectives.source_digest("mralign")
    source = (Path(objectives.__path__[0]) / "kto.py").read_text()
    (tmp_path / "kto.py").write_text(source.replace("rate=5e-6", "rate=1e-5"))
    monkeypatch.setattr(objectives, "__path__", [str(tmp_path)])
    assert objectives.source_digest("kto") != before
