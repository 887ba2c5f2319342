"""What tests of whole trainings share: the program that they start, its tiny model, and how to read what it left."""

import json
from pathlib import Path

from tiny_policy import VOCABULARY, save_model
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

PROGRAM = Path(__file__).with_name("training_process.py")


def save_model_with_tokenizer(directory):
    """The tiny model with a tokenizer, which the exported model gets as well; returns its path."""
    save_model(directory)
    words = Tokenizer(models.WordLevel({f"t{n}": n for n in range(VOCABULARY)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
    return str(directory)


def history(training):
    """The rows of figures of a training's optimizer steps."""
    return [json.loads(line) for line in (training / "metrics.jsonl").read_text().splitlines()]
