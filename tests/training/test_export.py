"""What a training leaves: loaded by plain PEFT and transformers, described by its card, taken by a hub on loopback."""

import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from loopback_hub import Hub
from peft import LoraConfig, PeftModel, get_peft_model
from python_path import python_path
from tiny_export import (
    FIGURES,
    TOKEN,
    base,
    checkpoint_of,
    configured,
    context,
    largest_difference,
    load,
    online,
    stir,
    task,
)
from transformers import AutoModelForCausalLM, AutoTokenizer

from mralign.config import RunConfig
from mralign.training.card import _UNMEASURED as UNMEASURED
from mralign.training.card import model_card, on_hub, shown, with_results
from mralign.training.checkpoint import WEIGHTS
from mralign.training.export import export, keep_trained, push

__all__ = ["base", "online", "task"]  # fixtures


def card(config, **changes):
    values = {"data": {"examples": "aa11", "weights": "bb22"}, "figures": FIGURES, "fingerprint": "cc33"}
    return model_card(config, **{"adapter": True, **values, **changes})


def front(text):
    before, matter, body = text.split("---\n", 2)
    assert before == ""
    return yaml.safe_load(matter), body


def test_the_card_tells_what_was_trained_on_what_and_how():
    text = card(configured(lora={"r": 5}, epochs=9))
    matter, body = front(text)
    assert matter == {
        "base_model": "Qwen/Qwen3-8B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["mralign"],
    }
    assert "# mralign on Qwen/Qwen3-8B" in body
    assert "stage `training/cc33`" in body
    assert "42 optimizer steps on 3 workers." in body
    for line in ("| loss | 0.4321 |", "| margin | 1.5 |", "| z0 | 0.25 |"):
        assert line in body.splitlines()
    assert "seconds" not in body
    for line in ("| examples | `aa11` |", "| weights | `bb22` |"):
        assert line in body.splitlines()
    told = yaml.safe_load(re.search(r"```yaml\n(.*)```", body, re.DOTALL)[1])
    assert set(told) == {"transitions", "weights", "training"}
    assert (told["training"]["lora"]["r"], told["training"]["epochs"]) == (5, 9)
    assert "workers trained" not in body
    assert "Note" not in body


def test_the_card_tells_what_makes_a_training_less_than_it_seems():
    balance = "class balance: 100 positive and 0 negative examples"
    text = card(configured(), figures={**FIGURES, "workers_changed": [[20, 4, 3]], "class_balance": balance})
    assert "Up to step 20 4 workers trained, then 3: the same up to rounding." in text
    dated = configured()
    dated = dated.model_copy(update={"model": dated.model.model_copy(update={"template_date": date(2026, 3, 2)})})
    assert "all prompts said 2026-03-02." in card(dated) and "all prompts said" not in text
    assert f"Note: {balance}." in text


def test_the_card_leaves_out_a_figure_that_the_last_batch_did_not_have():
    """A batch of positives alone has no reward of negatives and no margin."""
    only = {"loss": 0.25, "reward_chosen": 2.5, "z0": 0.5}
    _, body = front(card(configured(), figures={**FIGURES, "last": only}))
    assert {"| loss | 0.25 |", "| reward_chosen | 2.5 |", "| z0 | 0.5 |"} <= set(body.splitlines())
    assert "margin |" not in body and "reward_rejected |" not in body and "nan" not in body.lower()


def test_the_card_holds_no_endpoint_and_no_place_of_a_file():
    config = configured("/home/jane/models/ours-7b", adapter="/home/jane/adapters/first", push_to="me/it")
    for adapter in (True, False):
        text = card(config, adapter=adapter)
        for private in ("endpoint.example", "MY_KEY", "/private", "questions.jsonl", "/home", "jane"):
            assert private not in text, private
        assert "# mralign on ours-7b" in text
        assert "base_model" not in front(text)[0]  # the hub refuses what it does not know
    assert "It belongs on ours-7b with the adapter first merged into it, not on that model alone." in card(config)
    assert "The base had the adapter first merged into it." in card(config, adapter=False)


