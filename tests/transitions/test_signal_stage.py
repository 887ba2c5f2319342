"""The stage and the command on run directories: what they write and say, and that no data can stop them."""

import json

import numpy as np
import pyarrow as pa
import pytest
from command_line import ran
from simulated_walks import LABELS, STATES, annotations, chain, corpus_table, with_edge

from mralign.config import load, to_yaml
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.rows.schema import ANNOTATIONS, EDGE_NOISE, GENERATIONS, HELD_OUT_SCORES
from mralign.run.part_names import part_name
from mralign.run.stage import Context
from mralign.run.store import Directory, Manifest, StageDir
from mralign.transitions import signal, signal_noise, signal_stage


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """What is drawn at random is not what these tests are about."""
    monkeypatch.setattr(signal, "PERMUTATIONS", 19)
    monkeypatch.setattr(signal, "SHUFFLES", 19)
    monkeypatch.setattr(signal_noise, "REPLICATES", 9)
    # In this process, as another would know nothing of these.
    monkeypatch.setattr(signal_stage, "run_tasks", lambda task, given: [task(*one) for one in given])


def with_all_columns(table, schema):
    """Rows of a schema with these values, the others empty."""
    missing = {name: pa.nulls(table.num_rows, schema.field(name).type) for name in schema.names}
    rows = pa.table(missing).to_pylist()
    known = table.to_pylist()
    return pa.Table.from_pylist([empty | row for empty, row in zip(rows, known, strict=True)], schema=schema)


def run_directory(home, table, *overrides):
    """The planned stages of a miniworld run whose annotation and rollouts are finished, and its configuration."""
    config = load("miniworld", overrides=[f"run.dir={home}", *overrides], presets_dir=PRESETS)
    planned = {item.stage.name: item for item in pipeline.survey(config)}
    Directory(str(home)).write_text("config.yaml", to_yaml(config))
    lengths = [{"row_id": row_id, "thought_tokens": 10 + n % 7} for n, row_id in enumerate(table["row_id"].to_pylist())]
    for name, rows, schema in (
        ("rollouts", pa.Table.from_pylist(lengths), GENERATIONS),
        ("annotation", table, ANNOTATIONS),
    ):
        item = planned[name]
        item.out.commit(part_name("0"), with_all_columns(rows, schema), schema=schema)
        if name == "annotation":
            item.out.write_text("taxonomy.json", json.dumps({"states": STATES}))
        upstream = {stage: out.fingerprint for stage, out in item.upstream.items()}
        mark = item.out.fingerprint
        item.out.seal(Manifest(name, mark, {}, upstream, {}, rows.num_rows, rows.num_rows, {}, 1.0, {}, {}))
    return config, planned


def go(config, planned):
    item = planned["signal"]
    return item.out, item.stage.run(Context(config, item.out, item.upstream))


@pytest.fixture
def told_apart():
    return corpus_table(with_edge(chain(), "a", "b", to=0.8), chain(), positives=60, negatives=40, seed=0, draws=2)


def test_the_stage_leaves_a_record_scores_and_edges(tmp_path, told_apart, caplog):
    config, planned = run_directory(tmp_path / "run", told_apart)
    with caplog.at_level("INFO", logger="mralign"):
        out, outcome = go(config, planned)
    record = json.loads(out.read_text("signal.json"))
    assert record["questions"] == {"positive": 30, "negative": 20}
    assert set(record["auc"]) == {"transitions", "transitions_sum", "frequencies", "segments", "tokens"}
    assert record["auc"]["transitions"]["value"] > 0.7
    assert f"signal: {record['sentence']}" in caplog.messages
    assert outcome.figures == record
    assert (outcome.rows_in, outcome.rows_out) == (100, 100)
    scores = out.read(schema=HELD_OUT_SCORES)
    assert sorted(scores["row_id"].to_pylist()) == sorted(told_apart["row_id"].to_pylist())
    edges = StageDir(f"{out.uri}/edges").read(schema=EDGE_NOISE)
    assert edges.num_rows == record["noise"]["edges"]
    again, _ = go(config, planned)
    assert json.loads(again.read_text("signal.json")) == record


