"""`python -m mralign.miniworld build --seed S [--out DIR]`: train a world's base, write it with its questions.

Leaves `DIR/model/`, `DIR/questions/{train,dev,test}.jsonl` and, written last, `DIR/world.json` with the settings, the
training record and the measured criteria. One thread, so that the same seed on the same machine gives the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3ForCausalLM

from mralign.miniworld.base import ModelParams, TrainingParams, train_base
from mralign.miniworld.criteria import measure
from mralign.miniworld.lessons import LessonParams, Teacher
from mralign.miniworld.sampling import SamplerParams
from mralign.miniworld.tokenizer import make_tokenizer
from mralign.miniworld.world import FactWorld, WorldParams, WorldSplit, make_world

DATA = Path(__file__).parent / "data"
SETTINGS = (WorldParams, ModelParams, LessonParams, TrainingParams, SamplerParams)
Params = TypeVar("Params", WorldParams, ModelParams, LessonParams, TrainingParams, SamplerParams)


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    args = make_parser().parse_args(argv)
    torch.set_num_threads(1)
    build(
        args.seed,
        out=args.out,
        world_params=_read(WorldParams, args),
        model_params=_read(ModelParams, args),
        lesson_params=_read(LessonParams, args),
        training_params=_read(TrainingParams, args),
        sampler_params=_read(SamplerParams, args),
    )


def make_parser() -> argparse.ArgumentParser:
    """One flag for every field of the settings, under the field's own name and default."""
    parser = argparse.ArgumentParser(prog="python -m mralign.miniworld", description=__doc__)
    command = parser.add_subparsers(required=True).add_parser("build", help="train a base and write its world")
    command.add_argument("--seed", type=int, required=True, help="the world's seed")
    command.add_argument("--out", type=Path, default=DATA, help="default: the package's data directory")
    for settings in SETTINGS:
        group = command.add_argument_group(settings.__name__, settings.__doc__)
        for field in dataclasses.fields(settings):
            flag = _flag(settings, field.name)
            group.add_argument(f"--{flag}", type=type(field.default), default=field.default, metavar="N")
    return parser


def _flag(settings: type[Any], field: str) -> str:
    """The sampler's flags carry its name: its seed is not the world's."""
    return ("sampler-" if settings is SamplerParams else "") + field.replace("_", "-")


def _read(settings: type[Params], args: argparse.Namespace) -> Params:
    names = [field.name for field in dataclasses.fields(settings)]
    return settings(**{name: getattr(args, _flag(settings, name).replace("-", "_")) for name in names})


def build(
    seed: int,
    *,
    out: Path,
    world_params: WorldParams,
    model_params: ModelParams,
    lesson_params: LessonParams,
    training_params: TrainingParams,
    sampler_params: SamplerParams,
) -> dict[str, Any]:
    """Build the world of a seed into `out`; returns what world.json holds."""
    world = make_world(seed, params=world_params)
    (out / "world.json").unlink(missing_ok=True)
    write_questions(world, out=out / "questions")
    tokenizer = make_tokenizer(world.words, max_length=model_params.max_length)
    model, record = train_base(
        Teacher(world, tokenizer=tokenizer, params=lesson_params).epoch,
        seed=world.seed,
        tokenizer=tokenizer,
        model_params=model_params,
        params=training_params,
        log=_print,
    )
    write_model(model, tokenizer, out=out / "model")
    criteria = {
        split.value: dataclasses.asdict(measure(world, split, model=model, tokenizer=tokenizer, params=sampler_params))
        for split in (WorldSplit.TRAIN, WorldSplit.DEV)
    }
    every_setting = (world_params, model_params, lesson_params, training_params, sampler_params)
    record_of_world = {
        "seed": seed,
        "parameters": {type(settings).__name__: dataclasses.asdict(settings) for settings in every_setting},
        "training": dataclasses.asdict(record),
        "criteria": criteria,
    }
    text = json.dumps(record_of_world, indent=2) + "\n"
    (out / "world.json").write_text(text, encoding="utf-8")
    _print(text)
    return record_of_world


def write_questions(world: FactWorld, *, out: Path) -> None:
    """One JSON object a line: id, question, answer (a list with the gold value)."""
    out.mkdir(parents=True, exist_ok=True)
    for split, facts in world.splits.items():
        rows = [{"id": fact.fact_id, "question": fact.question, "answer": [fact.gold]} for fact in facts]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (out / f"{split}.jsonl").write_text(lines, encoding="utf-8")


def write_model(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, *, out: Path) -> None:
    """A model directory as transformers and vLLM load it."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=1.0
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _print(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
