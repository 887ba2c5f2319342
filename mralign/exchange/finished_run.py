"""A run directory as it lies there: its configuration, and which results its page shows.

The path or URI of a run directory enters; the configuration and the directories of the finished stages leave. Nothing
is planned: a run can be read where its model and its questions are no longer at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from mralign.config import RunConfig, parse
from mralign.run.arrow_files import open_parquet
from mralign.run.store import Directory, StageDir, absolute

_CONFIG, _RESULTS, _METRICS = "config.yaml", "report/stages.json", "evaluation/metrics.json"


@dataclass(frozen=True)
class FinishedRun:
    """The configuration of a run, and its finished stages by name; `table` reads what a stage has committed."""

    uri: str
    config: RunConfig
    stages: Mapping[str, StageDir]

    @property
    def figures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """{method: {benchmark: figures}} as the page shows them; empty where nothing is evaluated yet."""
        home = Directory(self.uri)
        return dict(json.loads(home.read_text(_METRICS))) if home.exists(_METRICS) else {}

    def table(self, name: str, *, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows that a stage has committed; `columns`: only these. Raises ValueError as `need` does."""
        out = self.need(name)
        tables = []
        for part in out.parts():
            with out.filesystem.open_input_file(out.path(part)) as stream:
                tables.append(open_parquet(stream, name=f"{out.uri}/{part}").read(columns=columns))
        return pa.concat_tables(tables, promote_options="default")

    def rejects(self, name: str) -> pa.Table:
        """The rows that a stage has put aside, each with its reason."""
        return self.need(name).read_rejects()

    def need(self, name: str) -> StageDir:
        """The directory of a finished stage. Raises ValueError where the run has not come to it."""
        if name not in self.stages:
            raise ValueError(
                f"{self.uri}: the stage {name} is not finished; finished are {', '.join(self.stages) or 'none'}: run "
                f"the same command again, it goes on from there"
            )
        return self.stages[name]


def read_run(run: str) -> FinishedRun:
    """What lies in a run directory: configuration, figures, and the tables of docs/method.md §1 to §6 by stage.

    `run`: a path or URI. Tables are Arrow's, with the columns of mralign/rows/schema.py. Raises ValueError where no run
    has written its page there.

    >>> import mralign
    >>> run = mralign.read_run("runs/first")  # doctest: +SKIP
    >>> run.table("weights").to_pandas(), run.figures["mralign"]  # doctest: +SKIP
    """
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
