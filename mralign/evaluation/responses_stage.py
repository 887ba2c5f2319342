"""Stages `responses_base` and `responses`: held-out questions are put to a model by every method that is asked for.

Questions of the evaluation split enter (and what was found for them, for the methods with snippets); responses of the
untrained or of the trained model leave, on a shelf by content (`responses.py`), with one index row a response in the
stage's own directory. The base is a stage of its own: another training method or weight setting does not ask it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.chat.self_refine import is_turn
from mralign.config import Model, RunConfig, resolve_path
from mralign.evaluation.benchmarks import find, of_config
from mralign.evaluation.responses import (
    Asked,
    asked_questions,
    content_parts,
    describe,
    methods_of,
    response_id,
    shelf_name,
    shelf_of,
    write_parts,
)
from mralign.evaluation.snippets import ask_with_snippets, unsearched
from mralign.rows.schema import EVIDENCE, GENERATIONS, QUESTIONS, RESPONSE_INDEX
from mralign.rows.subjects import Subject, Way
from mralign.run.digests import digest
from mralign.run.part_names import part_key, part_name, parts_by_upstream
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir, ahead
from mralign.serving.probe import probe_beside
from mralign.serving.requests import check_model, sampling_of_evaluation, trained_in
from mralign.serving.streaming import generate, stream_faults, stream_workers

_GROUPS = ("plain", "ret")  # questions as they are, and with snippets that were found for them
_JUDGING = ("match", "judge", "extractor", "verifier", "longfact", "reannotate", "bootstrap_samples", "level")
_SEARCHING = ("retrieval.engine", "retrieval.fields", "retrieval.search", "retrieval.top_k")
_READS = ("evaluation", "model", "engine", "run.seed")


def _ask(
    context: Context, *, model: Model, methods: Mapping[Way, str], files: Mapping[str, str], probe: str = ""
) -> Outcome:
    """Put the questions to `model` in the ways of `methods` (-> name in tables). `files` stand for its weights."""
    rows_in = rows_out = 0
    figures: dict[str, Any] = {}
    everything = []
    for group in _GROUPS:
        ways = [way for way in methods if way.retrieved == (group == "ret")]
        if not ways:
            continue
        plain = [way.plain for way in ways]
        sampling = sampling_of_evaluation(context.config, model=model, methods=plain, probe=probe)
        sampling = replace(sampling, prompts=_prompts(context.config))
        asked = Asked(
            group=group,
            shelf=shelf_name(sampling, files=files, group=group),
            questions=(),
            methods={way.mode: methods[way] for way in ways},
            draws=sampling.draws,
            seed=sampling.seed,
        )
        questions, tables = asked_questions(context.out, asked), _questions(context, group=group)
        questions.quiet()
        shelf = shelf_of(context.out, asked)
        asked = replace(asked, questions=content_parts(tables, out=questions, prompts=sampling.prompts))
        figures[group] = generate(questions, asked.questions, sampling=sampling, out=shelf)
        everything.append(asked)
        if group == "ret":
            _commit_unsearched(context)
        counts = questions.counts(asked.questions)
        rows_in += sum(counts.values()) * requests_each(asked)
        rows_out += index_responses(context, asked=asked, shelf=shelf, counts=counts)
    write_parts(context.out, everything)
    return Outcome(rows_in, rows_out, {**figures.pop("plain", {}), **figures, "asked": describe(everything)})


def _questions(context: Context, *, group: str) -> Iterator[pa.Table]:
    source = context.upstream["questions"]
    parts = source.parts(context.config.evaluation.split)
    searched = {}
    if group == "ret":
        searched = parts_by_upstream(context.upstream["evidence"].parts(), parts)
    for part in parts:
        table = source.read_parts([part], schema=QUESTIONS)
        if group == "ret":
            evidence = context.upstream["evidence"].read_parts(searched[part], schema=EVIDENCE)
            settings = context.config.evaluation.retrieval
            longest = settings.max_characters
            table = ask_with_snippets(table, evidence=evidence, prompt=settings.prompt, longest=longest)
        yield table


def _commit_unsearched(context: Context) -> None:
    """Commit a reject for every question that has no snippets because its search failed."""
    source, evidence = context.upstream["questions"], context.upstream["evidence"]
    parts = source.parts(context.config.evaluation.split)
    for part, searched in parts_by_upstream(evidence.parts(), parts).items():
        found = evidence.read_parts(searched, schema=EVIDENCE)
        rejects = unsearched(source.read_parts([part], schema=QUESTIONS), evidence=found)
        name = part_name(f"unsearched-{part_key(part)}")
        context.out.commit(name, RESPONSE_INDEX.empty_table(), schema=RESPONSE_INDEX, rejects=to_table(rejects))


def index_responses(context: Context, *, asked: Asked, shelf: StageDir, counts: Mapping[str, int]) -> int:
    """Commit where each response of a group lies, and the rejects; returns how many responses there are. `counts`:
    questions by part."""
    answering = parts_by_upstream(shelf.parts(), asked.questions)

    def index(name: str) -> int:
        return _index_part(name, answering[name], questions=counts[name], asked=asked, shelf=shelf, out=context.out)

    return sum(ahead(index, answering))


def _index_part(
    name: str, parts: Sequence[str], *, questions: int, asked: Asked, shelf: StageDir, out: StageDir
) -> int:
    """The index of the responses to one part of so many questions; how many responses there are."""
    found = []
    for part in parts:
        place = f"{asked.shelf}/{part}"
        answered = shelf.read_parts([part], schema=GENERATIONS, columns=["row_id"]).column("row_id").to_pylist()
        row_ids = (response_id(row_id, group=asked.group) for row_id in answered)
        found += [{"row_id": row_id, "part": place} for row_id in row_ids]
    table = pa.Table.from_pylist(found, schema=RESPONSE_INDEX)
    rejects = [Reject(**row) for row in shelf.read_rejects(parts).to_pylist()]
    rejects = [replace(reject, row_id=response_id(reject.row_id, group=asked.group)) for reject in rejects]
    ended = [row["row_id"] for row in found] + [reject.row_id for reject in rejects]
    requests = sum(not is_turn(row_id) for row_id in ended)
    expected = questions * requests_each(asked)
    if requests != expected:
        raise ValueError(
            f"{requests} of {expected} requests of {name} have an answer or a reason in {shelf.uri}; run the same "
            f"command again, it asks what is missing"
        )
    key = f"{asked.group}-{part_key(name)}"
    out.commit(part_name(key), table, schema=RESPONSE_INDEX, rejects=to_table(rejects))
    return table.num_rows


def requests_each(asked: Asked) -> int:
    """Requests of a question, later turns left out."""
    return len({"off" if mode == "off" else "on" for mode in asked.methods}) * asked.draws


def _run(context: Context, *, subject: Subject) -> Outcome:
    config, methods = context.config, methods_of(context.config, subject)
    if subject is Subject.BASE:
        files = {name: digest(resolve_path(path)) for name, path in config.model.inputs().items()}
        return _ask(context, model=config.model, methods=methods, files=files, probe=probe_beside(config.model))
    training = context.upstream["training"]
    merged = trained_in(f"{training.uri}/model", model=config.model)
    return _ask(context, model=merged, methods=methods, files={"training": training.fingerprint}, probe=training.uri)


def _prompts(config: RunConfig) -> dict[str, str]:
    """Data set -> its own message: that of the configuration, else the one by which its benchmark asks."""
    found = {}
    for dataset, name in of_config(config).items():
        prompt = config.evaluation.prompts.get(dataset, find(name).prompt)
        if prompt is not None:
            found[dataset] = prompt
    return found


def _code(config: RunConfig) -> dict[str, Any]:
    """How benchmarks ask by themselves."""
    prompts = {name: find(name).prompt for name in of_config(config).values()}
    return {f"prompt of {name}": prompt for name, prompt in prompts.items() if prompt is not None}


def _ignores(config: RunConfig, *, subject: Subject) -> list[str]:
    """Settings of the evaluation that change no response of this model: of the other one, of judges and of scores."""
    ways = methods_of(config, subject)
    found = [*_JUDGING]
    found += ["trained_methods"] if subject is Subject.BASE else ["methods", "label"]
    # What is found counts by the stage `evidence`; here counts what a prompt makes of it.
    found += _SEARCHING if asks_with_snippets(ways) else ["retrieval"]
    if Way.SELF_REFINE not in ways:
        found.append("self_refine")
    return [f"evaluation.{name}" for name in found]


def _check(config: RunConfig) -> None:
    split = config.evaluation.split
    names = [source.name for source in getattr(config.questions, split)]
    if not names:
        raise ValueError(f"evaluation.split={split!r} has no questions; give questions.{split}, or another split")
    if unknown := sorted(set(config.evaluation.prompts) - set(names)):
        raise ValueError(f"evaluation.prompts names {unknown}; allowed are the sources of questions.{split}: {names}")
    check_model(config.model)


def _check_trained(config: RunConfig) -> None:
    _check(config)
    base, trained = (set(methods_of(config, subject).values()) for subject in Subject)
    if base & trained:
        raise ValueError(
            f"evaluation.label={config.evaluation.label!r} is what the trained model is called; give another: their "
            f"methods would share a name in tables"
        )


def asks_with_snippets(ways: Iterable[Way]) -> bool:
    """Whether one of the ways has retrieved snippets in its prompt."""
    return any(way.retrieved for way in ways)


def responses_stage(config: RunConfig, *, subject: Subject) -> Stage:
    """The responses of one model."""
    upstream = ["questions"]
    if subject is Subject.TRAINED:
        upstream.append("training")
    if asks_with_snippets(methods_of(config, subject)):
        upstream.append("evidence")
    is_base = subject is Subject.BASE
    return Stage(
        name=subject.stage("responses"),
        words="asking the untrained model" if subject is Subject.BASE else "asking the trained model",
        run=partial(_run, subject=subject),
        reads=_READS,
        ignores=_ignores(config, subject=subject),
        code=_code,
        upstream=tuple(upstream),
        portions=lambda config: {"questions": config.evaluation.split},
        inputs=lambda config: config.model.inputs() if is_base else {},
        check=_check if is_base else _check_trained,
        workers=stream_workers,
        faults=stream_faults,
        version=3,
    )
