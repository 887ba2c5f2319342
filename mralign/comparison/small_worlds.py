"""A small world is prepared: its base trained, its questions answered, its thoughts judged, labelled and weighed.

Knobs enter, a `Prepared` world leaves. Judging, consensus, counting, EM, weights and examples are the functions that
the stages of a run call; what is missing are Ray, engines and annotators that cost money. Bases and answers lie in a
cache under what they depend on: worlds that differ in examples, negatives or noise alone share a base.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import torch

from mralign.annotation.taxonomy import PAPER
from mralign.comparison.exam import Exam
from mralign.comparison.methods import configured
from mralign.comparison.small_labels import label, world_hash
from mralign.comparison.trial import Prepared
from mralign.config import RunConfig, parse
from mralign.miniworld.__main__ import write_model
from mralign.miniworld.base import ModelParams, TrainingParams, train_base
from mralign.miniworld.knobs import Knobs
from mralign.miniworld.small_world import SmallTeacher, SmallWorld
from mralign.miniworld.tokenizer import make_tokenizer
from mralign.rollouts.candidates import Limits, judge
from mralign.rows import Candidate, Generation, Mode, Polarity, Question, from_table, to_table
from mralign.rows.schema import EXAMPLES, GENERATIONS, WEIGHTS
from mralign.run.digests import digest
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.serving.adapter import load_merged
from mralign.training.annotated import ANNOTATED
from mralign.training.examples import example_rows
from mralign.training.index import index_rows, write_index
from mralign.training.objectives import find
from mralign.training.task_files import Sources
from mralign.transitions.weights_by_settings import weights_in_memory

PART = part_name("train-00-00000")
LESSONS, EPOCHS = 1500, 12  # thoughts in an epoch of the base's training, and epochs
DRAWS = 3
LENGTH = 160  # positions of a base
LIMITS = Limits(min_segments=2, max_segments=60, min_thought_tokens=4, max_thought_tokens=LENGTH)
VERSION = 1  # raised when the same knobs make other examples


class TooFewExamples(ValueError):
    """A base that leaves too few positive or negative thoughts for the examples that are wanted."""


def settings(home: Path, *, model: Path) -> RunConfig:
    """The configuration that every method of the study starts from."""
    sources = [{"name": "small", "path": "small.jsonl"}]
    decoding = {"temperature": 0.7, "top_p": 1.0, "max_tokens": LENGTH - 16}
    training = {
        "epochs": 2,
        "batch_size": 16,
        "micro_batch_tokens": 2048,
        "lora": {"r": 8, "alpha": 16},
        "dtype": "float32",
        "threads_per_worker": 1,
    }
    return parse(
        {
            "run": {"dir": str(home)},
            "model": {"path": str(model), "dtype": "float32"},
            "questions": {"train": sources, "test": sources},
            "engine": {"max_model_len": LENGTH},
            "rollouts": {"n": DRAWS, "decoding": decoding},
            "training": training,
            "evaluation": {"draws": 1, "decoding": decoding},
            "transitions": {"bootstrap": 50},
        }
    )


def prepare(knobs: Knobs, *, world: str, cache: Path, methods: Sequence[str], smaller: float = 1.0) -> Prepared:
    """The world of these knobs under the name `world`. `smaller` shortens the base's training, for tests."""
    made = SmallWorld(knobs)
    base = _base(made, cache=cache, smaller=smaller)
    own_hash = world_hash(made)
    home = cache / "worlds" / own_hash
    config = settings(home, model=base)
    tables = {split: _questions(made, split=split) for split in made.splits}
    exam = Exam(config, path=str(base), tables=tables)
    answers = _answers(exam, made, base=base, cache=cache)
    candidates = choose_examples(answers, knobs=knobs)
    configs = {method: configured(config, method) for method in methods}
    sources = trained_on(candidates, knobs=knobs, home=home, mark=own_hash, configs=configs)
    return Prepared(world, f"small-{VERSION}-{own_hash}-{smaller}", config, tables, configs, sources)


