"""What a run directory says of its run, by its manifests and committed parts alone: nothing is started or written.

The path or URI of a run directory enters; its stages in order leave, each with how far it is. It holds for a run that
goes on, that was killed, that was moved to another machine, or of which a file is torn: what cannot be read is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import yaml
from pyarrow import fs

from mralign.config import RunConfig, parse
from mralign.plan import pipeline
from mralign.plan.found_stages import FoundStage, found_under, of_this_run, page_results, stage_folders
from mralign.report.rounds import Rounds, first_directory, round_directory, rounds_of
from mralign.rows.subjects import Subject, Way
from mralign.run import lease
from mralign.run.store import Directory, Manifest, StageDir, absolute, ahead

FINISHED, UNDER_WAY, STOPPED, UNREADABLE, TO_COME = "finished", "under way", "stopped", "unreadable", "to come"
_RESPONSES = tuple(subject.stage("responses") for subject in (Subject.BASE, Subject.TRAINED))
_LOOKED_INTO = 40  # directories below one that is no run
_CONFIGS = ("unfinished/config.yaml", "config.yaml")  # a run beside the page of another one is the newer of the two


@dataclass(frozen=True)
class StageState:
    """How far a stage is. `of`: what `done` will be at the end, where that is known; None: it is not."""

    name: str
    state: str
    done: int = 0
    of: int | None = None
    unit: str = "rows"
    rejects: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    fault: str = ""
    out: StageDir | None = None
    manifest: Manifest | None = None


@dataclass(frozen=True)
class RunState:
    """A run as its directory shows it."""

    uri: str
    config: RunConfig | None
    stages: tuple[StageState, ...]
    holders: tuple[lease.Holder, ...]
    last_activity: datetime | None
    report: str | None
    faults: tuple[str, ...]
    later: tuple[RunState, ...] = ()  # its rounds after the first, as far as they have begun
    rounds: Rounds | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing of it is left."""
        ended = self.rounds is None or bool(self.rounds.ended)
        later = list(enumerate(self.later, 2))
        if self.rounds is not None:  # a round that was not begun, for want of examples, has no record
            later = [(place, one) for place, one in later if self.rounds.record(place) is not None]
        stages = chain(self.stages, *(one.stages for _, one in later))
        return ended and all(stage.state == FINISHED for stage in stages)


def read_run(uri: str, *, preset: str | None = None) -> RunState:
    """The state of the run in a directory. Raises ValueError, in one sentence, where there is none.

    `preset`: the file of its configuration, where several runs share the directory; else the one that lies in it.
    """
    home = Directory(absolute(uri))
    try:
        names = stage_folders(home)
        return _with_rounds(_state(home, names=names, preset=preset))
    except OSError as error:
        raise ValueError(f"{home.uri} cannot be read: {error}; give the directory of a run (run.dir)") from error


def _state(home: Directory, *, names: Sequence[str], preset: str | None) -> RunState:
    config, faults = _configuration(home) if preset is None else (_moved(_read_yaml(preset), home=home), [])
    looked = ahead(lambda name: found_under(home, stage=name), names)
    found = {name: places for name, places in zip(names, looked, strict=True) if places}
    if config is None and not found:
        raise ValueError(f"{home.uri} {_no_run(home, faults=faults)}")
    if config is None:
        faults = [*faults, _instead(home)]
    order = _order(config, found=found)
    beside = preset is None and not home.exists(_CONFIGS[0])  # the page is that of the configuration that is read
    page = page_results(home) if beside else {}
    chosen = of_this_run(config, found=found, order=order, page=page)
    holders = tuple(lease.holders(home.uri))
    manifests = {name: place.manifest for name, place in chosen.items() if place.manifest is not None}
    stages = [_stage_state(name, chosen.get(name), config=config, manifests=manifests) for name in order]
    moments = [place.changed for place in chain(*found.values())]
    moments += [datetime.fromisoformat(holder.renewed) for holder in holders]
    return RunState(
        uri=home.uri,
        config=config,
        stages=tuple(_with_work(stages, alive=bool(holders))),
        holders=holders,
        last_activity=max(moments, default=None),
        report=_report(home),
        faults=tuple(faults),
    )


def _with_rounds(state: RunState) -> RunState:
    """The state of a run with those of its later rounds, which lie below it."""
    later: list[RunState] = []
    while Directory(round_directory(state.uri, len(later) + 2)).exists():
        later.append(read_run(round_directory(state.uri, len(later) + 2)))
    try:
        rounds = rounds_of(state.uri) if first_directory(state.uri) == state.uri else None
    except ValueError as error:
        return replace(state, later=tuple(later), faults=(*state.faults, _one_line(error)))
    return replace(state, later=tuple(later), rounds=rounds)


def _no_run(home: Directory, *, faults: Sequence[str]) -> str:
    """Why a directory is not that of a run, and what to give in its place."""
    infos = home.filesystem.get_file_info(fs.FileSelector(home.path()))
    if not infos:
        return "is empty; a run writes there once `mralign align run.dir=...` has started"
    below = sorted(info.base_name for info in infos if info.type == fs.FileType.Directory)[:_LOOKED_INTO]
    runs = [name for name in below if home.exists(f"{name}/config.yaml")]
    hint = f"the runs in it are {', '.join(runs)}" if runs else "give the directory of a run (run.dir)"
    why = "; ".join(faults) or "neither a config.yaml nor the table of a stage"
    return f"holds no run: {why}; {hint}"


def _configuration(home: Directory) -> tuple[RunConfig | None, list[str]]:
    """The configuration that lies in a run directory, and why it cannot be read if it cannot."""
    for name in _CONFIGS:
        if home.exists(name):
            try:
                return _moved(yaml.safe_load(home.read_text(name)), home=home), []
            except (yaml.YAMLError, ValueError, TypeError) as error:
                return None, [f"{home.uri}/{name} cannot be read: {_one_line(error)}"]
    return None, []


