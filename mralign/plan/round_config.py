"""The configuration of each round: what a run with `run.rounds` above 1 is made of.

The user's configuration enters; that of a round leaves, which is an ordinary run: evaluated on dev, from the second on
in a directory of its own, with the policy of the round before as its model. Annotators and judges stay who they were,
also where the first model was one of them: otherwise a change of the labels could not be told from one of the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mralign.config import Annotator, RunConfig, Source
from mralign.evaluation.benchmarks import find, of_format
from mralign.report.rounds import first_directory, round_directory
from mralign.rows.subjects import Way
from mralign.run.stage import Faults
from mralign.run.store import absolute
from mralign.serving.requests import trained_in


def check_rounds(config: RunConfig, *, until: str | None = None, only: str | None = None) -> None:
    """Raise Faults for what keeps a run from having several rounds."""
    found = list(_faults(config))
    if until is not None or only is not None:
        found.append("run.rounds goes through whole rounds; leave --until and --only out, or give run.rounds=1")
    if found:
        raise Faults(found)


def _faults(config: RunConfig) -> Iterator[str]:
    above = f"run.rounds={config.run.rounds}"
    if first_directory(config.run.dir) != absolute(config.run.dir):
        yield (
            f"{above}: run.dir={config.run.dir} has the name of a later round, which lies below the directory of the "
            f"first; give the directory of the first round, or another name"
        )
    yield from _dev_faults(config, above=above)
    if config.rollouts.import_on:
        yield f"{above} samples each round's policy, but rollouts.import_on has answers made elsewhere; leave one out"
    elif config.rollouts.engine != "vllm":
        yield (
            f"{above} samples each round's policy, and an endpoint (rollouts.engine={config.rollouts.engine}) serves "
            f"another model; give rollouts.engine=vllm, or run.rounds=1"
        )
    if config.training.push_to:
        yield (
            f"{above} trains several policies, of which training.push_to={config.training.push_to} would get the last "
            f"one, good or not; leave it out and push the model of the round that is kept"
        )
    for name in ("methods", "trained_methods"):
        if Way.THINK_ON not in getattr(config.evaluation, name):
            yield f"{above} measures the gain of thinking answers; put think_on into evaluation.{name}"


def _dev_faults(config: RunConfig, *, above: str) -> Iterator[str]:
    """What is wrong with the questions by which the rounds are judged."""
    dev, test = config.questions.dev, config.questions.test
    if not dev:
        yield (
            f"{above} needs questions to choose by, and there is no questions.dev; give one (a list of {{name, path}}) "
            f"that is neither trained on nor the test set, or run.rounds=1"
        )
        return
    if not any("acc" in find(of_format(source.format)).columns for source in dev):
        yield f"{above} measures the gain in Acc, and no source of questions.dev has gold answers; give one that has"
    tested = list(map(_records, test))
    shared = [source.name for source in dev if _records(source) in tested]
    if shared:
        yield (
            f"{above} chooses by questions.dev, and its {', '.join(shared)} is read from the same records as a source "
            f"of questions.test; give other records (see skip and limit), or leave questions.test empty"
        )


def _records(source: Source) -> tuple[Any, ...]:
    """Which records of which file a source reads."""
    return source.path, source.records, source.skip, source.limit, source.sample


def first_round(config: RunConfig) -> RunConfig:
    """The first round: the run itself, asked on dev."""
    return _changed(config, evaluation={"split": "dev"})


def later_round(config: RunConfig, *, number: int, model: str) -> RunConfig:
    """A round whose model is the policy of the round before, which lies in the directory `model`."""
    policy = trained_in(model, model=config.model)
    moving = config.run.round_reference == "moving"
    reference = None if moving else config.training.reference or config.model
    changed = _changed(
        _with_annotators(config),
        run={"dir": round_directory(config.run.dir, number), "rounds": 1, "round_questions": {}},
        training={"reference": reference},
        evaluation={"split": "dev", "label": f"round-{number - 1}"},
        annotation={"human": None},  # these are labels of the first round's thoughts
        questions={"train": config.run.round_questions.get(number, config.questions.train)},
    )
    return changed.model_copy(update={"model": policy})


def at_the_end(config: RunConfig, round_config: RunConfig) -> RunConfig:
    """The configuration of a round for the final figures: asked on the split that the user has named."""
    return _changed(round_config, evaluation={"split": config.evaluation.split})


def asks_at_the_end(config: RunConfig) -> bool:
    """Whether there are other questions for the final figures than those that the rounds are judged by."""
    return config.evaluation.split != "dev" and bool(config.questions.test)


def _with_annotators(config: RunConfig) -> RunConfig:
    """The configuration with the model of every annotator and judge named."""
    annotation, evaluation = config.annotation, config.evaluation
    named = {"annotators": tuple(config.filled(one) for one in annotation.annotators)}
    judges = {name: _filled(config, getattr(evaluation, name)) for name in ("judge", "extractor", "verifier")}
    adjudicator = _filled(config, annotation.adjudicator)
    return _changed(config, annotation={**named, "adjudicator": adjudicator}, evaluation=judges)


def _filled(config: RunConfig, annotator: Annotator | None) -> Annotator | None:
    return None if annotator is None else config.filled(annotator)


def _changed(config: RunConfig, **sections: dict[str, Any]) -> RunConfig:
    """The configuration with fields of sections replaced."""
    changed = {name: getattr(config, name).model_copy(update=fields) for name, fields in sections.items()}
    return config.model_copy(update=changed)


def rounds_ahead(config: RunConfig) -> Sequence[RunConfig]:
    """The later rounds as far as they can be known before the first has run: each with the first model in the place
    of its policy, which is as large and takes as long."""
    adapter = config.model.adapter
    configs = [later_round(config, number=n, model=config.model.path) for n in range(2, config.run.rounds + 1)]
    return [one.model_copy(update={"model": one.model.model_copy(update={"adapter": adapter})}) for one in configs]
