"""What a run left behind, read from its stage directories.

Planned stages enter; frozen records leave: which stages are finished, the merged metrics, the matrices, counts of
labels and rules, the training history. Trajectories are read in `record_tables.py`.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows.schema import ANNOTATIONS, EDGES, MATRICES
from mralign.rows.subjects import Subject
from mralign.run.recall import SMALL
from mralign.run.store import Manifest, StageDir, ahead

METRIC_STAGES = tuple(subject.stage("evaluation") for subject in Subject)
_RECALLED_PARTS = 4  # of a stage: a page shows the first trajectories, whatever the run's size


class _Named(Protocol):
    @property
    def name(self) -> str: ...


class PlannedStage(Protocol):
    """What the report needs of a `pipeline.Planned`."""

    @property
    def stage(self) -> _Named: ...
    @property
    def out(self) -> StageDir: ...
    @property
    def manifest(self) -> Manifest | None: ...


@dataclass(frozen=True)
class Act:
    """A planned stage and its manifest, None while it is unfinished."""

    name: str
    out: StageDir
    manifest: Manifest | None


@dataclass(frozen=True)
class Matrices:
    """Transition probabilities, expected counts and standard errors, (K, K) each, by name: all, positive, negative.

    Without a bootstrap the errors are nan.
    """

    states: tuple[str, ...]
    probability: Mapping[str, np.ndarray]
    support: Mapping[str, np.ndarray]
    error: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Chain:
    """One matrix P and the expected counts behind it, (K, K), and its bootstrap replicates, (B, K, K)."""

    states: tuple[str, ...]
    P_KK: np.ndarray
    support_KK: np.ndarray
    replicates_BKK: np.ndarray


@dataclass(frozen=True)
class Labelling:
    """How often each label stands, by polarity, and by which rule each step got its labels."""

    trajectories: Mapping[int, int]
    labels: Mapping[int, Mapping[str, int]]
    rules: Mapping[str, int]


def survey(planned: Sequence[PlannedStage]) -> dict[str, Act]:
    """The planned stages by name. Their manifests are asked for again: a plan is older than what ran after it."""
    return {item.stage.name: Act(item.stage.name, item.out, item.out.manifest()) for item in planned}


_SHOWN_ROWS = ("candidates", "annotation", "matrices", "weights", "examples", *METRIC_STAGES)
_SHOWN_TEXTS = {
    **dict.fromkeys(METRIC_STAGES, ("metrics.json", "positions.json", "strata.json")),
    **dict.fromkeys((subject.stage("responses") for subject in Subject), ("parts.json",)),
    "annotation": ("taxonomy.json",),
    "training": ("adapter/README.md", "model/README.md"),
}


def recall(acts: Mapping[str, Act]) -> None:
    """Read from a far store, side by side, the small files that a page shows: each would be asked for in its turn."""
    wanted: list[tuple[StageDir, str]] = []
    for name, act in acts.items():
        if act.manifest is not None and act.out.recalled.keeps:
            parts = act.manifest.parts if name in _SHOWN_ROWS else {}
            wanted += [(act.out, part) for part, (_, size) in parts.items() if size <= SMALL][:_RECALLED_PARTS]
            wanted += [(act.out, text) for text in _SHOWN_TEXTS.get(name, ())]
    for _ in ahead(lambda one: one[0].recall(one[1]), wanted):
        pass


def finished(acts: Mapping[str, Act], name: str) -> StageDir | None:
    """Directory of a finished stage, or None."""
    act = acts.get(name)
    return act.out if act is not None and act.manifest is not None else None


def figures(acts: Mapping[str, Act], name: str) -> Mapping[str, Any]:
    """The figures in a finished stage's manifest; empty if it is not finished."""
    act = acts.get(name)
    return act.manifest.figures if act is not None and act.manifest is not None else {}


def merged_metrics(acts: Mapping[str, Act]) -> dict[str, dict[str, dict[str, Any]]]:
    """{method: {benchmark: figures}} of the finished evaluation stages, the untrained model first."""
    merged: dict[str, dict[str, dict[str, Any]]] = {}
    for _, metrics in _metrics(acts):
        merged.update(metrics)
    return merged


def score_places(acts: Mapping[str, Act]) -> dict[str, str]:
    """{method: "evaluation_base/<fingerprint>"}: where its scores lie, relative to the run directory."""
    places: dict[str, str] = {}
    for out, metrics in _metrics(acts):
        places |= dict.fromkeys(metrics, f"{out.stage}/{out.fingerprint}")
    return places


def _metrics(acts: Mapping[str, Act]) -> list[tuple[StageDir, dict[str, dict[str, Any]]]]:
    found = [out for name in METRIC_STAGES if (out := finished(acts, name)) is not None]
    return [(out, json.loads(out.read_text("metrics.json"))) for out in found]