def _moved(values: Any, *, home: Directory) -> RunConfig:
    """The configuration of YAML, with the run directory in which it was found: it may have been moved."""
    return parse({**values, "run": {**values.get("run", {}), "dir": home.uri}})


def _read_yaml(preset: str) -> Any:
    home, _, name = absolute(preset).rpartition("/")
    try:
        return yaml.safe_load(Directory(home).read_text(name))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"--preset {preset} cannot be read: {_one_line(error)}; give a YAML file") from error


def _instead(home: Directory) -> str:
    """What is shown of a run directory without a configuration."""
    rows = _rows_of_tables(home)
    hint = f"; that of one row: --preset {rows[0]} (or another of {len(rows)})" if rows else ""
    return f"no configuration: shown is the newest result of each stage{hint}"


def _rows_of_tables(home: Directory) -> list[str]:
    """The configurations of the rows of tables (`mralign ablate`), which share a run directory."""
    selector = fs.FileSelector(home.path("tables"), recursive=True, allow_not_found=True)
    paths = [info.path for info in home.filesystem.get_file_info(selector)]
    below = [path.removeprefix(home.path()).lstrip("/") for path in paths if path.endswith(".yaml")]
    return [f"{home.uri}/{name}" for name in sorted(below)]


def _order(config: RunConfig | None, *, found: Mapping[str, Sequence[FoundStage]]) -> list[str]:
    """Names of the stages in order: those of the configuration, else those that lie there, the oldest first."""
    if config is not None:
        try:
            return [stage.name for stage in pipeline.stages(config)]
        except (ValueError, ImportError):
            pass  # an objective of the user's own that is not at hand here
    return sorted(found, key=lambda name: min(place.changed for place in found[name]))


def _stage_state(
    name: str, place: FoundStage | None, *, config: RunConfig | None, manifests: Mapping[str, Manifest]
) -> StageState:
    if place is None:
        return StageState(name, TO_COME)
    if place.manifest is not None:
        done = place.manifest
        return StageState(
            name,
            FINISHED,
            done=done.rows_out,
            of=done.rows_out,
            rejects=done.rejects,
            seconds=done.seconds,
            out=place.out,
            manifest=done,
        )
    if place.fault:
        return StageState(name, UNREADABLE, fault=_one_line(place.fault), out=place.out)
    if "metrics.jsonl" in place.files:
        step, of = _steps(place.out)
        return StageState(name, STOPPED, done=step, of=of, unit="steps", out=place.out)
    rows, rejects, fault = _committed(place.out)
    of = expected_rows(name, config=config, manifests=manifests)
    return StageState(name, STOPPED, done=rows, of=of, rejects=rejects, fault=fault, out=place.out)


def _committed(out: StageDir) -> tuple[int, dict[str, int], str]:
    """Rows in the committed parts, their rejects by reason, and what of them cannot be read."""
    looked = list(ahead(partial(_rows_or_fault, out), out.parts()))
    rows, faults = sum(rows for rows, _ in looked), [fault for _, fault in looked if fault]
    try:
        reasons = out.read_rejects(columns=["reason"]).column("reason").to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        return rows, {}, f"{out.uri}/rejects cannot be read: {_one_line(error)}"
    return rows, {reason: reasons.count(reason) for reason in sorted(set(reasons))}, "; ".join(faults)


def _rows_or_fault(out: StageDir, part: str) -> tuple[int, str]:
    try:
        return out.rows(part), ""
    except (pa.ArrowInvalid, OSError) as error:
        return 0, f"{out.uri}/{part} cannot be read: {_one_line(error)}"


def _steps(out: StageDir) -> tuple[int, int | None]:
    """The last step that the training has told, and how many there are."""
    lines = out.read_text("metrics.jsonl").splitlines()
    for line in reversed(lines):
        try:
            row = json.loads(line)
            return int(row["step"]), int(row["of"])
        except (ValueError, KeyError, TypeError):
            continue  # it is being written
    return 0, None


def expected_rows(name: str, *, config: RunConfig | None, manifests: Mapping[str, Manifest]) -> int | None:
    """How many rows a stage will have, rejects among them, where what is finished and the settings tell."""
    questions = manifests["questions"].figures if "questions" in manifests else {}
    if config is None:
        return None
    if name == "rollouts" and not config.rollouts.import_on and "train" in questions:
        return int(questions["train"]) * 2 * config.rollouts.n
    if name == "annotation" and "candidates" in manifests:
        return manifests["candidates"].rows_out
    settings = config.evaluation
    ways = {
        Subject.BASE.stage("responses"): settings.methods,
        Subject.TRAINED.stage("responses"): settings.trained_methods,
    }
    asked = ways.get(name)
    if asked and Way.SELF_REFINE not in asked and settings.split in questions:
        return int(questions[settings.split]) * settings.draws * len(asked)
    return None


def _with_work(stages: Iterable[StageState], *, alive: bool) -> list[StageState]:
    """The stages, that at which a driver works marked: the first that is not finished."""
    found = list(stages)
    for number, stage in enumerate(found):
        if alive and stage.state in (STOPPED, TO_COME):
            found[number] = StageState(**{**vars(stage), "state": UNDER_WAY})
            break
    return found


def _report(home: Directory) -> str | None:
    """Where the newest page lies."""
    for name in ("unfinished/report/index.html", "report/index.html"):
        if home.exists(name):
            return f"{home.uri}/{name}"
    return None


def _one_line(error: BaseException | Any) -> str:
    return " ".join(str(error).split())
