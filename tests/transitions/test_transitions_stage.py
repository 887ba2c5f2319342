"""The stages on a real local Ray: a killed mapper, parts that were counted before, and both forms of EM."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mralign.annotation.taxonomy import PAPER
from mralign.config import RunConfig, parse
from mralign.rows.schema import ANNOTATIONS, COUNTS, EDGES, MATRICES, REPLICATED_COUNTS, WEIGHTS
from mralign.run.part_names import part_name
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir
from mralign.transitions import stage as stages
from mralign.transitions.bootstrap import count_replicated, select_replicates
from mralign.transitions.counts import count, of_datasets
from mralign.transitions.em import Settings, estimate_replicated
from mralign.transitions.shelf import Counting
from mralign.transitions.signal_stage import SIGNAL_STAGE
from mralign.transitions.weights_by_settings import weights_in_memory

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("local_ray")]

B = 8


def trajectories(number: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(number)
    return [
        {
            "row_id": f"q{number}-{row}/on/0",
            "question_id": f"q{number}-{row}",
            "segments": 8,
            "dataset": ("nq", "sciq")[row % 2],
            "polarity": (1, -1, 0)[row % 3],
            "steps": [
                {"labels": list(rng.choice(PAPER.labels[:6], size=rng.integers(0, 3), replace=False))}
                for _ in range(rng.integers(1, 9))
            ],
        }
        for row in range(20)
    ]


def table(parts: int) -> pa.Table:
    """All annotations of the first `parts` parts."""
    return pa.Table.from_pylist([row for n in range(parts) for row in trajectories(n)], schema=ANNOTATIONS)


def annotation(home: Path, mark: str, *, parts: int) -> StageDir:
    out = StageDir(f"{home}/annotation/{mark}", stage="annotation", fingerprint=mark)
    out.write_text("taxonomy.json", json.dumps({"states": PAPER.states, "macro": dict(PAPER.macro)}))
    for number in range(parts):
        part = pa.Table.from_pylist(trajectories(number), schema=ANNOTATIONS)
        out.commit(part_name(f"{number:03d}"), part, schema=ANNOTATIONS)
    return out


def config_of(
    *, datasets: tuple[str, ...] = (), weights: dict[str, Any] | None = None, **transitions: Any
) -> RunConfig:
    train = [{"name": name, "path": "a"} for name in ("nq", "sciq")]
    road = {"questions": {"train": train}, "run": {"seed": 4}, "training": {"datasets": datasets}}
    return parse({**road, "weights": weights or {}, "transitions": {"bootstrap": B} | transitions})


def go(stage: Stage, config: RunConfig, home: Path, mark: str, **upstream: StageDir) -> tuple[StageDir, Outcome]:
    out = StageDir(f"{home}/{stage.name}/{mark}", stage=stage.name, fingerprint=mark)
    return out, stage.run(Context(config, out, upstream))


def expected(parts: int) -> pa.Table:
    return count_replicated(table(parts), states=PAPER.states, replicates=B, seed=4)


def watched(place: Path, *, kill_first: bool) -> type[Counting]:
    """Counting that leaves a file for each part it counts; the first that counts is killed before it can."""

    def leave(name: str) -> bool:
        try:
            os.close(os.open(place / name, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    class Watched(Counting):
        def count(self, parquet: bytes) -> pa.Table:
            if kill_first and leave("killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            assert leave(self.key(parquet)), "counted twice"
            return super().count(parquet)

    return Watched


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Begins to watch the counting; called again, the names of what was left since the test began."""

    def begin(*, kill_first: bool = False) -> list[str]:
        place = tmp_path / "watched"
        place.mkdir(exist_ok=True)
        monkeypatch.setattr(stages, "Counting", watched(place, kill_first=kill_first))
        return sorted(path.name for path in place.iterdir())

    return begin


