"""`mralign report` and `mralign view`: the page of a run, written anew or served to a browser of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Annotated

import typer

from mralign.cli.arguments import RunDir
from mralign.plan.run_state import FINISHED, RunState, read_run
from mralign.report import publish
from mralign.run import interruption, lease
from mralign.run.store import Manifest, StageDir


@dataclass(frozen=True)
class _Name:
    """The name of a stage, as the report wants it."""

    name: str


@dataclass(frozen=True)
class _Shown:
    """A stage of a run as the report wants it; one to come has a directory that is not there."""

    stage: _Name
    out: StageDir
    manifest: Manifest | None


def report(
    run_dir: RunDir,
    *,
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write it there; the run directory is then only read. Default: in RUN_DIR."),
    ] = None,
) -> None:
    """Write the report, metrics and tables of a run anew, from what its stages have left."""
    state = read_run(run_dir)
    if state.config is None:
        raise ValueError("; ".join([*state.faults, f"{state.uri} has no config.yaml that could be reported on"]))
    if all(stage.state != FINISHED for stage in state.stages):
        raise ValueError(f"{state.uri} has no finished stage yet; mralign status tells how far it is")
    with nullcontext() if out is not None else _writing(state.uri):
        print(publish(state.config, _shown(state), out=out))


def view(
    run_dirs: Annotated[
        list[str], typer.Argument(metavar="RUN_DIR", help="The directory of a run; several are put side by side.")
    ],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
) -> None:
    """Look at runs in a browser: trajectories to search, maps, figures. Served to this machine alone, until Ctrl-C.

    The run directories are only read.
    """
    from mralign.report.view import serve

    interruption.ends_by_signal()
    serve(run_dirs, port=port, open_browser=not no_browser)


@contextmanager
def _writing(uri: str) -> Iterator[None]:
    """Hold the run directory's lease; who may not write there is told of --out."""
    with ExitStack() as stack:
        try:
            stack.enter_context(lease.hold(uri))
        except ValueError as error:
            raise ValueError(f"{error} Or write the report elsewhere: --out DIR") from None
        yield


def _shown(state: RunState) -> list[_Shown]:
    shown = []
    for stage in state.stages:
        nowhere = StageDir(f"{state.uri}/{stage.name}/-", stage=stage.name, fingerprint="-")
        shown.append(_Shown(_Name(stage.name), stage.out or nowhere, stage.manifest))
    return shown
