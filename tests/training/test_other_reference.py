"""A reference that is another model than the one that is trained, as later rounds have it: r at step 0, by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_policy import commit_examples, settings
from transformers import AutoModelForCausalLM

from mralign.config import Model
from mralign.config.run import RunConfig
from mralign.run.store import StageDir
from mralign.training.alone import PlainEngine, score_alone, train_alone
from mralign.training.engine import World
from mralign.training.guards import TrainingStopped
from mralign.training.policy import base_policy, build_policy
from mralign.training.reference_model import check_reference, check_same_tokens
from mralign.training.stage import REFERENCE_STAGE
from mralign.training.task_files import Sources
from mralign.training.write_probe import write_probe

PACKAGED = "pkg://mralign.miniworld/data/model"


@pytest.fixture
def later(tmp_path, tiny_model):
    """A policy that has moved away from the first model."""
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.03)
    model.save_pretrained(tmp_path / "later")
    return str(tmp_path / "later")


def sources_of(home, *, start, reference, named=True):
    first = Model(path=reference, dtype="float32")
    chosen = settings(max_steps=1, pairs="none", reference=first if named else None)
    examples, weights = commit_examples(home)
    sources = Sources(chosen, first, 3, examples, weights, shelf=StageDir(f"{home}/shelf"))
    scored = score_alone(sources, base=base_policy(first, chosen), out=StageDir(f"{home}/reference", stage="reference"))
    return replace(scored, model=first.model_copy(update={"path": start}))


def logps(path, example):
    """log pi of the completion, by transformers alone."""
    ids = torch.tensor([[*example.prompt_ids.tolist(), *example.completion_ids.tolist()]])
    with torch.no_grad():
        logp_TV = AutoModelForCausalLM.from_pretrained(path)(input_ids=ids).logits[0].double().log_softmax(-1)
    first = len(example.prompt_ids)
    return logp_TV[first - 1 : -1].gather(1, ids[0, first:, None])[:, 0].numpy()


def test_r_of_the_first_step_is_of_the_policy_against_the_other_model(tmp_path, tiny_model, later):
    sources = sources_of(tmp_path, start=later, reference=tiny_model)
    task = sources.load()
    rewards = {1: [], -1: []}
    for example in task.reader.fetch(task.plan.batch(0).examples):
        ratio_T = logps(later, example) - logps(tiny_model, example)
        rewards[example.polarity].append(float((example.weights_T * ratio_T).sum()))
    last = train_alone(sources, settings=sources.settings).last
    assert last["reward_chosen"] == pytest.approx(np.mean(rewards[1]), abs=1e-4)
    assert last["reward_rejected"] == pytest.approx(np.mean(rewards[-1]), abs=1e-4)
    assert max(abs(np.mean(side)) for side in rewards.values()) > 0.05
    sigma = {sign: 1 / (1 + np.exp(-0.1 * sign * np.array(side))) for sign, side in rewards.items()}
    loss = np.concatenate([1 - sigma[1], 1.5 - 1.5 * sigma[-1]]).mean()  # z0 = 0, without pairs
    assert last["loss"] == pytest.approx(loss, abs=1e-5)


def test_without_being_told_of_it_a_training_from_another_model_is_stopped(tmp_path, tiny_model, later):
    sources = sources_of(tmp_path, start=later, reference=tiny_model, named=False)
    with pytest.raises(TrainingStopped, match="the reference was not computed with this model"):
        train_alone(sources, settings=sources.settings)


def test_the_probe_does_not_take_the_reference_for_the_model_before(tmp_path, tiny_model, later):
    for start, known in ((later, False), (tiny_model, True)):
        home = tmp_path / f"{known}"
        home.mkdir()
        sources = sources_of(home, start=start, reference=tiny_model, named=not known)
        task = sources.load()
        engine = PlainEngine(build_policy(task.model, task.settings, seed=0), task.settings, rate=1e-3)
        write_probe(engine, task, world=World(), directory=home)
        rows = json.loads((home / "probe.json").read_text())
        assert all((row["before"] is not None) is known for row in rows)


def test_a_reference_of_another_tokenizer_is_refused(tmp_path):
    from mralign.chat.model_files import load_tokenizer
    from mralign.config import resolve_path

    tokenizer = load_tokenizer(resolve_path(PACKAGED), model=Model())
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "other")
    source = [{"name": "q", "path": "q.jsonl"}]

    def config(reference):
        return RunConfig.model_validate({"questions": {"train": source}, "training": {"reference": reference}})

    check_same_tokens(config(None))
    check_same_tokens(config({"path": PACKAGED, "dtype": "float32"}))
    with pytest.raises(ValueError, match=r"training\.reference\.path=.*other has another tokenizer than model\.path="):
        check_same_tokens(config({"path": str(tmp_path / "other")}))


def test_a_reference_that_is_not_there_is_told_by_the_plan():
    def config(reference):
        source = [{"name": "q", "path": "q.jsonl"}]
        given = {"questions": {"train": source}, "training": {"reference": reference}, "engine": {"max_model_len": 256}}
        return RunConfig.model_validate(given)

    with pytest.raises(ValueError, match=r"training\.reference\.path=/nowhere/at/all does not exist; give a model"):
        REFERENCE_STAGE.check(config({"path": "/nowhere/at/all"}))
    for fine in (None, {"path": PACKAGED}, {"path": "hub/name"}, {"path": "s3://bucket/model"}):
        check_reference(config(fine))
