"""A run directory as it lies there: its configuration, and which results its page shows.

The path or URI of a run directory enters; the configuration and the directories of the finished stages leave. Nothing
is planned: a run can be read where its model and its questions are no longer at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from mralign.config import RunConfig, parse
from mralign.run.store import Directory, StageDir, absolute

_CONFIG, _RESULTS = "config.yaml", "report/stages.json"


@dataclass(frozen=True)
class FinishedRun:
    """The configuration of a run, and its finished stages by name."""

    uri: str
    config: RunConfig
    stages: Mapping[str, StageDir]

    def need(self, name: str) -> StageDir:
        """The directory of a finished stage. Raises ValueError where the run has not come to it."""
        if name not in self.stages:
            raise ValueError(
                f"{self.uri}: the stage {name} is not finished; finished are {', '.join(self.stages) or 'none'}: run "
                f"the same command again, it goes on from there"
            )
        return self.stages[name]


def read_run(run: str) -> FinishedRun:
    """What lies in a run directory. Raises ValueError where no run has written its page there."""
    home = Directory(absolute(run))
    if not (home.exists(_CONFIG) and home.exists(_RESULTS)):
        raise ValueError(
            f"{run}: there is no {_CONFIG} with {_RESULTS}; give the directory of a run (run.dir) that has come to its "
            f"end, or to the stage that --until named"
        )
    results: dict[str, str] = json.loads(home.read_text(_RESULTS))["results"]
    stages = {}
    for name, place in results.items():
        stages[name] = StageDir(f"{home.uri}/{place}", stage=name, fingerprint=place.rpartition("/")[2])
    return FinishedRun(home.uri, parse(yaml.safe_load(home.read_text(_CONFIG))), stages)
