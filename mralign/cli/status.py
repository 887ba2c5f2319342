"""`mralign status`: a run as its directory shows it, without a cluster; it may go on elsewhere.

A run directory enters, its state leaves as text or JSON. Nothing is written there.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from mralign.cli.arguments import AsJson, RunDir
from mralign.plan.run_state import FINISHED, TO_COME, RunState, StageState, read_run
from mralign.report.rounds import OWN_CONFIG, rounds_text
from mralign.report.wording import aligned, duration, number
from mralign.run.interruption import check as check_interruption
from mralign.run.lease import STALE_S, Holder, seconds_since
from mralign.run.printable import printable

EVERY_S = 2.0  # between two looks of --watch
_CLEAR = "\x1b[H\x1b[2J"


def status(
    run_dir: RunDir,
    *,
    preset: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The run of this configuration, where several share the directory."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Look again until every stage is finished.")] = False,
    as_json: AsJson = False,
) -> None:
    """How far a run is: its stages, rows, rejects, who works at it, where its report lies.

    Only the run directory is read, a path or a URI: the run may go on elsewhere, or may have been killed.
    """
    shown = ""
    for state in _looks(run_dir, preset=preset, watch=watch):
        text = json.dumps(as_json_object(state), indent=None if watch else 1) if as_json else told(state)
        if text != shown:
            _show(text, clear=watch and not as_json)
        shown = text


def _looks(run_dir: str, *, preset: str | None, watch: bool) -> Iterator[RunState]:
    while True:
        state = read_run(run_dir, preset=preset)
        yield state
        if not watch or state.finished:
            return
        time.sleep(EVERY_S)
        check_interruption()


def _show(text: str, *, clear: bool) -> None:
    print(f"{_CLEAR if clear and sys.stdout.isatty() else ''}{text}", flush=True)


def as_json_object(state: RunState) -> dict[str, Any]:
    """The state as JSON: what the text says, in full."""
    rounds = {} if state.rounds is None else {"rounds": asdict(state.rounds)}
    later = {"later_rounds": list(map(as_json_object, state.later))} if state.later else {}
    return {
        "run_dir": state.uri,
        "finished": state.finished,
        "stages": [_stage_object(stage) for stage in state.stages],
        "drivers": list(map(_driver_object, state.holders)),
        "last_activity": state.last_activity.isoformat() if state.last_activity else None,
        "report": state.report,
        "faults": list(state.faults),
        **rounds,
        **later,
    }


def _stage_object(stage: StageState) -> dict[str, Any]:
    return {
        "name": stage.name,
        "state": stage.state,
        "done": stage.done,
        "of": stage.of,
        "unit": stage.unit,
        "rejects": dict(stage.rejects),
        "seconds": stage.seconds,
        "fault": stage.fault or None,
        "directory": stage.out.uri if stage.out is not None else None,
    }


def _driver_object(holder: Holder) -> dict[str, Any]:
    return {name: getattr(holder, name) for name in ("job", "host", "pid", "taken", "renewed")}


def told(state: RunState) -> str:
    """The state as text for a terminal."""
    blocks = [f"run directory: {state.uri}", _stages(state)]
    for place, later in enumerate(state.later, 2):
        blocks += [f"round {place}: {later.uri}", _stages(later)]
    if state.rounds is not None:
        blocks.append(rounds_text(state.rounds))
    holders = [holder for one in (state, *state.later) for holder in one.holders]
    facts = [("driver", _driver(holder)) for holder in holders] or [("driver", "none")]
    if state.last_activity is not None:
        facts.append(("last activity", f"{duration(_age_s(state.last_activity))} ago"))
    facts.append(("report", state.report or "none yet"))
    facts += [("next", text) for text in _next(state)]
    blocks.append(aligned(facts))
    faults = [*state.faults, *(f"{stage.name}: {stage.fault}" for stage in state.stages if stage.fault)]
    if faults:
        blocks.append("\n".join(faults))
    return printable("\n\n".join(blocks))


def _stages(state: RunState) -> str:
    return aligned([_stage_row(stage, number=place) for place, stage in enumerate(state.stages, 1)])


def _stage_row(stage: StageState, *, number: int) -> tuple[str, ...]:
    rejects = ", ".join(f"{reason} {count}" for reason, count in stage.rejects.items())
    return (
        f"{number:>3}",
        stage.name,
        stage.state,
        "" if stage.state == TO_COME else _amount(stage),
        "" if stage.seconds is None else duration(stage.seconds),
        f"rejects: {rejects}" if rejects else "",
    )


def _amount(stage: StageState) -> str:
    of = f" of {number(stage.of)}" if stage.of is not None and stage.state != FINISHED else ""
    return f"{number(stage.done)}{of} {stage.unit}"


def _driver(holder: Holder) -> str:
    """Who works at the run, for how long, and when it was heard of last."""
    silent = seconds_since(holder.renewed)
    gone = "; it may have been killed" if silent > STALE_S else ""
    since = duration(seconds_since(holder.taken))
    return f"{holder.job} on {holder.host}, pid {holder.pid}, since {since}, heard of {duration(silent)} ago{gone}"


def _age_s(moment: datetime) -> float:
    return max(0.0, (datetime.now(UTC) - moment).total_seconds())


def _next(state: RunState) -> list[str]:
    """What to do with a run that nobody works at."""
    busy = any(one.holders for one in (state, *state.later))
    if busy or state.config is None or state.finished:
        return []
    command = "align --preset" if state.config.trains else "evaluate --suite"
    name = "config.yaml" if state.rounds is None else OWN_CONFIG
    return [f"mralign {command} {shlex.quote(f'{state.uri}/{name}')}   (goes on with the stages that are left)"]
