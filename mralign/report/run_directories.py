"""A run directory to look at: which of its results a page shows, found without the plan that made them.

The directory of a run enters, finished or not, also one that cannot be written to; its findings leave. What the last
report showed is shown again; where there is none, the newest result of each stage.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pyarrow import fs

from mralign.config import parse
from mralign.report.document import RunFindings, findings_of
from mralign.report.findings import Act
from mralign.run.changes import newest_result
from mralign.run.store import Directory, StageDir, absolute

STAGES = "report/stages.json"  # which results the page of a run shows


def read_run(run_dir: str) -> RunFindings:
    """The findings of a run. Raises ValueError for a directory that holds no run."""
    home = Directory(absolute(run_dir))
    if not home.exists():
        raise ValueError(f"{run_dir} does not exist; give the directory of a run (run.dir)")
    if not home.exists("config.yaml"):
        raise ValueError(
            f"{run_dir} holds no config.yaml, so it is no run directory{_runs_below(home)}; give the directory of a "
            f"run (run.dir)"
        )
    config = parse(_yaml(home))
    acts = _acts(home)
    if not acts:
        raise ValueError(f"{run_dir} has no finished stage yet; wait for the first one, or start the run")
    found = findings_of(config, acts)
    return RunFindings(home.uri.rsplit("/", 1)[-1], config, acts, found.metrics)


def _yaml(home: Directory) -> dict[str, Any]:
    try:
        values = yaml.safe_load(home.read_text("config.yaml"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{home.uri}/config.yaml is no YAML ({error}); mend it, or run the command again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{home.uri}/config.yaml is no mapping of settings; mend it, or run the command again")
    return values


def _runs_below(home: Directory) -> str:
    """The runs in a directory of runs, for who gave that one."""
    below = [path.parent.name for path in sorted(Path(home.path()).glob("*/config.yaml"))]
    return f" (runs in it: {', '.join(below[:8])})" if below else ""


def _acts(home: Directory) -> dict[str, Act]:
    """What the last report showed, if that was of a finished run; else also what has been finished since."""
    written: dict[str, Any] = {"finished": False, "results": {}}
    if home.exists(STAGES):
        written = json.loads(home.read_text(STAGES))
    shown = {}
    for name, place in written["results"].items():
        fingerprint = str(place).rpartition("/")[2]
        out = StageDir(f"{home.uri}/{name}/{fingerprint}", stage=name, fingerprint=fingerprint)
        shown[name] = Act(name, out, out.manifest())
    return shown if written["finished"] else {**_newest_acts(home), **shown}


def _newest_acts(home: Directory) -> dict[str, Act]:
    """The newest finished result of each stage, in the order in which they were finished."""
    found = []
    selector = fs.FileSelector(home.path())
    for info in home.filesystem.get_file_info(selector):
        if info.type == fs.FileType.Directory:
            newest = newest_result(StageDir(f"{home.uri}/{info.base_name}/-", stage=info.base_name, fingerprint="-"))
            if newest is not None:
                out, manifest = newest
                sealed = home.filesystem.get_file_info(out.path("manifest.json")).mtime_ns
                found.append((sealed, Act(info.base_name, out, manifest)))
    found.sort(key=lambda pair: pair[0])
    return {act.name: act for _, act in found}
