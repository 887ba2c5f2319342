"""Tiny random models of many families, made from transformers' own configurations."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

BASE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEADS = BASE | {"head_dim": 8}
OLD = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGES = {"mm_tokens_per_image": 4, "image_token_index": 5, "boi_token_index": 6, "eoi_token_index": 7}
CAPPED = HEADS | {"sliding_window": 16, "final_logit_softcapping": 3.0}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
NEMOTRON = {
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "chunk_size": 16,
    "n_groups": 1,
    "layers_block_type": ["mamba", "attention", "moe"],
    "n_routed_experts": 4,
    "moe_intermediate_size": 16,
    "moe_shared_expert_intermediate_size": 16,
}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 8.0, 16.0, 16.0]}


def longrope(original):
    """Settings of a Phi-3 that takes its long factors beyond `original` tokens."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": original, **FACTORS}
    return {"rope_parameters": rope, "original_max_position_embeddings": original}


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}

# Families whose logits are their linear head's.
PLAIN = {
    "qwen3": HEADS,
    "llama": BASE,
    "mistral": BASE | {"sliding_window": 16},
    "olmo2": BASE,
    "phi": BASE,  # a head with a bias
    "phi3": BASE,
    "starcoder2": BASE,  # tied
    "gemma3": {
        "text_config": CAPPED,  # which this class does not apply
        "vision_config": VISION | {"image_size": 28, "patch_size": 14},
        **IMAGES,
    },
    "qwen2_moe": BASE | EXPERTS | {"shared_expert_intermediate_size": 24},
    "gpt_oss": HEADS | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16},
    "llama4_text": HEADS | {"num_local_experts": 4, "intermediate_size_mlp": 48},
    "gpt2": OLD,
    "gptj": OLD | {"rotary_dim": 4},
    "gpt_neox": BASE,
    "falcon": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    "opt": {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 128,
        "word_embed_proj_dim": 16,
    },
}
# Families that do more than their head.
MORE = {
    "gemma2": CAPPED | {"final_logit_softcapping": 2.0},
    "gemma3_text": CAPPED,
    "gemma3n_text": CAPPED
    | {"num_kv_shared_layers": 0, "laurel_rank": 4, "hidden_size_per_layer_input": 8}
    | {"vocab_size_per_layer_input": 64, "altup_num_inputs": 2},
    "cohere": BASE | {"logit_scale": 0.25},
    "granite": BASE | {"logits_scaling": 3.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0},
    "falcon_h1": HEADS | MAMBA | {"lm_head_multiplier": 0.5, "embedding_multiplier": 2.0},
    "nanochat": BASE,  # a soft cap that no field of the configuration names
    "recurrent_gemma": BASE | {"lru_width": 32, "attention_window_size": 16},
    "roberta": BASE | {"is_decoder": True, "max_position_embeddings": 130},  # a dense layer before the head
}


def config_of(name, **changes):
    """transformers' configuration of a family, tiny."""
    return AutoConfig.for_model(name, **({**PLAIN, **MORE}.get(name, HEADS) | changes))


def family(name, *, dtype=torch.float32, attention=None, **changes):
    """A random model of the family whose logits are spread enough for differences to show."""
    torch.manual_seed(0)
    given = {} if attention is None else {"attn_implementation": attention}
    model = AutoModelForCausalLM.from_config(config_of(name, **changes), dtype=dtype, **given).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    return model