def test_a_name_on_the_hub_is_told_from_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert on_hub("Qwen/Qwen3-8B") and on_hub("gpt2")
    (tmp_path / "Qwen" / "Qwen3-8B").mkdir(parents=True)
    for path in ("Qwen/Qwen3-8B", "/a/b", "./a", "~/a", "a/b/c", "s3://bucket/a", "pkg://mralign.miniworld/data/model"):
        assert not on_hub(path), path
    assert [shown(p) for p in ("s3://bucket/a/", "/a/b", "pkg://m/data/model")] == ["a", "b", "pkg://m/data/model"]


def test_the_card_names_the_data_of_the_hub_and_no_license():
    values = configured().model_dump(mode="json")
    values["questions"]["train"] += [{"name": "sciq", "path": "hub://allenai/sciq?split=train"}]
    matter, body = front(card(RunConfig.model_validate(values)))
    assert matter["datasets"] == ["allenai/sciq"]
    assert "license" not in matter and "No license is named here." in body
    assert "Trained on q, sciq." in body


def test_results_take_their_place_in_the_card_and_can_be_replaced():
    """Read by the hub's own class; the rest of the card stays word by word."""
    before = card(configured())
    metric = {"type": "acc", "name": "Acc", "value": 0.25}
    index = [{"task": {"type": "text-generation"}, "dataset": {"type": "nq", "name": "nq"}, "metrics": [metric]}]
    once = with_results(before, text="| a table |", index=index, name="mine")
    assert "Not measured yet" in before and "Not measured yet" not in once
    (result,) = ModelCard(once, ignore_metadata_errors=False).data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("nq", "acc", 0.25)
    told = once.split("---\n", 2)[2].replace("| a table |", UNMEASURED)
    assert told == before.split("---\n", 2)[2]
    metric["value"] = 0.5
    twice = with_results(once, text="| another |", index=index, name="mine")
    assert twice == with_results(before, text="| another |", index=index, name="mine")
    assert with_results("# my own card\n", text="x", index=index, name="mine") == "# my own card\n"


def test_the_card_of_a_whole_model_is_for_transformers():
    assert front(card(configured(tuning="full"), adapter=False))[0]["library_name"] == "transformers"


@pytest.fixture(scope="module")
def first_adapter(base, tmp_path_factory):
    """An adapter of its own on the base, as `model.adapter` names one."""
    directory = tmp_path_factory.mktemp("first") / "first"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"))
    stir(adapted, seed=7)
    adapted.save_pretrained(directory)
    return str(directory)


def exported(home, task, *, base, adapter=None, tuning="lora", **training):
    config = configured(base, adapter=adapter, tuning=tuning, **training)
    checkpoint = checkpoint_of(task, home / "checkpoint", base=base, adapter=adapter, tuning=tuning)
    given = context(home, config)
    keep_trained(given, checkpoint, figures=FIGURES, name=checkpoint.name)
    export(given, checkpoint, figures=FIGURES)
    return Path(given.out.path())


@pytest.mark.parametrize("tuning", ["lora", "dora"])
def test_adapter_and_merged_model_say_what_the_trained_policy_said(tmp_path, task, base, tuning):
    out = exported(tmp_path, task, base=base, tuning=tuning)
    rows = json.loads((out / "probe.json").read_text())
    assert len(rows) == 4
    assert largest_difference(load(base), rows, of="before") <= 1e-5
    assert largest_difference(load(base), rows) > 0.05  # the policy has moved
    assert largest_difference(PeftModel.from_pretrained(load(base), out / "adapter"), rows) <= 1e-5
    assert largest_difference(load(out / "model"), rows) <= 1e-4