def test_a_killed_mapper_loses_and_doubles_nothing(tmp_path: Path, watch: Callable[..., list[str]]) -> None:
    watch(kill_first=True)
    source = annotation(tmp_path, "a", parts=4)
    out, outcome = go(stages.COUNTS_STAGE, config_of(), tmp_path, "a", annotation=source)
    left = watch()
    assert "killed" in left
    assert len(left) == 1 + 4
    whole = expected(4)
    assert stages.reduce_tree(out, schema=REPLICATED_COUNTS) == whole
    assert StageDir(f"{out.uri}/total").read(schema=COUNTS) == whole.select(COUNTS.names)
    assert outcome.figures == {"transitions": sum(whole.column("count").to_pylist()), "tables": 4}
    assert outcome.rows_in == 80


def test_new_trajectories_only_count_the_new_parts(tmp_path: Path, watch: Callable[..., list[str]]) -> None:
    watch()
    config = config_of()
    first, _ = go(stages.COUNTS_STAGE, config, tmp_path, "a", annotation=annotation(tmp_path, "a", parts=3))
    assert len(watch()) == 3
    more = annotation(tmp_path, "b", parts=4)
    second, _ = go(stages.COUNTS_STAGE, config, tmp_path, "b", annotation=more)
    assert len(watch()) == 4  # the three stood on the shelf: one was counted
    assert stages.reduce_tree(second, schema=REPLICATED_COUNTS) == expected(4)
    for part in first.parts():
        assert second.read_parts([part], schema=REPLICATED_COUNTS) == first.read_parts([part], schema=REPLICATED_COUNTS)
    Path(second.path(second.parts()[1])).unlink()  # as after a kill between the shelf and the stage
    go(stages.COUNTS_STAGE, config, tmp_path, "b", annotation=more)
    assert stages.reduce_tree(second, schema=REPLICATED_COUNTS) == expected(4)
    assert len(watch()) == 4
    other, _ = go(stages.COUNTS_STAGE, config_of(labels="single"), tmp_path, "d", annotation=more)
    assert len(watch()) == 8  # other settings, other counts
    total = StageDir(f"{other.uri}/total").read(schema=COUNTS)
    assert total == count(table(4), states=PAPER.states, labels="single")


def road(home: Path, mark: str, *, parts: int = 3, **transitions: Any) -> dict[str, StageDir]:
    """The three stages on the same annotations."""
    config, done = config_of(**transitions), {"annotation": annotation(home, mark, parts=parts)}
    for stage in (stages.COUNTS_STAGE, stages.MATRICES_STAGE, stages.WEIGHTS_STAGE):
        done[stage.name], _ = go(stage, config, home, mark, **{name: done[name] for name in stage.upstream})
    return done


def test_both_forms_of_em_give_the_matrices_of_one_table(tmp_path: Path) -> None:
    counted = expected(3)
    for mark in ("reduced", "sharded"):
        matrices = stages.read_matrices(road(tmp_path, mark, em=mark)["matrices"], states=PAPER.states)
        for name, polarities in stages.MATRIX_POLARITIES.items():
            counts, n_TB = select_replicates(counted, polarities=polarities)
            whole, *drawn = estimate_replicated(counts, n_TB=n_TB, K=PAPER.K, settings=Settings())
            np.testing.assert_allclose(matrices.P[name], whole.P, rtol=0, atol=1e-12)
            np.testing.assert_allclose(matrices.C[name], whole.C, rtol=0, atol=1e-11)
            np.testing.assert_allclose(matrices.replicates[name], [d.P for d in drawn], rtol=0, atol=1e-12)


def test_standard_errors_and_edges_are_committed(tmp_path: Path) -> None:
    done = road(tmp_path, "a")
    rows = done["matrices"].read(schema=MATRICES).to_pylist()
    for row in rows:
        assert len(row["replicates"]) == B
        assert row["standard_error"] == pytest.approx(np.std(row["replicates"], ddof=1), abs=1e-15)
    assert max(row["standard_error"] for row in rows) > 0.01
    edges = StageDir(f"{done['weights'].uri}/edges").read(schema=EDGES)
    sets = [row for row in edges.to_pylist() if row["level"] == "sets"]
    assert all(row["ratio_standard_error"] > 0 for row in sets)
    total = StageDir(f"{done['counts'].uri}/total").read(schema=COUNTS).to_pylist()
    into_steps = {n: sum(r["count"] for r in total if r["polarity"] == n and r["target"] != 288) for n in (1, -1)}
    assert {n: sum(row["count"] for row in sets if row["polarity"] == n) for n in (1, -1)} == into_steps
    by_weight = {row["weight"] for row in sets} | {1.0}
    given = {w for row in done["weights"].read(schema=WEIGHTS).to_pylist() for w in row["step_weights"]}
    assert given <= by_weight
    assert done["weights"].parts() == done["annotation"].parts()