def test_what_differs_is_named(tmp_path):
    rng = np.random.default_rng(5)
    shares = ([0.4, 0.3, 0.2, 0.1], [0.15, 0.2, 0.3, 0.35])
    mixed = [list(rng.choice(LABELS, size=12, p=shares[n >= 60])) for n in range(120)]
    ordered = [[*"aabb", *"ccdd"] if n < 60 else [*"abab", *"cdcd"] for n in range(120)]
    same = [list(rng.choice(LABELS, size=12)) for _ in range(120)]
    longer = [list(rng.choice(LABELS, size=6 if n < 60 else 12)) for n in range(120)]
    sides = [1] * 60 + [-1] * 60
    for name, paths, expected in (
        ("mixed", mixed, "frequencies"),
        ("ordered", ordered, "order"),
        ("same", same, "chance"),
        ("longer", longer, "length"),
    ):
        config, planned = run_directory(tmp_path / name, annotations(paths, polarity=sides))
        _, outcome = go(config, planned)
        found = outcome.figures["verdict"]
        assert found == expected or (name, found) == ("same", "unsure")


@pytest.mark.parametrize(("positives", "negatives"), [(0, 0), (5, 0), (0, 5), (1, 5), (2, 2)])
def test_too_little_data_stops_nothing(tmp_path, positives, negatives):
    table = corpus_table(chain(), chain(), positives=positives, negatives=negatives, seed=0)
    config, planned = run_directory(tmp_path / "run", table)
    out, outcome = go(config, planned)
    record = json.loads(out.read_text("signal.json"), parse_constant=pytest.fail)  # no NaN, no Infinity
    assert (record["verdict"] == "nothing") is (min(positives, negatives) < 2)
    assert outcome.rows_out == out.read(schema=HELD_OUT_SCORES).num_rows


def test_every_estimator_and_anchor_is_taken(tmp_path, told_apart):
    table = told_apart.slice(0, 20)
    both = pa.concat_tables([table, told_apart.slice(70, 20)])
    for number, overrides in enumerate(
        (
            ["transitions.preset=converged", "weights.anchor=opposite"],
            ["transitions.estimator=frequency", "transitions.prior=0"],
            ["transitions.labels=single", "weights.clip_min=0.5"],
        )
    ):
        config, planned = run_directory(tmp_path / f"run{number}", both, *overrides)
        out, _ = go(config, planned)
        record = json.loads(out.read_text("signal.json"), parse_constant=pytest.fail)
        assert record["estimator"] == ("em" if number == 2 else "frequency")


def test_the_command_computes_what_is_not_there_and_writes_nothing(tmp_path, told_apart, capsys):
    home = tmp_path / "run"
    run_directory(home, told_apart)
    before = sorted(str(path) for path in home.rglob("*"))
    status, said, _ = ran(capsys, "signal", str(home))
    assert status == 0
    assert said.startswith("held-out AUC of")
    assert said.rstrip().splitlines()[-1].startswith("With 30 positive and 20 negative questions, ")
    status, printed, _ = ran(capsys, "signal", str(home), "--json", "--seed", "9")
    assert status == 0
    record = json.loads(printed)
    assert record["seed"] == 9
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_the_command_reads_what_the_run_has_left(tmp_path, told_apart, capsys):
    home = tmp_path / "run"
    config, planned = run_directory(home, told_apart)
    out, outcome = go(config, planned)
    record = dict(outcome.figures) | {"sentence": "As it was written."}
    out.write_text("signal.json", json.dumps(record))
    upstream = {name: one.fingerprint for name, one in planned["signal"].upstream.items()}
    out.seal(Manifest("signal", out.fingerprint, {}, upstream, {}, 1, 1, {}, 1.0, {}, {}))
    status, said, _ = ran(capsys, "signal", str(home))
    assert (status, said.rstrip().splitlines()[-1]) == (0, "As it was written.")
    _, said, _ = ran(capsys, "signal", str(home), "--seed", "1")
    assert "As it was written." not in said


def test_a_run_of_another_objective_can_be_checked_before_it_is_changed(tmp_path, told_apart, capsys):
    home = tmp_path / "run"
    config = load("miniworld", overrides=[f"run.dir={home}", "training.method=kto"], presets_dir=PRESETS)
    run_directory(home, told_apart)
    Directory(str(home)).write_text("config.yaml", to_yaml(config))
    status, said, _ = ran(capsys, "signal", str(home))
    assert status == 0
    assert "held-out AUC" in said


def test_a_run_without_an_annotation_is_told_what_to_do(tmp_path, capsys):
    config = load("miniworld", overrides=[f"run.dir={tmp_path}"], presets_dir=PRESETS)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    status, _, errors = ran(capsys, "signal", str(tmp_path))
    assert status == 2
    assert "has no finished annotation, which the signal check needs: mralign align --until annotation" in errors
    status, _, errors = ran(capsys, "signal", str(tmp_path / "gone"))
    assert status == 2
    assert "Traceback" not in errors