def test_an_export_leaves_all_that_is_needed_and_a_card_of_ours(tmp_path, task, base):
    out = exported(tmp_path, task, base=base)
    assert sorted(path.name for path in out.iterdir()) == ["adapter", "model", "probe.json", "trained.json"]
    assert sorted(path.name for path in (out / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    wanted = {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert wanted <= {path.name for path in (out / "model").iterdir()}
    saved = AutoTokenizer.from_pretrained(out / "model")
    assert saved("t5 t9 t63").input_ids == [5, 9, 63]
    assert saved.apply_chat_template([{"role": "user", "content": "t7"}], tokenize=False) == "t7"
    for name, library in (("adapter", "peft"), ("model", "transformers")):
        matter, body = front((out / name / "README.md").read_text())
        assert matter["library_name"] == library
        assert "| examples | `examples-mark` |" in body
        assert "stage `training/cc33`" in body
        assert str(base.parent) not in body


def test_an_adapter_on_top_of_another_is_merged_after_it(tmp_path, task, base, first_adapter):
    out = exported(tmp_path, task, base=base, adapter=first_adapter)
    rows = json.loads((out / "probe.json").read_text())
    assert largest_difference(load(out / "model"), rows) <= 1e-4
    first = PeftModel.from_pretrained(load(base), first_adapter).merge_and_unload()
    assert largest_difference(PeftModel.from_pretrained(first, out / "adapter"), rows) <= 1e-5
    assert largest_difference(PeftModel.from_pretrained(load(base), out / "adapter"), rows) > 0.01
    assert "tiny-base with the adapter first merged into it" in (out / "adapter" / "README.md").read_text()


def test_a_model_trained_whole_leaves_no_adapter(tmp_path, task, base):
    out = exported(tmp_path, task, base=base, tuning="full")
    assert sorted(path.name for path in out.iterdir()) == ["model", "probe.json", "trained.json"]
    rows = json.loads((out / "probe.json").read_text())
    assert largest_difference(load(out / "model"), rows) <= 1e-5
    assert largest_difference(load(base), rows) > 0.05
    assert AutoTokenizer.from_pretrained(out / "model")("t5").input_ids == [5]


@pytest.fixture(scope="module")
def weights(task, base, tmp_path_factory):
    return checkpoint_of(task, tmp_path_factory.mktemp("pushed") / "checkpoint", base=base) / WEIGHTS


def pushed(base, **changes):
    return configured(base, push_to="me/aligned", push_token_env="MY_HUB_TOKEN", **changes)


def test_a_push_brings_adapter_and_card_whole_and_leaves_no_token(tmp_path, weights, base):
    """In a process of its own, at the loudest level of logging."""
    code = f"""
import logging
from pathlib import Path
import test_export as here
logging.basicConfig(level=logging.DEBUG)
here.push(here.pushed({str(base)!r}), Path({str(weights)!r}), card=here.card(here.pushed({str(base)!r})))
"""
    before = {path: path.read_bytes() for path in weights.iterdir()}
    with Hub() as hub:
        environment = {n: v for n, v in os.environ.items() if not n.lower().endswith("_proxy") and n[:3] != "HF_"}
        tests = Path(__file__).parents[1]
        environment |= {"PYTHONPATH": python_path(tests / "training", tests, tests.parent)}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "MY_HUB_TOKEN": TOKEN, "HOME": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=180
        )
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout + done.stderr
    assert "INFO:mralign:pushed to me/aligned" in said
    assert "/api/repos/create" in said  # the library did log its requests

    assert hub.files["adapter_model.safetensors"] == (weights / "adapter_model.safetensors").read_bytes()
    assert hub.files["README.md"].decode() == card(pushed(base))
    theirs, ours = (
        json.loads(hub.files["adapter_config.json"]),
        json.loads((weights / "adapter_config.json").read_text()),
    )
    assert theirs == {**ours, "base_model_name_or_path": "tiny-base"}
    assert set(hub.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert sum(path.endswith("/commit/main") for _, path, _, _ in hub.requests) == 1
    assert {path: path.read_bytes() for path in weights.iterdir()} == before  # the checkpoint is as it was

    (created,) = [json.loads(body) for _, path, _, body in hub.requests if path == "/api/repos/create"]
    assert (created["organization"], created["name"], created["visibility"]) == ("me", "aligned", "private")
    for _, path, headers, body in hub.requests:
        assert TOKEN.encode() not in body
        assert TOKEN not in path
        held = {name.lower(): value for name, value in headers.items() if TOKEN in value}
        ours = path != "/api/agent-harnesses" and not path.startswith("/objects/")  # a public list; a storage elsewhere
        assert held == ({"authorization": f"Bearer {TOKEN}"} if ours else {})
    assert TOKEN not in said
    assert [str(path) for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()] == []


def test_an_export_pushes_what_it_has_written(tmp_path, task, base, online):
    with Hub() as hub:
        online(hub)
        out = exported(tmp_path, task, base=base, push_to="me/aligned", push_token_env="MY_HUB_TOKEN")
    for name in ("README.md", "adapter_model.safetensors"):
        assert hub.files[name] == (out / "adapter" / name).read_bytes()
    assert hashlib.sha256(hub.files["adapter_model.safetensors"]).hexdigest() in hub.objects


def test_a_model_trained_whole_is_pushed_with_its_tokenizer(tmp_path, task, base, online):
    with Hub() as hub:
        online(hub)
        out = exported(tmp_path, task, base=base, tuning="full", push_to="me/aligned", push_token_env="MY_HUB_TOKEN")
    assert {path.name for path in (out / "model").iterdir()} == set(hub.files)
    for path in (out / "model").iterdir():
        assert hub.files[path.name] == path.read_bytes(), path.name


@pytest.mark.parametrize("value", [None, ""])
def test_without_a_token_nothing_is_sent(monkeypatch, weights, base, online, value):
    with Hub() as hub:
        online(hub)
        monkeypatch.delenv("MY_HUB_TOKEN")
        if value is not None:
            monkeypatch.setenv("MY_HUB_TOKEN", value)
        with pytest.raises(
            ValueError, match=r"push_to=me/aligned needs a token in the environment variable MY_HUB_TOKEN"
        ):
            push(pushed(base), weights, card="")
    assert hub.requests == []


@pytest.mark.parametrize("where", ["/api", "/api/models", "/me/aligned.git", "/objects"])
def test_a_hub_that_refuses_is_quoted_without_the_token(weights, base, online, caplog, capsys, where):
    """The server repeats what it was sent."""
    with Hub(refuse=where) as hub, caplog.at_level(logging.DEBUG):
        online(hub)
        with pytest.raises(ValueError, match=r"the hub did not take it as training\.push_to=me/aligned") as caught:
            push(pushed(base), weights, card=card(pushed(base)))
    text = str(caught.value)
    assert "401" in text
    assert "run the same command again" in text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    for said in (text, caplog.text, *capsys.readouterr()):
        assert TOKEN not in said
    assert hub.files == {}


def test_a_hub_that_is_not_there_is_told(weights, base, online):
    with Hub() as hub:
        pass
    online(hub)
    with pytest.raises(ValueError, match=r"did not take it as training\.push_to=me/aligned: .*refused"):
        push(pushed(base), weights, card=card(pushed(base)))


def test_a_card_that_the_hub_does_not_take_stops_before_the_weights(weights, base, online):
    with Hub() as hub:
        online(hub)
        with pytest.raises(ValueError, match=r'Invalid metadata in README.md.\n- "base_model" is not valid'):
            push(pushed(base), weights, card="---\nbase_model: /home/jane/model\n---\n")
    assert [path for _, path, _, _ in hub.requests] == ["/api/repos/create", "/api/validate-yaml"]
