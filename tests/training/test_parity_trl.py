"""With all weights 1, loss, z0 and LoRA gradients are those of TRL 1.16's KTOTrainer on the same batch (fp32)."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_policy import VOCABULARY, score_reference, settings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mralign.config import Model
from mralign.rows.schema import EXAMPLES
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.training.engine import World
from mralign.training.examples import example_row
from mralign.training.index import index_rows, write_index
from mralign.training.logprobs import TokenLogProbs
from mralign.training.loop import batch_z0, micro_loss
from mralign.training.lora import fuse_lora
from mralign.training.policy import load_model
from mralign.training.task_files import Sources

trl = pytest.importorskip("trl", reason="trl is not installed: pip install --no-deps trl==1.16.0")
SIZE = 7


@pytest.fixture(scope="module")
def tokenizer():
    words = {"<end>": 0, "<pad>": 1} | {f"t{n}": n for n in range(2, VOCABULARY)}
    whole = Tokenizer(models.WordLevel(words, unk_token="t2"))
    whole.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=whole, eos_token="<end>", pad_token="<pad>")


@pytest.fixture(scope="module", params=["kto", "apo_zero"])
def task(request, tmp_path_factory, tiny_model):
    """One batch of 7 examples with TRL's pairs: each prompt with the completion before its own."""
    home, rng = tmp_path_factory.mktemp(request.param), np.random.default_rng(5)
    rows = [
        example_row(
            {
                "row_id": f"q{number}/on/0",
                "question_id": f"q{number}",
                "dataset": "tiny",
                "polarity": 1 if number % 3 else -1,
                "prompt_token_ids": rng.integers(2, VOCABULARY, int(rng.integers(3, 9))).tolist(),
                "token_ids": [*rng.integers(2, VOCABULARY, tokens := int(rng.integers(5, 40))).tolist(), 0],
            },
            token_step=[0] * tokens + [-1],
        )
        for number in range(SIZE)
    ]
    examples = StageDir(str(home / "examples"), stage="examples")
    examples.commit(part_name("0"), pa.Table.from_pylist(rows, schema=EXAMPLES), schema=EXAMPLES)
    write_index(examples, [index_rows(examples, [(0, part_name("0"))])])
    chosen = settings(method=request.param, batch_size=SIZE, pairs="trl", micro_batch_tokens=10**6)
    return score_reference(home, Sources(chosen, Model(path=tiny_model, dtype="float32"), 3, examples)).load()


LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def move(model):
    """Take a fresh adapter away from its reference: A and B become random, the same for every model."""
    torch.manual_seed(2)
    for parameter in trained(model):
        torch.nn.init.normal_(parameter, std=0.1)


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def z0_in_float64(task, examples):
    """The mean log-ratio of each prompt with the completion before its own, by transformers and PEFT in float64."""
    model = get_peft_model(load_model(task.model, task.settings), LORA)
    move(model)
    model.double()
    ratios = []
    for place, example in enumerate(examples):
        completion = examples[place - 1].completion_ids
        ids = torch.tensor([[*example.prompt_ids, *completion]])
        policy = completion_logp(model, ids, tokens=len(completion))
        with model.disable_adapter():
            ratios.append(policy - completion_logp(model, ids, tokens=len(completion)))
    return sum(ratios) / len(ratios)


def completion_logp(model, ids, *, tokens):
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    return logp.gather(1, ids[0, 1:, None])[-tokens:].sum().item()


def test_loss_z0_and_gradients_equal_trls(task, tokenizer, tmp_path):
    from datasets import Dataset

    examples = task.reader.fetch(range(SIZE))
    text = [
        {
            "prompt": " ".join(f"t{i}" for i in e.prompt_ids),
            "completion": " " + " ".join(f"t{i}" for i in e.completion_ids[:-1]),
            "label": e.polarity > 0,
        }
        for e in examples
    ]
    arguments = trl.KTOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=SIZE,
        loss_type={"kto": "kto", "apo_zero": "apo_zero_unpaired"}[task.settings.method],
        beta=task.settings.beta,
        desirable_weight=task.settings.lambda_chosen,
        undesirable_weight=task.settings.lambda_rejected,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = trl.KTOTrainer(
        model=load_model(task.model, task.settings),
        args=arguments,
        train_dataset=Dataset.from_list(text),
        processing_class=tokenizer,
        peft_config=LORA,
    )
    move(trainer.model)
    (batch,) = trainer.get_train_dataloader()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    ours = get_peft_model(load_model(task.model, task.settings), LORA)
    assert fuse_lora(ours) == 14
    move(ours)
    policy = TokenLogProbs(ours)
    z0 = batch_z0(policy, task, 0, world=World(), previous=None) if task.objective.pairs else 0.0
    total, tally, broken = micro_loss(policy, task, examples, z0=z0)
    (total / SIZE).backward()

    assert broken == []
    assert tally.loss / SIZE == pytest.approx(loss.item(), rel=1e-5)
    if task.objective.pairs:
        exact = z0_in_float64(task, examples)
        assert exact > 0  # not the clamp
        assert z0 == pytest.approx(exact, rel=1e-5)
        # TRL's is a mean of differences of float32 sums: a sum near -300 has a spacing of 3e-5.
        assert trainer._metrics["train"]["kl"][-1] == pytest.approx(exact, abs=3e-5)
    expected, found = trained(trainer.model), trained(ours)
    assert len(found) == len(expected) == 28
    for place, (value, wanted) in enumerate(zip(found, expected, strict=True)):
        assert wanted.grad.abs().max() > 0
        difference = (value.grad - wanted.grad).abs().max() / wanted.grad.abs().max()
        assert difference <= 1e-5, (place, difference)
