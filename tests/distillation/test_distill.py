"""The report of a labeller against plain lists, and the command on a run directory."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from command_line import ran
from taught_panel import FIRST, annotated, candidate, lessons
from tiny_encoder import save_encoder

from mralign.annotation.agreement import agreement, mean_l1
from mralign.annotation.label_sets import members, set_numbers
from mralign.annotation.labeller import PredictedSteps
from mralign.annotation.labeller_file import MANIFEST, read_labeller
from mralign.annotation.taxonomy import PAPER
from mralign.config import load, parse, to_yaml
from mralign.distillation import held_out
from mralign.distillation.held_out import HeldOutWork, distance_interval, interval, report
from mralign.distillation.panel import panel_work
from mralign.distillation.weight_change import WeightSettings
from mralign.plan import pipeline
from mralign.presets import PRESETS
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.part_names import part_name
from mralign.run.store import Directory, Manifest
from mralign.transitions.counts import count, select
from mralign.transitions.em import estimate

COUNT, L = 60, len(PAPER.labels)
NAMES = {"labels_a": "one", "labels_b": "two", "labels": "panel"}


@pytest.fixture(autouse=True)
def few_replicates(monkeypatch):
    monkeypatch.setattr(held_out, "REPLICATES", 20)
    monkeypatch.setattr(held_out, "LEAST_COUNT", 3)


def rows_of(known):
    return [annotated(n, lesson, polarity=(1, -1)[n % 2]) for n, lesson in enumerate(known)]


def work_of(known):
    segments = {f"d/{n}/on/0": lesson.segments for n, lesson in enumerate(known)}
    return panel_work(rows_of(known), segments=segments, states=PAPER.states)


def said(lesson, *, change=None):
    """A sure prediction of the lesson's steps; `change` replaces one label by another."""
    sets = []
    for step in lesson.steps:
        labels = [change[1] if change and label == change[0] else label for label in step.labels]
        sets.append([PAPER.labels.index(label) for label in labels])
    spans = np.array([(step.first_segment, step.last_segment) for step in lesson.steps])
    return PredictedSteps(spans[:, 0], spans[:, 1], np.eye(len(members(L)))[set_numbers(sets, L=L)])


def evidence_of(known, predictions):
    work = work_of(known)
    by_question = dict(zip([lesson.question_id for lesson in known], predictions, strict=True))
    ordered = tuple(by_question[lesson.question_id] for lesson in work.lessons)
    config = parse({"questions": {"train": [{"name": "a", "path": "a"}]}})
    return HeldOutWork(work, ordered, names=NAMES, by=WeightSettings.of(config, states=work.states))


def test_who_says_what_the_panel_says_changes_nothing():
    known = lessons(COUNT)
    found = report(evidence_of(known, [said(lesson) for lesson in known]))
    assert found["agreement"][0]["strict"] == [1.0, 1.0, 1.0]
    assert found["agreement"][0]["mean_l1"] == [0.0, 0.0, 0.0]
    assert found["weights"]["mean_change"] == found["weights"]["largest_change"] == [0.0, 0.0, 0.0]
    assert found["calibration_error"] == pytest.approx(0)
    assert found["panel_steps"] == found["labeller_steps"] == sum(len(lesson.steps) for lesson in known)


def test_the_figures_are_those_of_plain_lists_and_matrices():
    known = lessons(COUNT)
    change = (FIRST["look"], FIRST["check"])
    found = report(evidence_of(known, [said(lesson, change=change) for lesson in known]))
    panel = [set(step.labels) for lesson in known for step in lesson.steps]
    own = [{change[1] if label == change[0] else label for label in labels} for labels in panel]
    wanted, entry = agreement(own, y=panel), found["agreement"][0]
    for name in ("strict", "entail", "kappa_strict", "kappa_entail"):
        value, low, high = entry[name]
        assert value == pytest.approx(getattr(wanted, name))
        assert low < value < high
    tables = [pa.Table.from_pylist(rows_of(known), schema=ANNOTATIONS)]
    for row in (rows := rows_of(known)):
        for step in row["steps"]:
            step["labels"] = [change[1] if label == change[0] else label for label in step["labels"]]
    tables.append(pa.Table.from_pylist(rows, schema=ANNOTATIONS))
    P, other = (
        estimate(select(count(table, states=PAPER.states), polarities=(1, -1)), K=PAPER.K).P for table in tables
    )
    assert entry["mean_l1"][0] == pytest.approx(mean_l1(P, other=other))
    assert [one["pair"] for one in found["agreement"]] == [
        ["labeller", "panel"],
        ["one", "two"],
        ["one", "panel"],
        ["two", "panel"],
    ]
    mean, largest = found["weights"]["mean_change"][0], found["weights"]["largest_change"][0]
    assert 0 < mean < largest <= 2  # from 1/e to e at most
    misplaced = sum(change[0] in step.labels for lesson in known for step in lesson.steps)
    assert found["calibration_error"] > 0 and misplaced


