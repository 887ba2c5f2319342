"""Stages `responses_base` and `responses`: held-out questions are put to a model by every method that is asked for.

Questions of the evaluation split enter (and what was found for them, for the methods with snippets); responses of the
untrained or of the trained model leave, on a shelf by content (`responses.py`), with one index row a response in the
stage's own directory. The base is a stage of its own: another training method or weight setting does not ask it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mralign.chat.self_refine import is_turn
from mralign.config import Model, RunConfig, resolve_path
from mralign.evaluation.responses import (
    Asked,
    asked_questions,
    content_parts,
    describe,
    method_names,
    modes_of,
    own_parts,
    response_id,
    shelf_name,
    shelf_of,
    trained_name,
    write_parts,
)
from mralign.evaluation.snippets import ask_with_snippets, unsearched
from mralign.rows.schema import EVIDENCE, GENERATIONS, QUESTIONS, RESPONSE_INDEX
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import digest, part_key, part_name
from mralign.serving.requests import check_model, sampling_of_evaluation
from mralign.serving.streaming import generate, stream_faults, stream_workers

_SUFFIX = {"plain": "", "ret": "_ret"}
_JUDGING = (
    *("evaluation.match", "evaluation.judge", "evaluation.extractor", "evaluation.verifier", "evaluation.longfact"),
    *("evaluation.reannotate", "evaluation.bootstrap_samples", "evaluation.level"),
)


def _ask(
    context: Context, *, model: Model, names: Mapping[str, str], files: Mapping[str, str], probe: str = ""
) -> Outcome:
    """Put the questions to `model` by the methods in `names` (-> name in tables). `files` stand for its weights."""
    rows_in = rows_out = 0
    figures: dict[str, Any] = {}
    everything = []
    for group in _SUFFIX:
        methods = [name for name in names if name.endswith("_ret") == (group == "ret")]
        if not methods:
            continue
        sampling = sampling_of_evaluation(context.config, model=model, methods=methods, probe=probe)
        asked = Asked(
            group=group,
            shelf=shelf_name(sampling, files=files, group=group),
            questions=(),
            methods={mode: names[method] for mode, method in modes_of(methods).items()},
            draws=sampling.draws,
            seed=sampling.seed,
        )
        questions, tables = asked_questions(context.out, asked), _questions(context, group=group)
        asked = replace(asked, questions=content_parts(tables, out=questions, prompts=sampling.prompts))
        figures[group] = generate(questions, asked.questions, sampling=sampling, out=shelf_of(context.out, asked))
        everything.append(asked)
        if group == "ret":
            _commit_unsearched(context)
        rows_in += sum(map(questions.rows, asked.questions)) * requests_each(asked)
        rows_out += _index(context, asked=asked)
    write_parts(context.out, everything)
    return Outcome(rows_in, rows_out, {**figures.pop("plain", {}), **figures, "asked": describe(everything)})


def _questions(context: Context, *, group: str) -> Iterator[pa.Table]:
    source = context.upstream["questions"]
    for part in source.parts(context.config.evaluation.split):
        table = source.read_parts([part], schema=QUESTIONS)
        if group == "ret":
            evidence = context.upstream["evidence"].read_parts([part], schema=EVIDENCE)
            settings = context.config.evaluation.retrieval
            longest = settings.max_characters
            table = ask_with_snippets(table, evidence=evidence, prompt=settings.prompt, longest=longest)
        yield table


def _commit_unsearched(context: Context) -> None:
    """Commit a reject for every question that has no snippets because its search failed."""
    source, evidence = context.upstream["questions"], context.upstream["evidence"]
    for part in source.parts(context.config.evaluation.split):
        found = evidence.read_parts([part], schema=EVIDENCE)
        rejects = unsearched(source.read_parts([part], schema=QUESTIONS), evidence=found)
        name = part_name(f"unsearched-{part_key(part)}")
        context.out.commit(name, RESPONSE_INDEX.empty_table(), schema=RESPONSE_INDEX, rejects=to_table(rejects))


def _index(context: Context, *, asked: Asked) -> int:
    """Commit where each response of a group lies, and the rejects; returns how many responses there are."""
    shelf, rows = shelf_of(context.out, asked), 0
    for name in asked.questions:
        parts = own_parts(shelf.parts(), question_part=name)
        tables = [shelf.read_parts([part], schema=GENERATIONS, columns=["row_id"]) for part in parts]
        found = [
            {"row_id": response_id(row_id, group=asked.group), "part": f"{asked.shelf}/{part}"}
            for part, table in zip(parts, tables, strict=True)
            for row_id in table.column("row_id").to_pylist()
        ]
        table = pa.Table.from_pylist(found, schema=RESPONSE_INDEX)
        rejects = [Reject(**row) for row in shelf.read_rejects(parts).to_pylist()]
        rejects = [replace(reject, row_id=response_id(reject.row_id, group=asked.group)) for reject in rejects]
        answered = sum(not is_turn(row_id) for row_id in [r["row_id"] for r in found] + [r.row_id for r in rejects])
        expected = asked_questions(context.out, asked).rows(name) * requests_each(asked)
        if answered != expected:
            raise ValueError(
                f"{answered} of {expected} requests of {name} have an answer or a reason in {shelf.uri}; run the same "
                f"command again, it asks what is missing"
            )
        key = f"{asked.group}-{part_key(name)}"
        context.out.commit(part_name(key), table, schema=RESPONSE_INDEX, rejects=to_table(rejects))
        rows += table.num_rows
    return rows


def requests_each(asked: Asked) -> int:
    """Requests of a question, later turns left out."""
    return len({"off" if mode == "off" else "on" for mode in asked.methods}) * asked.draws


def _base(context: Context) -> Outcome:
    config = context.config
    files = {name: digest(resolve_path(path)) for name, path in config.model.inputs().items()}
    names = method_names(config.evaluation.methods, base=config.evaluation.label)
    return _ask(context, model=config.model, names=names, files=files)


def _trained(context: Context) -> Outcome:
    config, training = context.config, context.upstream["training"]
    merged = config.model.model_copy(update={"path": f"{training.uri}/model", "adapter": None})
    names = method_names(config.evaluation.trained_methods, trained=trained_name(config))
    return _ask(context, model=merged, names=names, files={"training": training.fingerprint}, probe=training.uri)


_READS = ("evaluation", "model", "engine", "run.seed")


def _ignores(methods: Sequence[str]) -> list[str]:
    """Settings of the evaluation that change no response to these methods: how responses are judged and scored."""
    found = [*_JUDGING] if asks_with_snippets(methods) else [*_JUDGING, "evaluation.retrieval"]
    return found if "self_refine" in methods else [*found, "evaluation.self_refine"]


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
    settings, name = config.evaluation, trained_name(config)
    both = set(method_names(settings.methods, base=settings.label).values())
    if both & set(method_names(settings.trained_methods, trained=name).values()):
        raise ValueError(
            f"evaluation.label={settings.label!r} is what the trained model is called; give another: their methods "
            f"would share a name in tables"
        )


def asks_with_snippets(methods: Sequence[str]) -> bool:
    """Whether one of the methods has retrieved snippets in its prompt."""
    return any(name.endswith("_ret") for name in methods)


def base_stage(config: RunConfig) -> Stage:
    """The untrained model's responses."""
    methods = config.evaluation.methods
    return Stage(
        name="responses_base",
        run=_base,
        reads=_READS,
        ignores=("evaluation.trained_methods", *_ignores(methods)),
        upstream=("questions", *(["evidence"] if asks_with_snippets(methods) else [])),
        inputs=lambda config: config.model.inputs(),
        check=_check,
        workers=stream_workers,
        faults=stream_faults,
        version=2,
    )


def trained_stage(config: RunConfig) -> Stage:
    """The trained model's responses."""
    methods = config.evaluation.trained_methods
    return Stage(
        name="responses",
        run=_trained,
        reads=_READS,
        ignores=("evaluation.methods", "evaluation.label", *_ignores(methods)),
        upstream=("questions", "training", *(["evidence"] if asks_with_snippets(methods) else [])),
        check=_check_trained,
        workers=stream_workers,
        faults=stream_faults,
        version=2,
    )
