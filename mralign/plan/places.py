"""What a run needs that lies elsewhere: its directory, far input files, the cluster. Whether they answer, in sentences.

A configuration enters; what does not answer leaves, each place in a sentence that says what to do. A server that nobody
runs costs half a minute at most, and the user can interrupt it (run/reach.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from mralign.config import RunConfig, Section
from mralign.config.section import mark_of
from mralign.run import reach
from mralign.run.stage import Faults


def run_directory_fault(config: RunConfig, *, write: bool) -> str | None:
    """Why nothing can be read from the run directory (`write`: written into it); None if it can."""
    place = config.run.dir
    if not reach.is_far(place):
        said = reach.local_fault(place.removeprefix("file://")) if write else None
        advice = "give another directory, or the right to write"
    else:
        said = reach.faults([place], write=write).get(place)
        advice = "check its address, this machine's credentials and network, or give another directory"
    return f"run.dir={reach.shown(place)}: {said}; {advice}" if said else None


def input_faults(config: RunConfig, *, paths: Iterable[str]) -> list[str]:
    """Those of these files of the configuration (questions, models, …) that lie elsewhere and cannot be looked for."""
    far = [path for path in paths if reach.is_far(path)]
    if not far:
        return []
    names = {path: name for name, path in _contents(config, "")}
    advice = "check its address, this machine's credentials and network, or give a local copy"
    found = reach.faults(far)
    return [f"{names.get(path, 'input')}={reach.shown(path)}: {said}; {advice}" for path, said in found.items()]


def check_inputs(config: RunConfig, *, paths: Iterable[str]) -> None:
    """Raise ValueError for input files that cannot be looked for, and with them for all other places."""
    found = input_faults(config, paths=paths)
    if found:
        more = [run_directory_fault(config, write=False), cluster_fault()]
        raise Faults([*found, *filter(None, more)])


def cluster_fault() -> str | None:
    """Why the cluster that the environment names cannot be joined; None where none is named, or its head answers."""
    address = os.environ.get("RAY_ADDRESS", "")
    said = reach.cluster_fault(address)
    if said is None:
        return None
    return (
        f"RAY_ADDRESS={reach.shown(address)} {said}; correct it, start the cluster, or unset it to run on a Ray of "
        f"this machine"
    )


def _contents(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Every path in the configuration whose content counts, with the name of its setting."""
    if isinstance(value, tuple):
        for number, item in enumerate(value):
            yield from _contents(item, f"{name}[{number}]")
    if not isinstance(value, Section):
        return
    for field in type(value).model_fields:
        found, place = getattr(value, field), f"{name}.{field}" if name else field
        if isinstance(found, str) and mark_of(type(value), field) == "content":
            yield place, found
        else:
            yield from _contents(found, place)