def test_steps_of_its_own_are_compared_wherever_either_has_a_boundary():
    known = [lesson for lesson in lessons(COUNT) if len(lesson.segments) > len(lesson.steps)]
    split = []
    for lesson in known:
        places = np.arange(len(lesson.segments))
        owner = [step for step in lesson.steps for _ in range(step.last_segment - step.first_segment + 1)]
        sets = [[PAPER.labels.index(label) for label in step.labels] for step in owner]
        split.append(PredictedSteps(places, places, np.eye(len(members(L)))[set_numbers(sets, L=L)]))
    found = report(evidence_of(known, split))
    assert found["agreement"][0]["steps"] == found["labeller_steps"] > found["panel_steps"]
    assert found["agreement"][0]["strict"][0] == 1.0
    assert found["agreement"][0]["mean_l1"][0] > 0  # more steps follow one another than in the panel's chains


def test_an_interval_is_of_the_replicates():
    assert interval([5.0, *range(101)]) == [5.0, 2.5, 97.5]
    assert distance_interval([5.0, 6.0, 8.0]) == pytest.approx([5.0, 5 - 1.96 * 2**0.5, 5 + 1.96 * 2**0.5])
    assert distance_interval([0.1, 6.0, 8.0])[1] == 0.0


def run_directory(home, known):
    """A run whose candidates and annotation are finished."""
    config = load("miniworld", overrides=[f"run.dir={home}"], presets_dir=PRESETS)
    planned = {item.stage.name: item for item in pipeline.survey(config)}
    Directory(str(home)).write_text("config.yaml", to_yaml(config))
    candidates = [candidate(n, lesson, polarity=(1, -1)[n % 2]) for n, lesson in enumerate(known)]
    for name, rows, schema in (("candidates", candidates, CANDIDATES), ("annotation", rows_of(known), ANNOTATIONS)):
        item = planned[name]
        item.out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=schema), schema=schema)
        if name == "annotation":
            item.out.write_text("taxonomy.json", json.dumps({"states": PAPER.states}))
        upstream = {stage: out.fingerprint for stage, out in item.upstream.items()}
        mark = item.out.fingerprint
        item.out.seal(Manifest(name, mark, {}, upstream, {}, len(rows), len(rows), {}, 1.0, {}, {}))
    return home


def test_the_command_writes_a_labeller_and_says_how_far_to_trust_it(tmp_path, capsys):
    known = lessons(COUNT)
    run_directory(tmp_path / "run", known)
    status, text, errors = ran(capsys, "distill", str(tmp_path / "run"))
    assert status == 0, errors
    place = tmp_path / "run" / "labeller"
    assert f"learned from {COUNT} trajectories of {COUNT} questions" in text
    assert "labeller – panel" in text and "first – second" in text and "thoughts a second" in text
    assert f"as an annotator: {{name: own, engine: distilled, labeller: {place}}}" in text
    labeller = read_labeller(str(place))
    right = 0
    for lesson in (fresh := lessons(30, seed=7)):
        own = labeller.annotate(lesson.segments).steps
        right += [set(step.labels) for step in own] == [set(step.labels) for step in lesson.steps]
    assert right > 0.8 * len(fresh)
    kept = json.loads((place / MANIFEST).read_text())["report"]
    assert kept["agreement"][0]["strict"][0] > 0.9
    assert labeller.report["agreement"][0]["strict"] == kept["agreement"][0]["strict"]
    assert labeller.report["weight_change"] == kept["weights"]["mean_change"]
    cascade = f"annotation.cascade={{labeller: {place}, budget: 3}}"
    config = load("miniworld", overrides=[f"run.dir={tmp_path}/next", cascade], presets_dir=PRESETS)
    assert config.annotation.cascade.budget == 3


def test_the_command_takes_an_encoder(tmp_path, capsys):
    run_directory(tmp_path / "run", lessons(COUNT))
    encoder = save_encoder(tmp_path / "encoder")
    status, _, errors = ran(capsys, "distill", str(tmp_path / "run"), "--encoder", str(encoder))
    assert status == 0, errors
    labeller = read_labeller(str(tmp_path / "run" / "labeller"))
    assert (labeller.encoder.path, labeller.encoder.dimensions) == (str(encoder), 32)
    status, _, errors = ran(capsys, "distill", str(tmp_path / "run"), "--encoder", str(tmp_path))
    assert status == 2 and "no config.json lies there, so no encoder" in errors


def test_nobody_learns_from_himself(tmp_path):
    known = lessons(4)
    rows = rows_of(known)
    for step in rows[1]["steps"]:
        step["rule"] = "distilled"
    segments = {f"d/{n}/on/0": lesson.segments for n, lesson in enumerate(known)}
    work = panel_work(rows, segments=segments, states=PAPER.states)
    assert [lesson.question_id for lesson in work.lessons] == ["d/0", "d/2", "d/3"]
    assert work.lessons[0] == replace(known[0])


def test_without_an_annotation_the_command_says_how_to_make_one(tmp_path, capsys):
    config = load("miniworld", overrides=[f"run.dir={tmp_path}"], presets_dir=PRESETS)
    Directory(str(tmp_path)).write_text("config.yaml", to_yaml(config))
    status, _, errors = ran(capsys, "distill", str(tmp_path))
    assert status == 2 and "has no finished annotation, from which a labeller learns" in errors
    status, _, errors = ran(capsys, "distill", "s3://bucket/run")
    assert status == 2 and "give --out DIR" in errors
