"""Which settings count for which fingerprint: each field of the configuration is changed, one after the other.

A new field counts for every stage that reads its section. One that counts nowhere fails here until it is marked where
it is declared, and a new mark fails here until it stands in `MARKED`.
"""

import datetime
import re
from copy import deepcopy
from enum import StrEnum
from operator import attrgetter
from typing import get_args

import pytest

from mralign.annotation.discovery_stage import OPEN_LABELS_STAGE
from mralign.config import RunConfig, Section, counted, parse
from mralign.config.section import mark_of
from mralign.evaluation import stage as evaluation
from mralign.plan import pipeline, placing

MARKED = {
    "speed": {
        *("Run.dir", "Run.gpu_memory_gib", "Run.local_cpus", "Run.lost_limit", "Run.overlap", "Run.patience_s"),
        "Run.reject_limit",
        *("Engine.batch_size", "Engine.cpu_kv_cache_gib", "Engine.cpus_per_replica", "Engine.enforce_eager"),
        *("Engine.gpu_memory_utilization", "Engine.gpus_per_replica", "Engine.max_num_seqs", "Engine.max_replicas"),
        *("Engine.min_replicas", "Engine.pipeline_parallel", "Engine.tensor_parallel"),
        *("Http.budget", "Http.concurrency", "Http.currency", "Http.key_env", "Http.max_backoff_s", "Http.max_retries"),
        *(
            "Http.max_rate_limited_s",
            "Http.max_refusals",
            "Http.price_cache_write",
            "Http.price_cached",
            "Http.price_completion",
        ),
        *("Http.price_cache_write", "Http.price_prompt", "Http.prompt_cache"),
        *("Http.batch", "Http.batch_gather_s", "Http.batch_poll_s", "Http.batch_price", "Http.batch_requests"),
        *("Http.requests_per_minute", "Http.timeout_s", "Http.tokens_per_minute"),
        *("Search.concurrency", "Search.key_env", "Search.key_header", "Search.max_backoff_s", "Search.max_retries"),
        *("Search.max_rate_limited_s", "Search.max_refusals", "Search.requests_per_minute", "Search.timeout_s"),
        "Transitions.em",
        *("Training.checkpoint_every", "Training.gradient_checkpointing", "Training.log_every"),
        *("Training.max_failures", "Training.memory", "Training.micro_batch_tokens", "Training.min_workers"),
        "Training.packing",
        *("Training.push_to", "Training.push_token_env", "Training.threads_per_worker", "Training.trackers"),
        "Training.workers",
    },
    "content": {
        *("Model.path", "Model.adapter", "Source.path", "Rollouts.import_on", "Rollouts.import_off"),
        *(
            "Annotator.rule_book",
            "Annotator.labeller",
            "Cascade.labeller",
            "Annotation.instruction",
            "Annotation.taxonomy",
            "Annotation.human",
            "Evaluation.predictions",
            "Retrieval.corpus",
        ),
    },
    "alias": {"Transitions.preset"},
    "repeated": {
        *("Discovery.embedding", "Discovery.min_cluster_share", "Discovery.min_frequency", "Discovery.min_samples"),
        *("Discovery.representatives", "Discovery.xi"),
        *("Run.rounds", "Run.round_gain", "Run.round_questions", "Run.round_reference"),
    },
}

QUESTION = {"name": "q", "path": "q.jsonl"}
MODE = {"template": {"thinking": True}}
HTTP = {"base_url": "http://127.0.0.1:1/v1"}
CUES = {"name": "cues", "rule_book": "book.yaml"}
OWN = {"name": "own", "engine": "distilled", "labeller": "labeller"}
SPLIT = {"gpus_per_replica": 2, "tensor_parallel": 2}
SERVED = {"name": "served", "engine": "vllm", "model": {"path": "other"}, "serving": SPLIT, "mode": MODE}
ASKED = {"name": "asked", "engine": "http", "http": HTTP, "mode": MODE}
METHODS = ["think_off", "think_on", "self_refine", "think_off_ret", "think_on_ret"]
JUDGED = [QUESTION, {"name": "t", "path": "t.csv", "format": "truthfulqa"}]
JUDGED += [{"name": "l", "path": "l", "format": "longfact"}]

