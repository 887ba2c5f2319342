"""Which models may be given packed sequences: a real model of each kind, tiny and random, judged by what moves what."""

import pytest
import torch
from tiny_policy import settings
from transformers import AutoModelForCausalLM, BloomConfig, CodeGenConfig, Gemma3TextConfig, MistralConfig, Qwen3Config
from transformers import Qwen3_5TextConfig as Qwen35Config

from mralign.config import Model
from mralign.training import attention
from mralign.training.attention import register_varlen
from mralign.training.policy import check_packing, load_model

SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
HEADS = {"num_key_value_heads": 2, "head_dim": 8}
LINEAR = {f"linear_{name}": 8 for name in ("key_head_dim", "value_head_dim")}
FITS = {
    "qwen3": Qwen3Config(**SMALL, **HEADS),
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=None),
}
NOT = {
    "bloom": BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4),
    "codegen": CodeGenConfig(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, rotary_dim=8),
    "gated_delta_net": Qwen35Config(
        **SMALL,
        **HEADS,
        **LINEAR,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        layer_types=["linear_attention"] * 2,
    ),
}
WINDOWS = {
    "mistral": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=4),
    "gemma3": Gemma3TextConfig(**SMALL, **HEADS, sliding_window=4),
}


def made(config, attention="sdpa"):
    register_varlen()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=torch.float32).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    return model


def moved(model, *, changed, seen):
    """How far the hidden states of the tokens `seen` move when the token `changed` is another: two sequences of six."""
    ids, positions = torch.arange(12)[None], torch.arange(6).repeat(2)[None]
    ends = torch.tensor([0, 6, 12], dtype=torch.int32)
    limits = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": 6, "max_length_k": 6}
    hidden = []
    for token in (int(ids[0, changed]), 50):
        ids[0, changed] = token
        with torch.no_grad():
            states = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False, **limits)
        hidden.append(states.last_hidden_state[0, seen])
    return float((hidden[0] - hidden[1]).abs().max())


FIRST, SECOND, BEFORE_LAST = slice(0, 6), slice(6, 12), slice(6, 11)


@pytest.mark.parametrize("name", FITS)
def test_sequences_of_an_allowed_model_do_not_see_each_other(name):
    model = made(FITS[name], "varlen")
    check_packing(model, settings(attention="varlen"))
    assert moved(model, changed=2, seen=SECOND) == 0
    assert moved(model, changed=8, seen=FIRST) == 0
    assert moved(model, changed=11, seen=BEFORE_LAST) == 0
    assert moved(model, changed=8, seen=BEFORE_LAST) > 1e-3


@pytest.mark.parametrize("name", NOT)
def test_a_model_whose_sequences_would_see_each_other_is_refused(name):
    model = made(NOT[name], "varlen")
    assert moved(model, changed=2, seen=SECOND) > 1e-4  # the danger is real
    for chosen in (settings(attention="varlen"), settings(packing="on")):
        with pytest.raises(ValueError, match=r"give training\.attention=sdpa .* and training\.packing=off"):
            check_packing(model, chosen)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_go_by_a_mask_and_not_by_varlen(name):
    check_packing(made(WINDOWS[name]), settings(packing="on"))
    with pytest.raises(ValueError, match=f"type {WINDOWS[name].model_type} "):
        check_packing(made(WINDOWS[name]), settings(attention="varlen"))


def test_a_model_is_judged_when_it_is_loaded(tmp_path):
    made(NOT["bloom"], "eager").save_pretrained(tmp_path)
    model = Model(path=str(tmp_path), dtype="float32")
    load_model(model, settings(attention="eager"))
    with pytest.raises(ValueError, match="a model of type bloom"):
        load_model(model, settings(attention="varlen"))


def of_torch_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    raise NotImplementedError


def test_shared_heads_are_asked_for_where_torch_has_a_word_for_them(monkeypatch):
    """What a GPU then computes: test_gpu.py."""
    attention._shared_heads.cache_clear()
    assert attention._shared_heads() == {"enable_gqa": True}
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", of_torch_2_11)
    attention._shared_heads.cache_clear()
    assert attention._shared_heads() == {}
    attention._shared_heads.cache_clear()
