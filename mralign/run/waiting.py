"""A stage on a cluster waits for nodes: it says what is missing, and ends when its patience is over.

The workers of a stage enter. Before the stage their room is asked for as one placement group: the autoscaler then
starts all nodes that they need, and not one after the other. While the stage runs, a thread looks whether there still
are nodes for it, since those of a spot market go at any time. On a Ray of this machine alone nothing is waited for.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mralign.run import capacity, events, interruption
from mralign.run.placement import SHORT_TASKS, Workers, alive_nodes, bundle
from mralign.run.room import amounts, shortages

log = logging.getLogger("mralign")

_LOOK_S = 1
_FIRST_WORD_S = 10.0  # what comes in a moment is worth no line
_WORD_S = 60.0


class _Patience:
    """How long something has been waited for, and when it is time to say so."""

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.begin()

    def begin(self) -> None:
        self.began = time.monotonic()
        self.word = self.began + _FIRST_WORD_S

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.began >= self.patience_s

    def is_time_to_say(self) -> bool:
        """Whether a line is due; it is then taken to be said."""
        due = time.monotonic() >= self.word
        if due:
            self.word = time.monotonic() + _WORD_S
        return due

    def __str__(self) -> str:
        return f"{time.monotonic() - self.began:.0f} of run.patience_s={self.patience_s:g} s"


def await_room(stage: str, workers: Sequence[Workers], *, patience_s: float) -> None:
    """Return when a cluster has room for the least number of these workers, and for all of them at once.

    Raises ValueError with what is missing when the patience is over. Ray must have been started.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return
    from ray.util.placement_group import placement_group, remove_placement_group

    asked = list(workers) or [SHORT_TASKS]
    bundles = []
    for one in asked:
        needs = bundle(one)
        bundles += [needs] * one.least if any(needs.values()) else []
    patience = _Patience(patience_s)
    group = placement_group(bundles)
    try:
        while not group.wait(_LOOK_S):
            interruption.check()
            if patience.is_over:
                raise ValueError(f"{_waits(stage, asked, patience)}; {_ADVICE}")
            if patience.is_time_to_say():
                log.warning("%s", _waits(stage, asked, patience))
    finally:
        remove_placement_group(group)


_ADVICE = (
    "let the cluster start such nodes, free what others hold, ask for less, or give a larger run.patience_s; the same "
    "command goes on"
)


def _waits(stage: str, workers: Sequence[Workers], patience: _Patience) -> str:
    lacks = shortages(workers, nodes=alive_nodes()) or [_held_by_others(workers)]
    return f"stage {stage} waits for nodes ({patience}): {'; '.join(lacks)}; {_launches()}"


def _held_by_others(workers: Sequence[Workers]) -> str:
    import ray

    needed: dict[str, float] = {}
    for one in workers:
        for kind, amount in bundle(one).items():
            needed[kind] = needed.get(kind, 0) + one.least * amount
    free = amounts(ray.available_resources())
    return f"it needs {amounts(needed)} on nodes with room for them, and others leave {free} free"


def _launches() -> str:
    try:
        return str(capacity.launches(capacity.joined_address()))
    except OSError as error:
        return str(error)


@contextmanager
def watching(stage: str, workers: Sequence[Workers], *, patience_s: float) -> Iterator[None]:
    """While the block runs, say when the nodes of a cluster that are left have no room for the stage, and end the run
    when it has waited too long. Whatever the stage still gets done begins the patience anew."""
    if not os.environ.get("RAY_ADDRESS"):
        yield
        return
    over, patience = threading.Event(), _Patience(patience_s)

    def hear(event: events.Event) -> None:
        if isinstance(event, events.WorkAdvanced | events.TrainingStepped):
            patience.begin()

    watcher = threading.Thread(target=_watch, args=(stage, list(workers) or [SHORT_TASKS], patience, over), daemon=True)
    watcher.start()
    try:
        with events.listening(hear):
            yield
    finally:
        over.set()
        watcher.join()


def _watch(stage: str, workers: Sequence[Workers], patience: _Patience, over: threading.Event) -> None:
    while not over.wait(5 * _LOOK_S):
        if not shortages(workers, nodes=alive_nodes()):
            patience.begin()
        elif patience.is_over:
            log.error("%s; %s", _waits(stage, workers, patience), _ADVICE)
            interruption.end_run()
            return
        elif patience.is_time_to_say():
            log.warning("%s", _waits(stage, workers, patience))
