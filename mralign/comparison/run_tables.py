"""Tables of several runs: a file of rows becomes configurations, and what their runs measured becomes one table.

A table file names its rows and what each changes (`section.field=value`); one checked configuration a row leaves. All
rows share one run directory, so that a stage which several of them have in common is run once. From the sealed
evaluations the metrics and scores of every method enter; the metrics by the names of the table, and the paired
difference of every method against the reference row, leave.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from mralign.config import RunConfig, load
from mralign.config.run import train_names
from mralign.evaluation.paired import compare
from mralign.evaluation.responses import trained_name
from mralign.evaluation.scoring import read_scores
from mralign.plan import pipeline
from mralign.rows.subjects import Subject
from mralign.run.store import StageDir

DATASET = "{dataset}"  # in the name of a row: one row a training data set
BASE, TRAINED = (subject.stage("evaluation") for subject in Subject)


@dataclass(frozen=True)
class TableFile:
    """A table as its file says: overrides for all rows, overrides by row, and the row the others are compared with."""

    name: str
    base: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]
    reference: str | None = None


@dataclass(frozen=True)
class Measured:
    """A method by its name in the table: its figures by benchmark, its scores (schema SCORES), where they lie."""

    figures: Mapping[str, Any]
    scores: pa.Table
    place: str  # of the evaluation, below the run directory
    row: str | None  # of the table; None for the base


def read_table(table: str, *, tables_dir: Path) -> TableFile:
    """The table of that name in `tables_dir`, or in the YAML file of that path.

    Raises ValueError for a missing or unreadable file and for what is not {base, reference, rows}.
    """
    path = Path(table) if Path(table).suffix else tables_dir / f"{table}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in tables_dir.glob("*.yaml"))
        raise ValueError(f"no table {table!r}: {path} is not a file; allowed are {known} or the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"table {path} is not valid YAML: {error}") from None
    if not isinstance(values, dict) or not values.keys() <= {"base", "reference", "rows"}:
        given = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"table {path} holds {given}; allowed are the keys base, reference and rows")
    rows = values.get("rows")
    if not isinstance(rows, dict) or not rows:
        raise ValueError(f"table {path} has no rows; write `rows:` and below it a name and its list of overrides a row")
    overrides = {str(name): _overrides(given, where=f"table {path}, row {name!r}") for name, given in rows.items()}
    base = _overrides(values.get("base"), where=f"table {path}, base")
    reference = values.get("reference")
    return TableFile(path.stem, base, overrides, None if reference is None else str(reference))


def _overrides(given: Any, *, where: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(item, str) and "=" in item for item in given):
        raise ValueError(f"{where}: {given!r} is no list of section.field=value; write one override a list item")
    for item in given:
        if _key(item) == "run.dir":
            raise ValueError(f"{where}: {item!r} would part the rows; they share one run directory, give run.dir once")
    return tuple(given)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def expand(rows: Mapping[str, Sequence[str]], *, datasets: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The rows in order; one whose name holds `{dataset}` becomes one a data set, its overrides filled in likewise."""
    expanded: dict[str, tuple[str, ...]] = {}
    for name, overrides in rows.items():
        if DATASET not in name:
            expanded[name] = tuple(overrides)
            continue
        for dataset in datasets:
            filled = tuple(item.replace(DATASET, _quoted(dataset)) for item in overrides)
            expanded[name.replace(DATASET, dataset)] = filled
    return expanded


def _quoted(name: str) -> str:
    """The name as YAML reads it back inside a list."""
    try:
        plain = yaml.safe_load(f"[{name}]") == [name]
    except yaml.YAMLError:
        plain = False
    return name if plain else json.dumps(name)


