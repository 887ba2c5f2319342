"""What a run left behind, read from its stage directories.

Planned stages enter; frozen records leave: which stages are finished, the merged metrics, the matrices, counts of
labels and rules, the training history and a few trajectories with labels and weights. This is the only file of the room
that reads stages.

Axes: K states of the chain (row: from, column: to).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mralign.rows.schema import ANNOTATIONS, CANDIDATES, EDGES, MATRICES, WEIGHTS
from mralign.rows.subjects import Subject
from mralign.run.store import Manifest, StageDir

METRIC_STAGES = tuple(subject.stage("evaluation") for subject in Subject)


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


@dataclass(frozen=True)
class TraceStep:
    """A stretch of a thought; labels, rule and weight as far as those stages are finished."""

    text: str
    labels: tuple[str, ...]
    rule: str | None
    weight: float | None


@dataclass(frozen=True)
class Trace:
    """One trajectory to read."""

    row_id: str
    dataset: str
    polarity: int
    question: str
    answers: tuple[str, ...]
    steps: tuple[TraceStep, ...]
    answer: str


def survey(planned: Sequence[PlannedStage]) -> dict[str, Act]:
    """The planned stages by name. Manifests are read anew: a plan is older than what ran after it."""
    return {item.stage.name: Act(item.stage.name, item.out, item.out.manifest()) for item in planned}


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
    return {method: found for _, metrics in _metrics(acts) for method, found in metrics.items()}


def score_places(acts: Mapping[str, Act]) -> dict[str, str]:
    """{method: "evaluation_base/<fingerprint>"}: where its scores lie, relative to the run directory."""
    return {method: f"{out.stage}/{out.fingerprint}" for out, metrics in _metrics(acts) for method in metrics}


def _metrics(acts: Mapping[str, Act]) -> list[tuple[StageDir, dict[str, dict[str, Any]]]]:
    found = [out for name in METRIC_STAGES if (out := finished(acts, name)) is not None]
    return [(out, json.loads(out.read_text("metrics.json"))) for out in found]


def read_positions(acts: Mapping[str, Act]) -> dict[str, dict[str, Any]]:
    """{dataset: {method: figures}}: where in their thoughts the finished evaluations found the gold answer."""
    merged: dict[str, dict[str, Any]] = {}
    for out, _ in _metrics(acts):
        if out.exists("positions.json"):
            for dataset, methods in json.loads(out.read_text("positions.json")).items():
                merged.setdefault(dataset, {}).update(methods)
    return merged


def read_strata(acts: Mapping[str, Act]) -> dict[str, dict[str, Any]]:
    """{dataset: {"n": ..., "methods": ...}} of the trained model; empty where the base was not asked to think."""
    out = finished(acts, METRIC_STAGES[1])
    return json.loads(out.read_text("strata.json")) if out is not None and out.exists("strata.json") else {}


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


def sample_traces(acts: Mapping[str, Act], *, closing: str, count: int = 3) -> list[Trace]:
    """The first trajectories by row id, positives and negatives in turn: chosen by nothing that they say.

    `closing`: the tag that ends a thought.
    """
    candidates = finished(acts, "candidates")
    if candidates is None:
        return []
    annotation, weights = finished(acts, "annotation"), finished(acts, "weights")
    chosen = _choose(annotation or candidates, schema=ANNOTATIONS if annotation else CANDIDATES, count=count)
    steps = _column(annotation, schema=ANNOTATIONS, name="steps", row_ids=chosen)
    step_weights = _column(weights, schema=WEIGHTS, name="step_weights", row_ids=chosen)
    rows = {row["row_id"]: row for row in _rows(candidates, schema=CANDIDATES, row_ids=chosen)}
    return [
        _trace(rows[row_id], steps=steps.get(row_id), weights=step_weights.get(row_id), closing=closing)
        for row_id in chosen
        if row_id in rows
    ]


def _choose(out: StageDir, *, schema: pa.Schema, count: int) -> list[str]:
    table = out.read(schema=schema, columns=["row_id", "polarity"])
    sides = [
        sorted(table.filter(pc.equal(table.column("polarity"), sign)).column("row_id").to_pylist())[:count]
        for sign in (1, -1)
    ]
    in_turn = sorted((place, side, row_id) for side, ids in enumerate(sides) for place, row_id in enumerate(ids))
    return [row_id for _, _, row_id in in_turn[:count]]


def _column(out: StageDir | None, *, schema: pa.Schema, name: str, row_ids: Sequence[str]) -> dict[str, Any]:
    return {row["row_id"]: row[name] for row in _rows(out, schema=schema, row_ids=row_ids)} if out else {}


def _rows(out: StageDir, *, schema: pa.Schema, row_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of these ids; stops at the part that holds the last of them."""
    missing = set(row_ids)
    for name in out.parts():
        if not missing:
            return
        part = out.read_parts([name], schema=schema)
        found = part.filter(pc.is_in(part.column("row_id"), value_set=pa.array(sorted(missing), pa.string())))
        missing -= set(found.column("row_id").to_pylist())
        yield from found.to_pylist()


def _trace(
    row: Mapping[str, Any], *, steps: list[dict[str, Any]] | None, weights: list[float] | None, closing: str
) -> Trace:
    spans = list(zip(row["segment_start"], row["segment_end"], strict=True))
    plain: list[dict[str, Any]] = [
        {"first_segment": i, "last_segment": i, "labels": [], "rule": None} for i in range(len(spans))
    ]
    found = plain if steps is None else steps
    return Trace(
        row_id=row["row_id"],
        dataset=row["dataset"],
        polarity=row["polarity"],
        question=row["question"],
        answers=tuple(row["answers"]),
        steps=tuple(
            TraceStep(
                text=row["text"][spans[step["first_segment"]][0] : spans[step["last_segment"]][1]].strip(),
                labels=tuple(step["labels"]),
                rule=step["rule"],
                weight=weights[number] if weights is not None else None,
            )
            for number, step in enumerate(found)
        ),
        answer=row["text"][row["thought_end"] :].strip().removeprefix(closing).strip(),
    )