def test_without_a_bootstrap_there_are_no_errors(tmp_path: Path) -> None:
    done = road(tmp_path, "a", bootstrap=0, em="sharded")
    plain = road(tmp_path, "b", bootstrap=0)
    for row, other in zip(*(d["matrices"].read(schema=MATRICES).to_pylist() for d in (done, plain)), strict=True):
        assert (row["standard_error"], row["replicates"]) == (None, [])
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-12)
    edges = StageDir(f"{done['weights'].uri}/edges").read(schema=EDGES)
    assert edges.column("ratio_standard_error").null_count == edges.num_rows > 0


@pytest.mark.parametrize("datasets", [(), ("nq",)])
def test_every_rule_gives_parts_what_it_gives_a_table_in_memory(tmp_path: Path, datasets: tuple[str, ...]) -> None:
    config, done = config_of(datasets=datasets), {"annotation": annotation(tmp_path, "a", parts=3)}
    for stage in (stages.COUNTS_STAGE, stages.MATRICES_STAGE):
        done[stage.name], _ = go(stage, config, tmp_path, "a", **{name: done[name] for name in stage.upstream})
    whole = of_datasets(table(3), datasets=datasets)
    seen = []
    for rule in ("paper", "shrunk", "zero_floor", "normalised", "second_order", "held_out"):
        for control in ("none", "mean"):
            weights = {"rule": rule, "control": control}
            own = config_of(datasets=datasets, weights=weights)
            upstream = {name: done[name] for name in stages.WEIGHTS_STAGE.upstream}
            out, _ = go(stages.WEIGHTS_STAGE, own, tmp_path, f"{rule}-{control}", **upstream)
            found = out.read(schema=WEIGHTS).column("step_weights").to_pylist()
            expected = weights_in_memory(whole, states=PAPER.states, config=config_of(weights=weights))
            for mine, theirs in zip(found, expected.column("step_weights").to_pylist(), strict=True):
                assert mine == pytest.approx(theirs, rel=1e-12)
            seen.append(found)
    assert all(one != other for place, one in enumerate(seen) for other in seen[:place])


def test_a_rule_changes_the_fingerprint_of_weights_and_the_papers_leaves_it_as_it_was() -> None:
    plain, shrunk = config_of(), config_of(weights={"rule": "shrunk"})
    settings = stages.WEIGHTS_STAGE.settings(plain)
    assert settings["weights"].keys() == {"anchor", "control", "clip_min", "clip_max"}
    changed = stages.WEIGHTS_STAGE.settings(shrunk)
    assert changed == settings | {"weights": settings["weights"] | {"rule": "shrunk"}}
    for stage in (stages.COUNTS_STAGE, stages.MATRICES_STAGE, SIGNAL_STAGE):
        assert stage.settings(plain) == stage.settings(shrunk)


def test_an_empty_polarity_is_named(tmp_path: Path) -> None:
    source = StageDir(f"{tmp_path}/annotation/a", stage="annotation", fingerprint="a")
    source.write_text("taxonomy.json", json.dumps({"states": PAPER.states, "macro": dict(PAPER.macro)}))
    rows = pa.Table.from_pylist([row for row in trajectories(0) if row["polarity"] >= 0], schema=ANNOTATIONS)
    source.commit(part_name("0"), rows, schema=ANNOTATIONS)
    for em in ("reduced", "sharded"):
        counts, _ = go(stages.COUNTS_STAGE, config_of(em=em), tmp_path, em, annotation=source)
        with pytest.raises(
            ValueError, match="no transition of polarity -1 was counted: its matrix cannot be estimated"
        ):
            go(stages.MATRICES_STAGE, config_of(em=em), tmp_path, em, annotation=source, counts=counts)


