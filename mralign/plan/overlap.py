"""Stages that overlap: what a later stage asks of endpoints is begun while an earlier one runs (run/ahead.py).

The stages of a plan enter, one after the other as they run; what was asked for each of them before leaves. Stage C can
be asked for while A runs where C stands on a stage B that says how its rows flow from A's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from mralign.config import RunConfig
from mralign.plan.placing import Planned
from mralign.run.ahead import AskingAhead
from mralign.run.store import StageDir


class Overlap:
    """What is asked ahead in one run; nothing, unless `run.overlap` says so."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self._asking: dict[str, AskingAhead] = {}  # by the stage that is asked for

    def before(self, item: Planned, *, planned: Sequence[Planned]) -> Mapping[str, Any]:
        """A stage begins: end what was asked for it, and begin what can be asked while it runs. Returns what was taken
        for it, by the names that the stage itself gives."""
        ahead = self._asking.pop(item.stage.name, None)
        took = ahead.finish() if ahead is not None else {}
        if self.config.run.overlap:
            for later in planned:
                if later.manifest is None:
                    self._begin(later, source=item, planned=planned)
        return took

    def _begin(self, later: Planned, *, source: Planned, planned: Sequence[Planned]) -> None:
        """Ask for a later stage while `source` runs, where rows flow from one to the other."""
        if later.stage.ahead is None:
            return
        between = [item for item in planned if item.stage.name in later.stage.upstream]
        flows = [item.stage.flow(self.config) for item in between if item.stage.flow is not None]
        flows = [flow for flow in flows if flow.source == source.stage.name]
        asker = later.stage.ahead(self.config) if flows else None
        if asker is None:
            return
        name = later.stage.name
        out = source.out  # a directory of its own: the stage says of its own when nobody writes there
        polled = StageDir(out.uri, stage=out.stage, fingerprint=out.fingerprint)
        self._asking[name] = AskingAhead(asker, flow=flows[0], source=polled, stage=name)
        self._asking[name].start()

    def abandon(self) -> None:
        """Leave all that is still asked."""
        for ahead in self._asking.values():
            ahead.abandon()


@contextmanager
def overlapping(config: RunConfig) -> Iterator[Overlap]:
    """What is asked ahead ends with the block, at the latest."""
    overlap = Overlap(config)
    try:
        yield overlap
    finally:
        overlap.abandon()
