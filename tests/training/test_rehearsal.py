"""The end of a training: tried before its first step, and gone on from where it failed."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from loopback_hub import Hub
from peft import PeftModel
from tiny_export import FIGURES, TOKEN, base, checkpoint_of, configured, context, load, online, task
from tiny_export import largest_difference as difference
from tiny_policy import settings
from transformers import AutoModelForCausalLM, GptOssConfig

from mralign.config import Model
from mralign.run.digests import digest
from mralign.training import rehearsal, stage
from mralign.training.checkpoint import WEIGHTS, seal_checkpoint
from mralign.training.engine import World
from mralign.training.export import export, keep_trained, trained_before
from mralign.training.guards import TrainingStopped
from mralign.training.kept_checkpoints import RAY_TRAIN
from mralign.training.policy import build_policy
from mralign.training.rehearsal import lacking_room, rehearse

__all__ = ["base", "online", "task"]
ODD = {"temperature": 0.6, "top_p": 0.9, "eos_token_id": 0}  # transformers reads it, and refuses to write it


def copied(base, directory, *, odd=False):
    shutil.copytree(base, directory)
    (directory / "generation_config.json").write_text(json.dumps(ODD if odd else {"eos_token_id": 0}))
    return directory


def rehearsed(config):
    rehearse(config, figures={"workers": 1, "class_balance": None}, fingerprint="cc33")


def test_a_generation_configuration_that_transformers_does_not_write_is_taken_along(tmp_path, task, base):
    odd = copied(base, tmp_path / "odd", odd=True)
    with pytest.raises(ValueError, match="do_sample"):
        load(odd).save_pretrained(tmp_path / "plain")
    config = configured(odd)
    rehearsed(config)
    checkpoint = checkpoint_of(task, tmp_path / "checkpoint", base=odd)
    given = context(tmp_path, config)
    export(given, checkpoint, figures=FIGURES)
    assert json.loads((Path(given.out.path()) / "model" / "generation_config.json").read_text()) == ODD


def test_mending_the_generation_configuration_makes_no_other_model(tmp_path, base):
    odd, mended = copied(base, tmp_path / "odd", odd=True), copied(base, tmp_path / "mended")
    (mended / "generation_config.json").write_text(json.dumps(ODD | {"do_sample": True}, indent=1))
    assert digest(str(odd)) == digest(str(mended))
    (mended / "generation_config.json").write_text(json.dumps(ODD | {"eos_token_id": [0, 5]}))  # ends elsewhere
    assert digest(str(odd)) != digest(str(mended))
    shutil.copy(odd / "generation_config.json", mended)
    (mended / "config.json").write_text((mended / "config.json").read_text() + " ")
    assert digest(str(odd)) != digest(str(mended))


def test_what_fails_after_the_training_costs_no_training(tmp_path, task, base, monkeypatch):
    mine = copied(base, tmp_path / "mine")
    given = context(tmp_path, configured(mine))
    out = Path(given.out.path())
    checkpoint = checkpoint_of(task, out / RAY_TRAIN / "checkpoint_0", base=mine)
    seal_checkpoint(checkpoint, training=given.out.fingerprint, world=World())
    keep_trained(given, checkpoint, figures=FIGURES | {"examples": 13}, name=checkpoint.name)
    tokenizer = (mine / "tokenizer.json").read_text()
    (mine / "tokenizer.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"training is finished and its adapter lies in .*/adapter, but the model"
    ) as e:
        export(given, checkpoint, figures=FIGURES)
    assert "the tokenizer of" in str(e.value) and "nothing is trained again" in str(e.value)
    rows = json.loads((out / "probe.json").read_text())
    assert difference(PeftModel.from_pretrained(load(mine), out / "adapter"), rows) <= 1e-5
    assert "42 optimizer steps" in (out / "adapter" / "README.md").read_text()
    assert not (out / "model").exists()

    (mine / "tokenizer.json").write_text(tokenizer)
    monkeypatch.setattr(stage, "_train_anew", lambda context: pytest.fail("trained again"))
    outcome = stage._train(given)
    assert (outcome.rows_in, outcome.figures["steps"]) == (13, 42)
    assert difference(load(out / "model"), rows) <= 1e-4


def test_without_its_checkpoint_a_training_is_not_taken_for_finished(tmp_path, task, base):
    given = context(tmp_path, configured(base))
    checkpoint = checkpoint_of(task, Path(given.out.path()) / RAY_TRAIN / "checkpoint_0", base=base)
    seal_checkpoint(checkpoint, training=given.out.fingerprint, world=World())
    with trained_before(given.out) as found:
        assert found is None
    keep_trained(given, checkpoint, figures=FIGURES, name=checkpoint.name)
    with trained_before(given.out) as found:
        assert found == (checkpoint, FIGURES)
    (checkpoint / "weights" / "more.bin").write_bytes(b"from elsewhere")
    with pytest.raises(TrainingStopped, match="checkpoint_0 is not what was written"), trained_before(given.out):
        pass
    shutil.rmtree(checkpoint)
    with trained_before(given.out) as found:
        assert found is None
    for torn in ('{"figures": {"ste', "[]", "{}"):
        given.out.write_text("trained.json", torn)
        with trained_before(given.out) as found:
            assert found is None


@pytest.mark.parametrize("tuning", ["lora", "full"])
@pytest.mark.parametrize("largest", [2**31, 0], ids=["whole", "without_weights"])
def test_a_model_that_could_not_be_written_is_refused_before_the_first_step(
    tmp_path, base, monkeypatch, tuning, largest
):
    monkeypatch.setattr(rehearsal, "_WHOLE_UP_TO", largest)
    monkeypatch.setattr(rehearsal.tempfile, "tempdir", str(tmp_path))
    mine = copied(base, tmp_path / "mine")
    rehearsed(configured(mine, tuning=tuning))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]  # nothing is left
    (mine / "tokenizer.json").unlink()
    with pytest.raises(
        ValueError, match=r"nothing is trained yet, for the trained model could not be written: .*token"
    ):
        rehearsed(configured(mine, tuning=tuning))
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_merge_that_would_go_wrong_is_found_before_the_first_step(base, monkeypatch):
    from mralign.serving import merging

    monkeypatch.setattr(merging, "mean_difference", lambda one, other: 0.5)
    with pytest.raises(ValueError, match=r"nothing is trained yet.*merging the adapter changes what the model says"):
        rehearsed(configured(base))


@pytest.mark.filterwarnings("ignore")
def test_a_model_without_sdpa_is_merged_and_written(tmp_path, task, base):
    """gpt-oss has eager attention only; its experts are fused."""
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=128,
        pad_token_id=1,
    )
    mine = tmp_path / "oss"
    shutil.copytree(base, mine)
    AutoModelForCausalLM.from_config(config).save_pretrained(mine)
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        AutoModelForCausalLM.from_pretrained(mine, attn_implementation="sdpa")
    asked = configured(mine, attention="eager", packing="off")
    rehearsed(asked)
    policy = build_policy(asked.model, asked.training, seed=0)
    policy.model.save_pretrained(tmp_path / "checkpoint" / WEIGHTS)
    given = context(tmp_path, asked)
    export(given, tmp_path / "checkpoint", figures=FIGURES)
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        expected = policy.model(ids).logits
        found = load(Path(given.out.path()) / "model")(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_disk_without_room_for_the_model_is_told_before(tmp_path, base, monkeypatch):
    config = configured(base).model_copy(
        update={"run": configured(base).run.model_copy(update={"dir": f"{tmp_path}/r"})}
    )
    assert lacking_room(config) == []
    parameters = sum(p.numel() for p in load(base).parameters())
    usage = namedtuple("usage", "total used free")
    # TMPDIR and run.dir lie on one disk: a copy in each
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda place: usage(0, 0, 2 * 4 * parameters - 1))
    (said,) = lacking_room(config)
    assert f"the disk of {rehearsal.tempfile.gettempdir()} has 0.0 GiB free: make room" in said
    with pytest.raises(ValueError, match="make room"):
        rehearsed(config)
    monkeypatch.setattr(rehearsal.shutil, "disk_usage", lambda place: usage(0, 0, 2 * 4 * parameters))
    assert lacking_room(config) == []
    full = config.model_copy(update={"training": config.training.model_copy(update={"tuning": "full"})})
    assert len(lacking_room(full)) == 1  # and checkpoints of all weights besides


@pytest.mark.parametrize(
    "refuse", ["", "/api/repos/create", "/api/models/me/aligned/auth-check/write", "/api/validate"]
)
def test_a_hub_that_would_refuse_is_found_before_the_first_step(base, online, refuse):
    config = configured(base, push_to="me/aligned", push_token_env="MY_HUB_TOKEN")
    with Hub(refuse=refuse or "/nothing") as hub:
        online(hub)
        if not refuse:
            rehearsed(config)
        else:
            with pytest.raises(ValueError, match=r"nothing is trained yet, but the hub did not take it as") as caught:
                rehearsed(config)
            assert TOKEN not in str(caught.value)
    assert hub.files == {}  # nothing is written there before there is something


def test_a_model_and_its_adapter_on_another_file_system_are_trained_and_written(tmp_path, base, task):
    """The plan takes a URI, so every stage must."""
    adapter = checkpoint_of(task, tmp_path / "first", base=base) / WEIGHTS
    near, far = (
        build_policy(Model(path=f"{at}{base}", adapter=f"{at}{adapter}", dtype="float32"), settings(), seed=0)
        for at in ("", "file://")
    )
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        assert torch.equal(near.model(ids).logits, far.model(ids).logits)
    rehearsed(configured(f"file://{base}", adapter=f"file://{adapter}"))