def trained_on(
    candidates: Sequence[Candidate], *, knobs: Knobs, home: Path, mark: str, configs: Mapping[str, RunConfig]
) -> dict[str, Sources]:
    """What each method trains on: candidates as labelled and weighed examples in `home`, of fingerprint `mark`."""
    annotated = label(candidates, knobs=knobs)
    joined = to_table(candidates, Candidate).append_column(ANNOTATED.field("steps"), annotated.column("steps"))
    model = next(iter(configs.values())).model
    rows, rejects = example_rows(joined, model=model, max_length=LENGTH)
    assert not rejects, rejects[:3]
    examples = StageDir(f"{home}/examples", stage="examples", fingerprint=mark)
    examples.commit(PART, rows, schema=EXAMPLES)
    write_index(examples, [index_rows(examples, [(0, PART)])])
    sources = {}
    for method, own in configs.items():
        weights = None
        if find(own.training.method).weights:
            weights = StageDir(f"{home}/weights/{method}", stage="weights", fingerprint=method)
            found = weights_in_memory(annotated, states=PAPER.states, config=own)
            weights.commit(PART, found, schema=WEIGHTS)
        shelf = StageDir(f"{home}/reference_by_content", stage="reference")
        sources[method] = Sources(own.training, own.model, knobs.seed, examples, weights, shelf=shelf)
    return sources


def _base(made: SmallWorld, *, cache: Path, smaller: float) -> Path:
    """The directory of the base, trained if it is not there: it knows nothing of examples, negatives and noise."""
    plain = Knobs(made.knobs.seed)
    unseen = {name: getattr(plain, name) for name in ("examples", "negatives", "noise")}
    world = SmallWorld(replace(made.knobs, **unseen))
    out = cache / "bases" / f"{world_hash(world)}-{smaller:g}"
    if not (out / "model.safetensors").exists():
        tokenizer = make_tokenizer(world.words, max_length=LENGTH)
        teacher = SmallTeacher(world, tokenizer=tokenizer)
        lessons = max(20, round(LESSONS * smaller))
        torch.set_num_threads(1)  # several would give another model each time, and are no faster for one this small
        model, _ = train_base(
            lambda rng: teacher.epoch(rng, lessons=lessons),
            seed=world.knobs.seed,
            tokenizer=tokenizer,
            model_params=ModelParams(64, 2, 4, 2, 128, max_length=LENGTH),
            params=TrainingParams(epochs=EPOCHS, warmup_steps=50),
            log=lambda line: None,
        )
        write_model(model, tokenizer, out=out)
    return out


def _questions(made: SmallWorld, *, split: str) -> pa.Table:
    rows = [Question(f.fact_id, "small", split, f.question, [f.gold], None, "{}") for f in made.splits[split]]
    return to_table(rows, Question)


def _answers(exam: Exam, made: SmallWorld, *, base: Path, cache: Path) -> list[Generation]:
    """DRAWS completions of each mode of the training questions, from the cache where they are there."""
    name = f"{base.name}-{len(made.splits['train'])}-{digest(str(base / 'model.safetensors'))[:12]}"
    store = StageDir(f"{cache}/answers/{name}")
    if not store.holds(PART):
        model = load_merged(str(base), adapters=(), dtype="float32").eval()
        rows = []
        for mode in Mode:
            rows += exam.ask(model, "train", mode=mode, draws=DRAWS, seed=made.knobs.seed)
        store.commit(PART, to_table(rows, Generation), schema=GENERATIONS)
    return list(from_table(store.read_parts([PART], schema=GENERATIONS), Generation))


def judged(answers: Sequence[Generation]) -> list[Candidate]:
    """The candidates among the answers, by the verdict of the method."""
    kept, _ = judge(answers, match="exact", draws=DRAWS, limits=LIMITS, keep_all_draws=False)
    return kept


def choose_examples(answers: Sequence[Generation], *, knobs: Knobs, fewer: bool = False) -> list[Candidate]:
    """As many positives and negatives as the knobs say, by the verdict of the method. Raises TooFewExamples where
    the model has left too few, unless `fewer` will do."""
    kept = judged(answers)
    wrong = round(knobs.examples * knobs.negatives)
    wanted = {Polarity.POSITIVE: knobs.examples - wrong, Polarity.NEGATIVE: wrong}
    found: list[Candidate] = []
    for polarity, count in wanted.items():
        there = [one for one in kept if one.polarity == polarity]
        if len(there) < count and not fewer:
            raise TooFewExamples(
                f"the world {asdict(knobs)} has {len(there)} {polarity.name.lower()} thoughts, {count} are wanted; "
                f"lower examples, change negatives, or raise harm"
            )
        random.Random(f"{knobs.seed} {polarity.name}").shuffle(there)
        found += there[:count]
    return sorted(found, key=lambda one: one.row_id)