def alone(home: Path, *, dataset: str, parts: int) -> StageDir:
    """The annotations of one data set, as if there were no other."""
    out = annotation(home, "alone", parts=0)
    for number in range(parts):
        rows = [row for row in trajectories(number) if row["dataset"] == dataset]
        out.commit(part_name(f"{number:03d}"), pa.Table.from_pylist(rows, schema=ANNOTATIONS), schema=ANNOTATIONS)
    return out


@pytest.mark.parametrize("em", ["reduced", "sharded"])
def test_one_data_set_of_two_gives_what_it_gives_alone(tmp_path: Path, em: str) -> None:
    both = annotation(tmp_path, "both", parts=3)
    other = [row for row in trajectories(9) if row["dataset"] == "nq"]  # a part with none of ours
    both.commit(part_name("003"), pa.Table.from_pylist(other, schema=ANNOTATIONS), schema=ANNOTATIONS)
    mean = {"weights": {"control": "mean"}, "em": em}  # it shows in the weights what the summary has summed

    def walk(mark: str, source: StageDir, config: RunConfig) -> tuple[dict[str, StageDir], Outcome]:
        done = {"annotation": source}
        for stage in (stages.COUNTS_STAGE, stages.MATRICES_STAGE, stages.WEIGHTS_STAGE):
            upstream = {name: done[name] for name in stage.upstream}
            done[stage.name], outcome = go(stage, config, tmp_path, mark, **upstream)
        return done, outcome

    chosen, outcome = walk("chosen", both, config_of(datasets=("sciq",), **mean))
    single, expected_outcome = walk("single", alone(tmp_path, dataset="sciq", parts=3), config_of(**mean))
    whole, _ = walk("whole", both, config_of(**mean))
    found, same, all_of_them = (
        stages.read_matrices(done["matrices"], states=PAPER.states) for done in (chosen, single, whole)
    )
    for name in stages.MATRIX_POLARITIES:
        np.testing.assert_allclose(found.P[name], same.P[name], rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.replicates[name], same.replicates[name], rtol=0, atol=1e-12)
        assert np.abs(found.P[name] - all_of_them.P[name]).max() > 0.01
    weights, expected_weights = (
        {row["row_id"]: row["step_weights"] for row in done["weights"].read(schema=WEIGHTS).to_pylist()}
        for done in (chosen, single)
    )
    assert outcome.rows_out == expected_outcome.rows_out == len(weights) == len(expected_weights)
    for row_id, steps in weights.items():
        assert steps == pytest.approx(expected_weights[row_id], abs=1e-9)
    assert outcome.figures["summary"]["mean"] == pytest.approx(expected_outcome.figures["summary"]["mean"])
    edges, expected_edges = (StageDir(f"{d['weights'].uri}/edges").read(schema=EDGES) for d in (chosen, single))
    columns = ["level", "polarity", "source", "target"]
    assert edges.select(columns).to_pylist() == expected_edges.select(columns).to_pylist()
    assert edges.column("count").to_pylist() == pytest.approx(expected_edges.column("count").to_pylist())


def test_a_data_set_changes_the_fingerprint_of_matrices_and_weights_and_of_nothing_when_none_is_named() -> None:
    whole, named, one = (config_of(datasets=names) for names in ((), ("sciq", "nq"), ("nq",)))
    for stage in (stages.MATRICES_STAGE, stages.WEIGHTS_STAGE):
        assert stage.settings(whole) == stage.settings(named)
        assert stage.settings(whole)["training.datasets"] == []
        assert stage.settings(one) == stage.settings(whole) | {"training.datasets": ["nq"]}
    for stage in (stages.COUNTS_STAGE, stages.annotators_stage(human=False)):
        assert stage.settings(whole) == stage.settings(one)