def read_positions(acts: Mapping[str, Act]) -> dict[str, dict[str, Any]]:
    """{dataset: {method: figures}}: where in their thoughts the finished evaluations found the gold answer."""
    merged: dict[str, dict[str, Any]] = {}
    for out, _ in _metrics(acts):
        text = out.find_text("positions.json")
        for dataset, methods in ({} if text is None else json.loads(text)).items():
            merged.setdefault(dataset, {}).update(methods)
    return merged


def read_strata(acts: Mapping[str, Act]) -> dict[str, dict[str, Any]]:
    """{dataset: {"n": ..., "methods": ...}} of the trained model; empty where the base was not asked to think."""
    out = finished(acts, METRIC_STAGES[1])
    text = out.find_text("strata.json") if out is not None else None
    return {} if text is None else json.loads(text)


def read_matrices(out: StageDir) -> Matrices:
    """The matrices of stage `matrices`, states in the order in which they were written."""
    columns = ("probability", "responsibility", "standard_error")
    table = out.read(schema=MATRICES, columns=["matrix", "source", "target", *columns])
    states = tuple(dict.fromkeys(table.column("source").to_pylist()))
    found: dict[str, dict[str, np.ndarray]] = {column: {} for column in columns}
    for name in pc.unique(table.column("matrix")).to_pylist():
        rows = table.filter(pc.equal(table.column("matrix"), name))
        for column in columns:
            found[column][name] = square(rows, column=column, states=states, missing=0.0)
    return Matrices(states, *found.values())


def read_chain(out: StageDir) -> Chain:
    """The matrix of all trajectories of a stage that fits P, with its replicates."""
    table = out.read(schema=MATRICES).filter(pc.field("matrix") == "all")
    states = tuple(dict.fromkeys(table.column("source").to_pylist()))
    P_KK, support_KK = (
        square(table, column=column, states=states, missing=0.0) for column in ("probability", "responsibility")
    )
    drawn_BE = np.array(table.column("replicates").to_pylist(), dtype=np.float64).reshape(table.num_rows, -1).T
    replicates_BKK = np.zeros((len(drawn_BE), *P_KK.shape))
    replicates_BKK[:, *_places(table, states=states)] = drawn_BE
    return Chain(states, P_KK, support_KK, replicates_BKK)


def read_macros(acts: Mapping[str, Act]) -> dict[str, str]:
    """The macro-strategy of each label as the first finished annotation wrote it; empty without one."""
    for name in ("annotation", "thoughts_annotation_base", "thoughts_annotation"):
        out = finished(acts, name)
        text = out.find_text("taxonomy.json") if out is not None else None
        if text is not None:
            return dict(json.loads(text)["macro"])
    return {}


def read_edges(out: StageDir) -> pa.Table:
    """What stage `weights` says of every transition: a table of schema.EDGES."""
    return StageDir(f"{out.uri}/edges", stage=out.stage, fingerprint=out.fingerprint).read(schema=EDGES)


def square(rows: pa.Table, *, column: str, states: Sequence[str], missing: Any) -> np.ndarray:
    """A column of rows with a source and a target each as (K, K); `missing` where no row stands, nan for null."""
    values = rows.column(column).to_numpy(zero_copy_only=False)
    square_KK = np.full((len(states), len(states)), missing, dtype=object if isinstance(missing, str) else np.float64)
    square_KK[_places(rows, states=states)] = values
    return square_KK


def _places(rows: pa.Table, *, states: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each row's source and target in a square of the states."""
    place = pa.array(states, pa.string())
    source, target = (pc.index_in(rows.column(side), value_set=place).to_numpy() for side in ("source", "target"))
    return source, target


def read_labelling(out: StageDir) -> Labelling:
    """Labels and rules of stage `annotation`, counted part by part."""
    trajectories: Counter[int] = Counter()
    labels: dict[int, Counter[str]] = {}
    rules: Counter[str] = Counter()
    for name in out.parts():
        part = out.read_parts([name], schema=ANNOTATIONS, columns=["polarity", "steps"])
        trajectories.update(part.column("polarity").to_pylist())
        for polarity in pc.unique(part.column("polarity")).to_pylist():
            steps = part.filter(pc.equal(part.column("polarity"), polarity)).column("steps").combine_chunks().flatten()
            rules.update(pc.struct_field(steps, "rule").to_pylist())
            labels.setdefault(polarity, Counter()).update(pc.struct_field(steps, "labels").flatten().to_pylist())
    return Labelling(trajectories, labels, rules)


def read_history(out: StageDir) -> list[dict[str, Any]]:
    """One row an optimizer step."""
    return [json.loads(line) for line in out.read_text("metrics.jsonl").splitlines()]
