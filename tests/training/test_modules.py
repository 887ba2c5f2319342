"""What trains and what does not, told from a configuration file, and that it is so."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from ranks import run_ranks
from tiny_families import EXPERTS, HEADS, NEMOTRON, config_of, family
from tiny_policy import settings
from transformers import AutoModelForCausalLM

from mralign.config import Lora, Training, load, resolve_path
from mralign.plan.pipeline import plan
from mralign.plan.plan_text import describe
from mralign.training.modules import adapt, lines, tell, trained, warning

FUSED = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
ATTENTION = "q_proj, k_proj, v_proj, o_proj"
PRESETS = Path(__file__).parents[2] / "mralign" / "presets"


def what_trains(name, *, changes=None, **lora):
    return trained(settings(lora=Lora(r=4, alpha=8, **lora)), config=config_of(name, **(changes or {})))


def test_a_dense_model_trains_whole_and_the_numbers_are_those_of_its_shapes():
    shape = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    shape |= {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936}
    found = trained(Training(), config=config_of("qwen3", **shape))  # Qwen3-8B, no weights
    ins_and_outs = [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), *[(4096, 12288)] * 2, (12288, 4096)]
    assert found.parameters == 36 * 32 * sum(a + b for a, b in ins_and_outs) == 87_293_952
    assert lines(found) == [
        f"trains: {ATTENTION}, gate_proj, up_proj, down_proj in 36 layers, 87.3 M of 8.2 B parameters"
    ]
    assert warning(found) is None
    assert found.left == ()


@pytest.mark.parametrize(
    ("name", "changes", "left"),
    [
        ("gpt_oss", {}, FUSED),
        ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}, None),
        ("qwen2_moe", {}, FUSED),
    ],
)
def test_fused_experts_that_stay_frozen_are_told_with_what_reaches_them(name, changes, left):
    left = left or tuple(f"block_sparse_moe.experts.{part}" for part in ("gate_up_proj", "down_proj"))
    found = what_trains(name, changes=changes)
    told = lines(found)[1]
    assert told.startswith("not trained: ")
    assert f"training.lora.target_parameters=[{', '.join(left)}] would reach" in told
    assert "of the linear parameters of the layers do not train" in warning(found)
    reached = what_trains(name, changes=changes, target_parameters=left)
    assert len(lines(reached)) == 1 and warning(reached) is None
    assert reached.parameters > 2 * found.parameters


def test_dense_layers_beside_experts_that_peft_takes_for_experts_are_told_too():
    mixed = HEADS | EXPERTS | {"mlp_only_layers": [0]}
    found = what_trains("qwen3_moe", changes=mixed)
    assert {group.name for group in found.left} == {
        f"mlp.{part}.weight" for part in ("gate_proj", "up_proj", "down_proj")
    }
    names = tuple(group.name for group in found.left)
    assert what_trains("qwen3_moe", changes=mixed, target_parameters=names).left == ()


def test_what_peft_refuses_is_refused_before_anything_runs_with_names_it_takes():
    with pytest.raises(ValueError, match=r"'out_proj' is incompatible.*target_modules=\[down_proj, in_proj, k_proj"):
        what_trains("nemotron_h", changes=NEMOTRON)
    named = ("in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    assert what_trains("nemotron_h", changes=NEMOTRON, target_modules=named).layers == 3


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ("q_proj", "typo")}, r"target_modules names \[typo\].*self_attn\.q_proj"),
        ({"target_modules": ("typo",)}, r"not found.*target_modules=\[down_proj, gate_proj"),
        ({"target_parameters": ("experts.typo",)}, r"target_parameters names \[experts\.typo\]"),
        ({"modules_to_save": ("typo",)}, r"modules_to_save names \[typo\]"),
    ],
)
def test_a_name_that_the_model_does_not_have_is_refused(lora, message):
    with pytest.raises(ValueError, match=message):
        what_trains("qwen3", **lora)


def test_one_of_two_tied_layers_is_not_trained_alone():
    found = what_trains("qwen3", modules_to_save=("lm_head",))
    assert found.names[-1] == "lm_head"
    assert found.parameters == what_trains("qwen3").parameters + 64 * 32
    for given in ({"modules_to_save": ("lm_head",)}, {"target_modules": ("q_proj", "lm_head")}):
        with pytest.raises(ValueError, match="ties its input embeddings and its head"):
            what_trains("qwen3", changes={"tie_word_embeddings": True}, **given)


def test_names_of_experts_from_before_they_were_fused_are_taken_as_peft_takes_them():
    found = what_trains("qwen3_moe", changes=EXPERTS, target_modules=("q_proj", "gate_proj", "up_proj", "down_proj"))
    assert found.names == ("q_proj", *FUSED)


@pytest.mark.parametrize("name", ["qwen3", "gpt_oss", "qwen3_moe", "gpt2"])
def test_a_model_with_weights_trains_what_was_told(name):
    changes = EXPERTS if name == "qwen3_moe" else {}
    policy = adapt(family(name, **changes), settings())
    counted = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    assert counted == what_trains(name, changes=changes).parameters


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="tuning=full trains everything"):
        Training(tuning="full", lora=Lora(target_modules=("q_proj",)))
    with pytest.raises(ValueError, match=r"lora\.dropout=0"):
        Training(lora=Lora(dropout=0.1, target_parameters=FUSED))


def test_defaults_change_no_fingerprint():
    assert Lora().model_dump(mode="json") == {"r": 32, "alpha": 64, "dropout": 0.0}
    assert Lora(target_modules=("q_proj",)).model_dump(mode="json")["target_modules"] == ["q_proj"]


def test_the_dry_run_says_what_trains_and_loads_no_weights(tmp_path):
    home = Path(shutil.copytree(resolve_path("pkg://mralign.miniworld/data/model"), tmp_path / "model"))
    weights = home / "model.safetensors"
    size, whole = weights.stat().st_size, weights.read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    weights.write_bytes(header + bytes([255]) * (size - len(header)))  # NaN everywhere
    config = load("miniworld", overrides=[f"run.dir={tmp_path}/run", f"model.path={home}"], presets_dir=PRESETS)
    assert f"trains: {ATTENTION}, gate_proj, up_proj, down_proj in 2 layers" in describe(config, plan(config))
    hub = config.model_copy(update={"model": config.model.model_copy(update={"path": "nobody/such-a-model"})})
    assert tell(hub) == ["trains: unknown, nobody/such-a-model is no directory here and not in the hub's cache"]


@pytest.mark.slow
def test_experts_that_are_named_move_and_the_adapter_loads_in_plain_peft(tmp_path):
    family("gpt_oss").save_pretrained(tmp_path / "model")
    lora = {"r": 4, "alpha": 8, "target_parameters": FUSED}
    changes = {"lora": lora, "attention": "eager", "epochs": 1}
    (_, tensors, _), *_ = run_ranks(tmp_path, str(tmp_path / "model"), {"moe": changes}).values()
    moved = {name for name, values in tensors.items() if "lora_B" in name and np.abs(values).max() > 0}
    assert {name for name in tensors if "experts" in name and "lora_B" in name} <= moved
    assert sum("experts" in name for name in moved) == 2 * 2  # two parameters in two layers
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32, attn_implementation="eager")
    policy = PeftModel.from_pretrained(base.eval(), tmp_path / "moe" / "weights").eval()
    for merged in (False, True):
        policy = policy.merge_and_unload() if merged else policy
        for row in json.loads((tmp_path / "moe" / "probe.json").read_text()):
            prompt, completion = row["prompt_ids"], row["completion_ids"]
            with torch.no_grad():
                logps = policy(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
            found = logps[len(prompt) - 1 : -1].gather(1, torch.tensor(completion)[:, None])[:, 0]
            np.testing.assert_allclose(found, row["logps"], atol=1e-5)


@pytest.mark.parametrize("name", ["llama4_text", "phimoe"])
def test_a_router_that_peft_takes_for_a_linear_layer_stays_as_it_is(name):
    model = family(name, num_local_experts=4)
    policy = adapt(model, settings(lora=Lora(r=4, alpha=8)))
    with torch.no_grad():  # an adapted router would be given several tensors for one, and break here
        assert policy(torch.arange(6)[None]).logits.isfinite().all()
    told = what_trains(name, changes={"num_local_experts": 4})
    assert "router" not in told.names and "q_proj" in told.names
    with pytest.raises(ValueError, match=r"target_modules names \[router\], which are no linear layers in this model"):
        what_trains(name, changes={"num_local_experts": 4}, target_modules=("q_proj", "router"))
