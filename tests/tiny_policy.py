"""A random Qwen3 of 20 thousand parameters and a handful of examples, for tests of the training core."""

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mralign.config import Lora, Training
from mralign.training.examples import Example
from mralign.training.logprobs import TokenLogProbs
from mralign.training.reference import load_model, pairs_to_score, score
from mralign.training.worker import Reference, Task

VOCABULARY = 64


def save_model(directory):
    """Write the model to `directory`."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=48,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():  # the default initialisation is so small that all tokens are equally likely
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    model.save_pretrained(directory)


def make_examples():
    """13 examples of 7 questions with uneven weights."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(13):
        tokens = int(rng.integers(3, 12))
        made.append(
            Example(
                row_id=f"q{index // 2}/on/{index % 2}",
                question_id=f"q{index // 2}",
                polarity=1 if index % 3 else -1,
                prompt_ids=rng.integers(0, VOCABULARY, int(rng.integers(2, 6))),
                completion_ids=rng.integers(0, VOCABULARY, tokens),
                weights_T=rng.uniform(0.4, 2.7, tokens).astype(np.float32),
            )
        )
    return made


def settings(**changes):
    values = {
        "method": "mralign",
        "learning_rate": 1e-2,
        "epochs": 1,
        "batch_size": 6,
        "micro_batch_size": 2,
        "workers": 1,
        "dtype": "float32",
        "zero_stage": 2,
        "lora": Lora(r=4, alpha=8),
    }
    return Training(**{**values, **changes})


def make_task(model_path, examples, **changes):
    """A task with its reference computed by the model itself."""
    chosen = settings(**changes)
    task = Task(model_path, False, chosen, seed=3, examples=examples, reference=None)
    if chosen.method == "sft":
        return task
    policy = TokenLogProbs(load_model(model_path, dtype=chosen.dtype))
    rows = {example.row_id: example for example in examples}
    logps, sums = {}, {}
    for x, y in pairs_to_score([e.row_id for e in examples], task.batches()):
        found = score(policy, [(rows[x].prompt_ids, rows[y].completion_ids)], pad_id=0)[0]
        sums[x, y] = float(found.astype(np.float64).sum())
        if x == y:
            logps[x] = found
    return Task(model_path, False, chosen, seed=3, examples=examples, reference=Reference(logps, sums))
