"""Report: a finished run becomes one page to look at, one file of metrics and the last lines on the terminal.

The planned stages of a run enter, finished or not; `report/index.html` and `evaluation/metrics.json` appear in the run
directory, and the text that ends the run leaves. Only committed tables and manifests are read: no Ray, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from mralign.config import RunConfig
from mralign.report.closing import Places, closing_text
from mralign.report.evidence import PlannedStage, merged_metrics, survey
from mralign.report.page import render
from mralign.store import Directory, absolute

__all__ = ["publish"]


def publish(config: RunConfig, planned: Sequence[PlannedStage]) -> str:
    """Write the metrics and the page of a run, and return the text that ends it."""
    acts = survey(planned)
    metrics = merged_metrics(acts)
    home = Directory(absolute(config.run.dir))
    if metrics:
        home.write_text("evaluation/metrics.json", json.dumps(metrics, indent=1))
    home.write_text("report/index.html", render(config, acts=acts, metrics=metrics))
    places = Places(
        report=f"{home.uri}/report/index.html",
        metrics=f"{home.uri}/evaluation/metrics.json" if metrics else None,
        config=f"{home.uri}/config.yaml",
    )
    return closing_text(config, acts=acts, metrics=metrics, places=places)
