"""`mralign signal`: whether the transitions of a run tell positive from negative trajectories (docs/signal.md)."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mralign.cli.arguments import AsJson, RunDir
from mralign.plan.run_state import RunState, StageState, read_run
from mralign.run.store import StageDir


def signal(
    run_dir: RunDir,
    *,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of folds and random draws. Default: run.seed of the run.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Whether aligning can help: do the transitions of strategies tell good from bad thoughts that they were not
    estimated from?

    Needs a finished annotation (`mralign align --until annotation`), also of imported rollouts, and takes seconds. The
    run directory is only read.
    """
    from mralign.transitions.signal_sentence import table_of  # takes its time

    record = find_record(read_run(run_dir), seed=seed)
    print(json.dumps(record, indent=1) if as_json else table_of(record))


def find_record(state: RunState, *, seed: int | None) -> dict[str, Any]:
    """What the stage `signal` of the run has left; computed now where there is none, or for another seed.

    Raises ValueError where the run has no readable configuration, or no finished annotation.
    """
    from mralign.transitions.signal_sentence import record_of
    from mralign.transitions.signal_stage import RECORD, examine_run

    if state.config is None:
        raise ValueError("; ".join([*state.faults, f"{state.uri} has no config.yaml that could be read"]))
    finished = {stage.name: stage for stage in state.stages if stage.manifest is not None}
    chosen = state.config.run.seed if seed is None else seed
    if "signal" in finished and chosen == state.config.run.seed:
        record: dict[str, Any] = json.loads(_out(finished["signal"]).read_text(RECORD))
        return record
    if "annotation" not in finished:
        raise ValueError(
            f"{state.uri} has no finished annotation, which the signal check needs: mralign align --until annotation "
            f"with the settings of this run makes it"
        )
    rollouts = _out(finished["rollouts"]) if "rollouts" in finished else None
    found = examine_run(state.config, annotation=_out(finished["annotation"]), rollouts=rollouts, seed=chosen)
    return record_of(found.signal)


def _out(stage: StageState) -> StageDir:
    assert stage.out is not None  # of a finished stage
    return stage.out
