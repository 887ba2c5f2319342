"""Which directories of a run directory belong to the run that its configuration describes.

A run directory enters; by stage, the directories under its fingerprints leave, each as one listing shows it, and which
of them is meant. Older results of other settings lie beside it. Only listings and manifests are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pyarrow import fs

from mralign.config import RunConfig
from mralign.plan import pipeline
from mralign.run.store import Directory, Manifest, StageDir

_STAGE, _FINGERPRINT = re.compile(r"[a-z_]+"), re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class FoundStage:
    """The directory of a stage under one fingerprint, as one listing shows it."""

    out: StageDir
    files: Mapping[str, fs.FileInfo]
    manifest: Manifest | None
    fault: str

    @property
    def changed(self) -> datetime:
        times = [info.mtime for info in self.files.values() if info.mtime is not None]
        return max(times, default=datetime.fromtimestamp(0, UTC))


def stage_folders(home: Directory) -> list[str]:
    """Names of the directories that may be those of stages; OSError if there is nothing."""
    infos = home.filesystem.get_file_info(fs.FileSelector(home.path()))
    return [info.base_name for info in infos if info.type == fs.FileType.Directory and _STAGE.fullmatch(info.base_name)]


def found_under(home: Directory, *, stage: str) -> list[FoundStage]:
    """What lies under each fingerprint of a stage; directories of another kind are left out."""
    selector = fs.FileSelector(home.path(stage), allow_not_found=True)
    infos = home.filesystem.get_file_info(selector)
    marks = [info.base_name for info in infos if _FINGERPRINT.fullmatch(info.base_name)]
    return [_place(StageDir(f"{home.uri}/{stage}/{mark}", stage=stage, fingerprint=mark)) for mark in marks]


def _place(out: StageDir) -> FoundStage:
    infos = out.filesystem.get_file_info(fs.FileSelector(out.path(), allow_not_found=True))
    files = {info.base_name: info for info in infos}
    try:
        return FoundStage(out, files, out.manifest() if "manifest.json" in files else None, "")
    except ValueError as error:
        return FoundStage(out, files, None, str(error))


def of_this_run(
    config: RunConfig | None,
    *,
    found: Mapping[str, Sequence[FoundStage]],
    order: Sequence[str],
    page: Mapping[str, str],
) -> dict[str, FoundStage]:
    """Which directory of each stage is that of this run.

    It is the one that the plan names; else that which the run's page shows (`page`: fingerprints by stage), if it
    stands on what was chosen before it: it was made by another version of this program. Where neither finds anything
    (inputs have moved, a manifest is torn), it is the newest that stands on what was chosen before it.
    """
    planned = _planned(config) if config is not None else {}
    chosen: dict[str, FoundStage] = {}
    for name in order:
        fitting = {place.out.fingerprint: place for place in found.get(name, ()) if _stands_on(place, chosen=chosen)}
        for mark in (planned.get(name), page.get(name)):
            if mark in fitting:
                chosen.setdefault(name, fitting[mark])
    return chosen or _newest(found, order=order)


def _newest(found: Mapping[str, Sequence[FoundStage]], *, order: Sequence[str]) -> dict[str, FoundStage]:
    chosen: dict[str, FoundStage] = {}
    for name in order:
        fitting = [place for place in found.get(name, ()) if _stands_on(place, chosen=chosen)]
        if fitting:
            chosen[name] = max(fitting, key=lambda place: place.changed)
    return chosen


def page_results(home: Directory) -> dict[str, str]:
    """The fingerprint by stage of what the page of a run shows; empty where no page says so."""
    try:
        results = json.loads(home.read_text("report/stages.json"))["results"]
        return {name: str(place).rpartition("/")[2] for name, place in results.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _planned(config: RunConfig) -> dict[str, str]:
    """The fingerprint of each stage by the plan; empty where it cannot be made here."""
    try:
        return {item.stage.name: item.out.fingerprint for item in pipeline.survey(config)}
    except (ValueError, ImportError, OSError):
        return {}


def _stands_on(place: FoundStage, *, chosen: Mapping[str, FoundStage]) -> bool:
    upstream = place.manifest.upstream if place.manifest is not None else {}
    known = {name: mark for name, mark in upstream.items() if name in chosen}
    return all(chosen[name].out.fingerprint == mark for name, mark in known.items())
