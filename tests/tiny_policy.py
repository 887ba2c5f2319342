"""A random Qwen3 of 20 thousand parameters and a handful of committed examples, for tests of the training core."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mralign.config import Lora, Model, Training
from mralign.rows.schema import EXAMPLES, WEIGHTS
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.alone import score_alone
from mralign.training.examples import example_row
from mralign.training.index import index_rows, write_index
from mralign.training.objectives import find
from mralign.training.policy import base_policy
from mralign.training.task_files import Sources

VOCABULARY = 64


def save_model(directory, *, tied=False):
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
        tie_word_embeddings=tied,
    )
    model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():  # the default initialisation is so small that all tokens are equally likely
        torch.nn.init.normal_(parameter, std=0.2) if parameter.dim() > 1 else None
    model.save_pretrained(directory)


def make_rows(count=13):
    """Rows of schema.EXAMPLES, two a question, and the weights of their steps: a step of its own for nearly every
    token, and for the last one none, as for an answer."""
    rng = np.random.default_rng(0)
    rows, weights = [], []
    for index in range(count):
        tokens = int(rng.integers(3, 12))
        candidate = {
            "row_id": f"q{index // 2}/on/{index % 2}",
            "question_id": f"q{index // 2}",
            "dataset": "tiny",
            "polarity": 1 if index % 3 else -1,
            "prompt_token_ids": rng.integers(0, VOCABULARY, int(rng.integers(2, 6))).tolist(),
            "token_ids": rng.integers(0, VOCABULARY, tokens).tolist(),
        }
        rows.append(example_row(candidate, token_step=[*range(tokens - 1), -1]))
        steps = rng.uniform(0.4, 2.7, tokens - 1).tolist()
        weights.append({"row_id": candidate["row_id"], "polarity": candidate["polarity"], "step_weights": steps})
    return rows, weights


def commit_examples(home, *, parts=3, count=13):
    """Stages `examples` and `weights` below `home`, in `parts` parts."""
    examples, weights = (StageDir(f"{home}/{name}", stage=name, fingerprint="tiny") for name in ("examples", "weights"))
    rows, step_weights = make_rows(count)
    for number in range(parts):
        name = part_name(f"{number:02d}")
        examples.commit(name, pa.Table.from_pylist(rows[number::parts], schema=EXAMPLES), schema=EXAMPLES)
        weights.commit(name, pa.Table.from_pylist(step_weights[number::parts], schema=WEIGHTS), schema=WEIGHTS)
    write_index(examples, [index_rows(examples, list(enumerate(examples.parts())))])
    return examples, weights


def settings(**changes):
    values = {
        "method": "mralign",
        "learning_rate": 1e-2,
        "epochs": 1,
        "batch_size": 6,
        "micro_batch_tokens": 30,
        "workers": 1,
        "dtype": "float32",
        "zero_stage": 2,
        "lora": Lora(r=4, alpha=8),
    }
    return Training(**{**values, **changes})


def make_sources(home, model_path, **changes):
    """Sources below `home`, their reference scored in this process if the objective wants one."""
    chosen, model = settings(**changes), Model(path=str(model_path), dtype="float32")
    examples, weights = commit_examples(home)
    sources = Sources(chosen, model, 3, examples, weights if find(chosen.method).weights else None)
    return score_reference(home, sources)


def score_reference(home, sources):
    """The sources with their reference, if their objective wants one, scored in this process."""
    chosen, model = sources.settings, sources.model
    if not find(chosen.method).reference:
        return sources
    with_shelf = replace(sources, shelf=StageDir(f"{home}/shelf"))
    return score_alone(
        with_shelf, base=base_policy(model, chosen), out=StageDir(f"{home}/reference", stage="reference")
    )


def make_task(home, model_path, **changes):
    """The task of `make_sources`."""
    return make_sources(Path(home), model_path, **changes).load()


def token_pairs(task, places=None):
    """(prompt ids, completion ids) of examples by their places in the index."""
    places = range(len(task.reader.index)) if places is None else places
    return [(e.prompt_ids, e.completion_ids) for e in task.reader.fetch(list(places))]