def configure(
    table: TableFile, *, preset: str, overrides: Sequence[str] = (), presets_dir: Path
) -> dict[str, RunConfig]:
    """The configuration of every row: preset < `base` < `overrides` (the command line) < the row.

    Raises ValueError for a wrong configuration, by the row's name, for an override that rows set themselves, for a run
    without an evaluation, and for a reference that is no row.
    """
    shared = [*table.base, *overrides]
    first = load(preset, overrides=shared, presets_dir=presets_dir)
    if not getattr(first.questions, first.evaluation.split):
        raise ValueError(
            f"a table needs an evaluation, and questions.{first.evaluation.split} is empty; give it, or another "
            f"evaluation.split"
        )
    rows = expand(table.rows, datasets=train_names(first))
    if table.reference is not None and table.reference not in rows:
        raise ValueError(f"reference {table.reference!r} is no row of table {table.name}; allowed are {list(rows)}")
    _refuse_hidden(overrides, rows=rows)
    found = {}
    for name, own in rows.items():
        try:
            found[name] = load(preset, overrides=[*shared, *own], presets_dir=presets_dir)
        except ValueError as error:
            raise ValueError(f"table {table.name}, row {name!r}: {error}") from None
    return found


def _refuse_hidden(overrides: Sequence[str], *, rows: Mapping[str, Sequence[str]]) -> None:
    keys_of = {name: {_key(item) for item in own} for name, own in rows.items()}
    for override in overrides:
        setters = [name for name, keys in keys_of.items() if _key(override) in keys]
        if setters:
            raise ValueError(
                f"{override!r} is what the table varies: rows {setters} set it themselves; leave it out, or write a "
                f"table file of your own"
            )


def describe(plans: Mapping[str, Sequence[pipeline.Planned]]) -> str:
    """Which stages every row will run, is done with, or has in common with a row before it, as text."""
    seen: set[str] = set()
    lines = []
    for name, planned in plans.items():
        done = [item.stage.name for item in planned if item.manifest is not None]
        left = [item for item in planned if item.manifest is None]
        shared = [item.stage.name for item in left if item.out.uri in seen]
        run = [item.stage.name for item in left if item.out.uri not in seen]
        seen.update(item.out.uri for item in planned)
        lines.append(name)
        for what, stages in (("run", run), ("shared with a row above", shared), ("done", done)):
            if stages:
                lines.append(f"  {what}: {', '.join(stages)}")
    return "\n".join(lines)


def collect(rows: Mapping[str, RunConfig]) -> dict[str, Measured]:
    """Every method by its name in the table, from the sealed evaluations of each row: first the base, then the rows.

    A base that a row's own settings changed stands again, under that row's name. Raises ValueError for a row that has
    the name of another method.
    """
    base: list[tuple[str, Measured]] = []
    trained: list[tuple[str, Measured]] = []
    places: list[str] = []
    for row, config in rows.items():
        planned = pipeline.survey(config)
        before = _sealed(planned, BASE)
        if before.uri not in places:
            prefix = f"{row}: " if places else ""
            base += [(f"{prefix}{name}", measured) for name, measured in _methods(before, row=None)]
            places.append(before.uri)
        stem = trained_name(config)  # mralign, and beside it perhaps mralign_ret
        methods = _methods(_sealed(planned, TRAINED), row=row)
        trained += [(f"{row}{name.removeprefix(stem)}", measured) for name, measured in methods]
    everything = [*base, *trained]
    by_name = dict(everything)
    if len(by_name) < len(everything):
        names = [name for name, _ in everything]
        raise ValueError(f"two methods have one name among {names}; rename that row of the table file")
    return by_name


def _sealed(planned: Sequence[pipeline.Planned], name: str) -> StageDir:
    item = pipeline.find(planned, name)
    assert item is not None and item.manifest is not None, f"stage {name} is not finished"
    return item.out


def _methods(out: StageDir, *, row: str | None) -> list[tuple[str, Measured]]:
    scores = read_scores(out)
    place = "/".join(out.uri.rsplit("/", 2)[1:])
    return [
        (method, Measured(figures, scores.filter(pc.equal(scores.column("method"), method)), place, row))
        for method, figures in json.loads(out.read_text("metrics.json")).items()
    ]


def differences(
    measured: Mapping[str, Measured], *, reference: str, level: float, samples: int
) -> list[dict[str, Any]]:
    """Every other method minus the first one of row `reference`, on the questions that both have.

    Keys: method, reference, and those of `evaluation.paired.compare`: one row a benchmark and measure.
    """
    against = next(name for name, method in measured.items() if method.row == reference)
    found = []
    for name, method in measured.items():
        if name == against:
            continue
        rows = compare(method.scores, measured[against].scores, common=True, level=level, samples=samples)
        found += [{"method": name, "reference": against, **row} for row in rows]
    return found
