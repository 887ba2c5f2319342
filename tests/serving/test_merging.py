"""A merged adapter says what PEFT says with the adapter beside the weights, whatever the adapter is, or is refused."""

import json
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from tiny_policy import save_model
from transformers import AutoModelForCausalLM

from mralign.config import Model
from mralign.serving import merging
from mralign.serving.adapter import check_adapter, load_merged, save_merged, served_beside

IDS = torch.arange(1, 41).reshape(2, 20)
ADAPTERS = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens"]},
    "both_apart": {"target_modules": ["embed_tokens", "lm_head"]},
    "both_tied": {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True},
    "saved_embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved_head_and_norm": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [3, 5]}},
    "dora_head": {"target_modules": ["lm_head"], "use_dora": True},
    "rank_stabilised": {"target_modules": "all-linear", "use_rslora": True},
    "bias": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "parameters": {"target_modules": [], "target_parameters": ["mlp.gate_proj.weight"]},
}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def base(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("base")
    save_model(directory, tied=request.param)
    return directory


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tied")
    save_model(directory, tied=True)
    return directory


def load(directory, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def logits(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def save_adapter(base, directory, *, size=0.1, **settings):
    """An adapter with weights; returns what the model says with it, by PEFT alone."""
    torch.manual_seed(1)
    adapted = get_peft_model(load(base), LoraConfig(r=2, task_type="CAUSAL_LM", **settings))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter), alpha=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PEFT, which tells of what it saves besides
        adapted.save_pretrained(directory)
    return logits(PeftModel.from_pretrained(load(base), directory).eval())


@pytest.mark.filterwarnings("ignore")  # of PEFT, on tied layers
@pytest.mark.parametrize("kind", ADAPTERS)
def test_a_merged_adapter_says_what_it_said_beside_the_weights(base, tmp_path, kind):
    expected = save_adapter(base, tmp_path / "adapter", **ADAPTERS[kind])
    assert (expected - logits(load(base))).abs().max() > 0.1  # it does something
    merged = load_merged(str(base), adapters=[str(tmp_path / "adapter")], dtype="float32").eval()
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_the_saved_model_of_a_tied_base_is_served_as_it_was_merged(tied, tmp_path):
    (tied / "tokenizer.json").write_text(
        '{"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
    )
    (tied / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    expected = save_adapter(tied, tmp_path / "adapter", target_modules=["lm_head"])
    (tmp_path / "merged").mkdir()
    model = Model(path=str(tied), dtype="float32")
    save_merged(str(tied), adapters=[str(tmp_path / "adapter")], target=tmp_path / "merged", model=model)
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, atol=1e-4, rtol=1e-4)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    # an adapter that leaves the tied layer alone leaves the tie as well
    save_adapter(tied, tmp_path / "other", target_modules=["q_proj"])
    assert load_merged(str(tied), adapters=[str(tmp_path / "other")], dtype="float32").config.tie_word_embeddings


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["head", "dora_head", "rank_stabilised"])
def test_in_bfloat16_a_merge_is_judged_by_what_rounding_may_do(tied, tmp_path, kind):
    save_adapter(tied, tmp_path / "adapter", **ADAPTERS[kind])
    beside = logits(PeftModel.from_pretrained(load(tied, torch.bfloat16), tmp_path / "adapter").eval())
    merged = load_merged(str(tied), adapters=[str(tmp_path / "adapter")], dtype="bfloat16").eval()
    assert (logits(merged) - beside).abs().mean() < 0.05


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_that_changes_what_the_model_says_is_refused(tied, tmp_path, monkeypatch, dtype):
    """As PEFT's own merge of a tied head does."""
    save_adapter(tied, tmp_path / "adapter", target_modules=["lm_head"])
    monkeypatch.setattr(merging, "_tell_apart", lambda adapted: None)
    with pytest.raises(ValueError, match=r"merging the adapter changes what the model says: .* differ by [\d.]+ a"):
        load_merged(str(tied), adapters=[str(tmp_path / "adapter")], dtype=dtype)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_model_is_refused(tied, tmp_path):
    """PEFT only warns: layers that it has no place for are left out, layers that are missing stay as they were."""
    save_adapter(tied, tmp_path / "adapter", target_modules=["q_proj"])
    config = json.loads((tied / "config.json").read_text())
    one = load(tied)
    one.model.layers = one.model.layers[:1]
    one.config.num_hidden_layers, one.config.layer_types = 1, config["layer_types"][:1]
    one.save_pretrained(tmp_path / "one")
    with pytest.raises(ValueError, match=r"adapter .* does not fit the model .*: \d+ weights are in one of them only"):
        load_merged(str(tmp_path / "one"), adapters=[str(tmp_path / "adapter")], dtype="float32")
    save_adapter(tmp_path / "one", tmp_path / "short", target_modules=["q_proj"])
    with pytest.raises(ValueError, match="does not fit the model"):
        load_merged(str(tied), adapters=[str(tmp_path / "short")], dtype="float32")


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_cannot_be_merged_is_refused(tied, tmp_path):
    save_adapter(tied, tmp_path / "adapter", target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(ValueError, match=r"the adapter cannot be merged: .*has no bias"):
        load_merged(str(tied), adapters=[str(tmp_path / "adapter")], dtype="float32")


@pytest.mark.filterwarnings("ignore")
def test_vllm_is_given_only_what_it_serves_whole(tied, tmp_path):
    served = {"plain": {"target_modules": ["q_proj", "down_proj"]}, "scaled": ADAPTERS["rank_stabilised"]}
    for name, settings in (ADAPTERS | served).items():
        save_adapter(tied, tmp_path / name, **settings)
        check_adapter(str(tmp_path / name))
    found = {name for name in ADAPTERS | served if served_beside(str(tmp_path / name))}
    assert found == {"plain", "scaled", "rank_stabilised"}


def test_a_configuration_that_is_none_is_told(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is no JSON"):
        check_adapter(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_that_can_never_be_merged_is_refused_by_the_plan(tied, tmp_path):
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tied), prefix).save_pretrained(tmp_path / "prefix")
    with pytest.raises(ValueError, match="kind PREFIX_TUNING, which cannot be merged; give a LoRA adapter"):
        check_adapter(str(tmp_path / "prefix"))
    save_adapter(tied, tmp_path / "cut", target_modules=["q_proj"])
    check_adapter(str(tmp_path / "cut"))
    weights = tmp_path / "cut" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ValueError, match="copy or download it again"):
        check_adapter(str(tmp_path / "cut"))