# Together they use every setting: engines of ours, endpoints, imported rollouts, and responses made elsewhere.
BASES = {
    "engines": {
        "model": {"path": "model", "adapter": "adapter", "think_on": MODE, "think_off": MODE},
        "engine": {"max_replicas": 3, "gpus_per_replica": 2, "pipeline_parallel": 2},
        "questions": {"train": [QUESTION], "dev": [QUESTION], "test": JUDGED},
        "annotation": {
            "annotators": [SERVED, ASKED],
            "adjudicator": {"name": "plain", "engine": "vllm"},
            "instruction": "instruction.txt",
            "taxonomy": "taxonomy.yaml",
            "human": "human.csv",
            "cascade": {"labeller": "labeller", "budget": 5},
        },
        "discovery": {"labeller": SERVED},
        "evaluation": {
            "methods": METHODS,
            "trained_methods": METHODS,
            "retrieval": {"engine": "http", "corpus": "corpus.jsonl"},
            "judge": ASKED,
            "extractor": SERVED,
            "verifier": ASKED | {"name": "verifier"},
            "reannotate": 5,
        },
    },
    "endpoints": {
        "model": {"path": "model", "think_on": MODE, "think_off": MODE},
        "questions": {"train": [QUESTION], "test": JUDGED},
        "rollouts": {"engine": "http"},
        "annotation": {"annotators": [CUES, CUES | {"name": "second"}], "adjudicator": OWN},
        "discovery": {"labeller": ASKED},
        "evaluation": {
            "methods": METHODS,
            "retrieval": {"engine": "bm25", "corpus": "corpus.jsonl"},
            "judge": SERVED,
            "extractor": ASKED,
            "verifier": SERVED | {"name": "verifier"},
        },
    },
    "imports": {
        "questions": {"test": [QUESTION]},
        "rollouts": {"import_on": "on.jsonl", "import_off": "off.jsonl"},
        "training": {"gpu": True, "kernels": "liger", "dtype": "float32"},
        "discovery": {"labeller": ASKED},
    },
    "predictions": {"questions": {"test": [QUESTION]}, "evaluation": {"predictions": "p.jsonl"}},
}

ANY = (True, False, 0, 1, 2, 3, 7, 9, 0.3, 0.7, "x", "plain", "latin-1", "a {question}", "{question} {snippets}")
ANY += ("{question} {answer} {feedback} x", "2026-01-02", ["x"], ["x", "y"], {"x": "y"}, {"x": "{question}"})
GIVEN = {"training.method": "kto", "training.memory": "auto"}  # where a value must be one of those that the code knows


@pytest.fixture(autouse=True)
def paths_as_digests(monkeypatch):
    """No file is read: another path stands for another content."""
    monkeypatch.setattr(placing, "digest", lambda path: path)


def leaves(value, where=()):
    """(place, section class, field, value) of every field below a section; lists of sections are walked into."""
    for name in type(value).model_fields:
        found, place = getattr(value, name), (*where, name)
        if isinstance(found, Section):
            yield from leaves(found, place)
        elif isinstance(found, tuple) and found and all(isinstance(item, Section) for item in found):
            for number, item in enumerate(found):
                yield from leaves(item, (*place, number))
        else:
            yield place, type(value), name, found


def sections(kind=RunConfig, seen=None):
    """Every section class below a section class."""
    seen = set() if seen is None else seen
    if kind not in seen:
        seen.add(kind)
        for field in kind.model_fields.values():
            for below in classes_in(field.annotation):
                sections(below, seen)
    return seen


def classes_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for argument in get_args(annotation) for found in classes_in(argument)]


