"""What is known to be wrong with a planned run before anything is paid for or a GPU is taken.

A configuration and its planned stages enter; sentences leave, each of which says what was given, what is allowed and
what to do. A dry run may be made on another machine than the run: what only this machine lacks is told, and refused
when the run starts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from mralign.config import RunConfig
from mralign.plan import model_hub, places
from mralign.plan.placing import Planned
from mralign.run import reach
from mralign.run.placement import NotInstalled
from mralign.run.stage import Faults, Stage, all_checks


class NotReady(Faults):
    """What keeps a planned run from starting; `planned` can be told all the same."""

    def __init__(self, faults: Sequence[str], *, planned: list[Planned]) -> None:
        super().__init__(faults)
        self.planned = planned


def check_plan(
    config: RunConfig, planned: Sequence[Planned], *, silent: str | None, dry_run: bool
) -> dict[str, list[str]]:
    """Make every check of what has work. Raises Faults with all that is wrong; returns warnings by stage.

    `silent`: why the run directory does not answer, if it does not.
    """
    unfinished = [item for item in planned if item.manifest is None]
    warnings: dict[str, list[str]] = {item.stage.name: [] for item in unfinished}
    places_too = partial(_check_places, config, silent, work=bool(unfinished), dry_run=dry_run)
    checks: list[Callable[[], object]] = [places_too]
    if dry_run:
        checks += [partial(_check_elsewhere, config, item.stage, warnings=warnings) for item in unfinished]
    else:
        checks += [partial(item.stage.check, config) for item in unfinished]
        checks.append(partial(_check_here, config, planned))
    all_checks(checks)
    return warnings


def _check_places(config: RunConfig, silent: str | None, *, work: bool, dry_run: bool) -> None:
    """Raise Faults for a run directory and a cluster that do not answer; nothing is asked of them where nothing is to
    be done. A dry run writes nothing, and so does not find out whether a far directory can be written."""
    found = [silent]
    if work and silent is None and not (dry_run and reach.is_far(config.run.dir)):
        found.append(places.run_directory_fault(config, write=True))
    if work:
        found.append(places.cluster_fault())
    faults = list(filter(None, found))
    if faults:
        raise Faults(faults)


def _check_elsewhere(config: RunConfig, stage: Stage, *, warnings: Mapping[str, list[str]]) -> None:
    """Check a stage that may run on another machine; what this machine lacks for it is put into `warnings`."""
    found = warnings[stage.name]
    try:
        stage.check(config)
    except NotInstalled as missing:
        found.append(str(missing))
    if any(one.gpus for one in stage.workers(config)):
        found += [fault.text for fault in stage.faults(config)]


def lacking(config: RunConfig, planned: Sequence[Planned]) -> list[str]:
    """What this machine lacks for the stages that have work: keys, room, models, packages of workers; each once."""
    found: list[str] = []
    for item in planned:
        if item.manifest is None:
            found += _lacks_of(config, item.stage)
    return list(dict.fromkeys(found))


def _lacks_of(config: RunConfig, stage: Stage) -> list[str]:
    """What this machine lacks for a stage; what its settings get wrong is said by its check."""
    found: list[str] = []
    try:
        found += stage.lacks(config)
        if not os.environ.get("RAY_ADDRESS"):
            found += model_hub.lacks(path for name, path in stage.inputs(config).items() if name.endswith("model"))
        if _works_here(config, stage):
            found += [f"{stage.name}: {fault.text}" for fault in stage.faults(config) if fault.fatal]
    except ValueError:
        pass
    return found


def _works_here(config: RunConfig, stage: Stage) -> bool:
    """Whether workers of the stage are set up as this process is: no cluster is joined, and they have no GPU, which
    only the worker itself can look for."""
    return not os.environ.get("RAY_ADDRESS") and not any(one.gpus for one in stage.workers(config))


def _check_here(config: RunConfig, planned: Sequence[Planned]) -> None:
    """Raise Faults for what this machine lacks."""
    found = lacking(config, planned)
    if found:
        raise Faults(found)


def check_nothing_lacks(config: RunConfig, planned: Sequence[Planned]) -> None:
    """Raise one ValueError for all that this machine lacks, before the first stage has cost anything."""
    found = lacking(config, planned)
    if found:
        raise ValueError("this machine lacks what later stages need:\n" + "\n".join(f"  {line}" for line in found))
