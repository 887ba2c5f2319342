"""Report: a finished run becomes one page to look at, its metrics and the last lines on the terminal.

The planned stages of a run enter, finished or not. `report/index.html`, `evaluation/metrics.json`, the same as
`table.json`, `.md` and `.tex`, and `index.json` (where the scores of each method lie) appear in the run directory, and
the text that ends the run leaves. Only committed tables and manifests are read: no Ray, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mralign.config import RunConfig
from mralign.report.closing import Places, closing_text
from mralign.report.export import result_table, write_tables
from mralign.report.findings import PlannedStage, merged_metrics, score_places, survey
from mralign.report.page import render
from mralign.run.store import Directory, absolute

__all__ = ["publish"]


def publish(config: RunConfig, planned: Sequence[PlannedStage]) -> str:
    """Write the metrics and the page of a run, and return the text that ends it."""
    acts = survey(planned)
    metrics = merged_metrics(acts)
    home = Directory(absolute(config.run.dir))
    if metrics:
        home.write_text("evaluation/metrics.json", json.dumps(metrics, indent=1))
        places = score_places(acts)
        home.write_text("evaluation/index.json", json.dumps(places, indent=1))
        write_tables(Directory(f"{home.uri}/evaluation"), table=result_table(metrics), more={"scores": places})
    home.write_text("report/index.html", render(config, acts=acts, metrics=metrics))
    found = Places(
        report=f"{home.uri}/report/index.html",
        metrics=f"{home.uri}/evaluation/metrics.json" if metrics else None,
        config=f"{home.uri}/config.yaml",
    )
    return closing_text(config, acts=acts, metrics=metrics, places=found)