def words_in(annotation):
    """The words that a Literal or an enum allows."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return [str(word) for word in annotation]
    if isinstance(annotation, (str, int)) and not isinstance(annotation, bool):
        return [annotation]
    return [found for argument in get_args(annotation) for found in words_in(argument)]


def candidates(kind, name, value):
    """Values that the field may take, likely ones first."""
    words = words_in(kind.model_fields[name].annotation)
    near = []
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        near = [value + 1, value - 1, value * 2, value * 0.9 + 0.01]
    if isinstance(value, str):
        near = [f"{value}x"]
    return [*words, *([word] for word in words), *near, *ANY]


def changed_config(values, place, *, kind, name, value):
    """The configuration with another value in one place, or None if no candidate is allowed there."""
    given = GIVEN.get(".".join(map(str, place)))
    for candidate in [given] if given else candidates(kind, name, value):
        try:
            config = parse(replaced(values, place, candidate))
        except ValueError:
            continue
        if value_at(config, place) != value:
            return config
    return None


def replaced(values, place, value):
    head, *rest = place
    found = list(values) if isinstance(values, list) else dict(values)
    found[head] = replaced(found[head], rest, value) if rest else value
    return found


def value_at(config, place):
    for name in place:
        config = config[name] if isinstance(name, int) else getattr(config, name)
    return config


def marks(config):
    planned = {item.stage.name: item for item in pipeline.survey(config)}
    if config.trains:
        upstream = {"candidates": planned["candidates"].out}
        planned["open_labels"] = pipeline.place(config, OPEN_LABELS_STAGE, upstream=upstream)
    return {name: item.out.fingerprint for name, item in planned.items()}


def mark_at(place):
    """The mark of a field, or of a section that it lies in."""
    kind = RunConfig
    for name in place:
        if isinstance(name, str):
            if mark := mark_of(kind, name):
                return mark
            kind = next(iter(classes_in(kind.model_fields[name].annotation)), None)
    return ""


def test_every_field_changes_a_fingerprint_or_says_why_not():
    counts, never = set(), set()
    changed_fields = set()
    for values in BASES.values():
        config = parse(values)
        before, written = marks(config), config.model_dump(mode="json")
        for place, kind, name, value in leaves(config):
            other = changed_config(written, place, kind=kind, name=name, value=value)
            if other is None:
                continue
            changed_fields.add(f"{kind.__name__}.{name}")
            where = ".".join(part for part in place if isinstance(part, str))
            if marks(other) != before:
                counts.add(where)
                assert mark_at(place) in ("", "content"), f"{where} is marked {mark_at(place)}, and counts"
            elif mark_at(place) in ("", "content"):
                never.add(where)
    assert never - counts == set()  # a new field: does it change a result, or is it marked?
    every = {f"{kind.__name__}.{name}" for kind in sections() for name in kind.model_fields}
    holders = {
        f"{kind.__name__}.{name}"
        for kind in sections()
        for name in kind.model_fields
        if classes_in(kind.model_fields[name].annotation)
    }
    assert every - holders - changed_fields == set()  # give BASES or ANY what lets the field take another value


def test_the_marks_are_those_that_were_decided():
    found = {mark: set() for mark in MARKED}
    for kind in sections():
        for name in kind.model_fields:
            if mark := mark_of(kind, name):
                found[mark].add(f"{kind.__name__}.{name}")
    assert found == MARKED


@pytest.mark.parametrize("base", BASES)
def test_what_a_stage_ignores_is_a_setting(base):
    config = parse(BASES[base])
    for stage in (*pipeline.stages(config), OPEN_LABELS_STAGE):
        for name in stage.ignores:
            attrgetter(name)(config)


def test_what_is_marked_or_ignored_is_left_out_and_all_else_is_kept():
    config = parse({**BASES["engines"], "model": {"path": "m", "template_date": "2026-01-02"}})
    found = counted({"model": config.model, "run.seed": 3, "http": config.http}, ignores=("http.base_url",))
    assert found["run.seed"] == 3
    assert not {"path", "adapter"} & set(found["model"])
    assert found["model"]["template_date"] == str(datetime.date(2026, 1, 2))
    assert found["http"] == {"model": None, "vllm_extras": True, "request": {}}
    assert config.http.model_dump()["budget"] is None  # an ordinary dump has every field
    assert "batch_size" not in re.findall(r"\w+", str(counted({"annotation": config.annotation})))


def reruns(base, place, value):
    """Stages whose fingerprint changes with a setting."""
    before, after = (marks(parse(values)) for values in (BASES[base], replaced(filled(base, place), place, value)))
    return {name for name in after if after[name] != before[name]}


def filled(base, place):
    """The values of a base with all sections that lead to a place."""
    values = deepcopy(BASES[base])
    found = values
    for name in place[:-1]:
        found = found.setdefault(name, {})
    found[place[-1]] = None
    return values


@pytest.mark.parametrize(
    ("base", "place", "value"),
    [
        ("endpoints", ("evaluation", "retrieval", "search"), {"url": "http://127.0.0.1:2/search"}),  # of engine=http
        ("engines", ("evaluation", "retrieval", "fields"), {"text": "body"}),  # of engine=bm25
    ],
)
def test_settings_of_an_engine_that_is_not_used_ask_nothing_anew(base, place, value):
    assert reruns(base, place, value) <= {"evaluation_base", "evaluation"}  # which ask nothing


def test_a_search_counts_once_where_it_is_used():
    changed = reruns("engines", ("evaluation", "retrieval", "search"), {"url": "http://127.0.0.1:2/search"})
    assert {"evidence", "responses_base", "judgements_base", "responses", "judgements"} <= changed
    assert "training" not in changed


def test_cue_phrases_are_shown_no_answers():
    assert reruns("endpoints", ("annotation", "show_answers"), False) <= {"agreement", "open_labels"}
    assert "annotation" in reruns("engines", ("annotation", "show_answers"), False)


def test_an_edited_benchmark_scores_anew_and_asks_nothing(monkeypatch):
    config = parse(BASES["endpoints"])
    before = marks(config)
    own = evaluation.source_of
    monkeypatch.setattr(evaluation, "source_of", lambda name: own(name) + ("# edited" if name == "truthfulqa" else ""))
    after = marks(config)
    assert {name for name in after if after[name] != before[name]} == {"evaluation_base", "evaluation"}


@pytest.mark.parametrize(
    ("method", "unread"),
    [
        ("sft", {"beta", "lambda_chosen", "lambda_rejected", "pairs", "kl_every", "kl_pairs", "kl_ema"}),
        ("apo_zero", {"pairs", "kl_every", "kl_pairs", "kl_ema"}),
        ("kto", set()),
        ("mralign", set()),
    ],
)
def test_a_training_does_not_depend_on_what_its_objective_does_not_read(method, unread):
    values = {"beta": 0.3, "lambda_chosen": 1.7, "lambda_rejected": 2.5}
    values |= {"pairs": "trl", "kl_every": 3, "kl_pairs": 5, "kl_ema": 0.5}
    base = {**BASES["endpoints"], "training": {"method": method}}
    before = marks(parse(base))
    found = set()
    for name, value in values.items():
        after = marks(parse({**base, "training": {"method": method, name: value}}))
        if after["training"] == before["training"]:
            found.add(name)
    assert found == unread
