"""Report: a finished run becomes one page to look at, its metrics and the last lines on the terminal.

All planned stages of a run enter, finished or not. `report/index.html` (and `report/data/`, where the texts of the
trajectories are too long for one page), `evaluation/metrics.json`, the same as
`table.json`, `.md` and `.tex`, and `index.json` (where the scores of each method lie) appear in the run directory, and
the text that ends the run leaves. Only committed tables and manifests are read: no Ray, no torch.

The configuration of a page lies beside it, as `config.yaml`. The page of a finished run is replaced by that of another
finished run only: a run that is not finished writes all of this into `unfinished/`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from pyarrow import fs

from mralign.config import RunConfig, to_yaml
from mralign.report.closing import Places, closing_text
from mralign.report.document import document_of, findings_of
from mralign.report.findings import PlannedStage, merged_metrics, recall, score_places, survey
from mralign.report.page import DATA, Page, make_page
from mralign.report.result_tables import result_table, write_tables
from mralign.report.run_directories import STAGES
from mralign.run.store import Directory, absolute

__all__ = ["begin", "publish"]


def begin(config: RunConfig) -> None:
    """Write the configuration of a run that starts, unless that would put it beside the page of another one: then it
    goes into `unfinished/` until there is a page of its own."""
    home, text = _run_directory(config), to_yaml(config)
    if home.holds("report/index.html") and home.find_text("config.yaml") != text:
        home = _unfinished(config)
    home.write_text("config.yaml", text)


def publish(config: RunConfig, planned: Sequence[PlannedStage], *, out: str | None = None) -> str:
    """Write the metrics and the page of a run, and return the text that ends it.

    `planned`: every stage of the run, finished or not. `out`: the directory that all is written into in place of the
    run directory, which is then only read.
    """
    acts = survey(planned)
    recall(acts)
    metrics = merged_metrics(acts)
    finished = all(act.manifest is not None for act in acts.values())
    home, text = _home_of_page(config, finished=finished, out=out), to_yaml(config)
    home.write_text("config.yaml", text)
    if metrics:
        places = score_places(acts)
        home.write_texts(
            {
                "evaluation/config.yaml": text,  # the next run may have no metrics that take their place
                "evaluation/metrics.json": json.dumps(metrics, indent=1),
                "evaluation/index.json": json.dumps(places, indent=1),
            }
        )
        write_tables(Directory(f"{home.uri}/evaluation"), table=result_table(metrics), more={"scores": places})
    _write_page(home, make_page([document_of(findings_of(config, acts))]))
    results = {name: f"{name}/{act.out.fingerprint}" for name, act in acts.items() if act.manifest is not None}
    home.write_text(STAGES, json.dumps({"finished": finished, "results": results}, indent=1))
    if home == _run_directory(config) and _unfinished(config).find_text("config.yaml") == text:
        _unfinished(config).remove()
    found = Places(
        report=f"{home.uri}/report/index.html",
        metrics=f"{home.uri}/evaluation/metrics.json" if metrics else None,
        config=f"{home.uri}/config.yaml",
    )
    return closing_text(config, acts=acts, metrics=metrics, places=found)


def _write_page(home: Directory, page: Page) -> None:
    """Write the page after the files that it needs, then delete those that an older page needed.

    The names of those files hold digests of what is in them, so the page that stands is never short of one.
    """
    home.write_texts({f"report/{name}": text for name, text in page.files.items()})
    home.write_text("report/index.html", page.html)
    below = fs.FileSelector(home.path(f"report/{DATA}"), allow_not_found=True)
    for info in home.filesystem.get_file_info(below):
        if f"{DATA}/{info.base_name}" not in page.files:
            home.filesystem.delete_file(info.path)


def _home_of_page(config: RunConfig, *, finished: bool, out: str | None) -> Directory:
    """Where the page of a run goes."""
    if out is not None:
        return Directory(absolute(out))
    home = _run_directory(config)
    return _unfinished(config) if not finished and _shows_finished_run(home) else home


def _run_directory(config: RunConfig) -> Directory:
    return Directory(absolute(config.run.dir))


def _unfinished(config: RunConfig) -> Directory:
    return Directory(f"{absolute(config.run.dir)}/unfinished")


def _shows_finished_run(home: Directory) -> bool:
    """Whether the page in `home` is that of a finished run; one that does not say is taken for one."""
    if not home.holds("report/index.html"):
        return False
    stages = home.find_text(STAGES)
    return stages is None or bool(json.loads(stages)["finished"])
