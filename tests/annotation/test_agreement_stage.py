"""From annotated trajectories to agreement.json, with a human's CSV and without, on annotations made by hand."""

import json
import random
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest

from mralign.annotation.agreement import agreement, mean_l1, to_macro
from mralign.annotation.agreement_stage import HUMAN_STAGE, agreement_stage
from mralign.annotation.taxonomy import PAPER
from mralign.config import parse
from mralign.plan import pipeline
from mralign.rows.schema import ANNOTATIONS, HUMAN_FIELDS, HUMAN_STEPS, MATRICES
from mralign.run.part_names import part_name
from mralign.run.rejects import count_reasons
from mralign.run.stage import Context
from mralign.run.store import StageDir
from mralign.transitions.counts import count, select
from mralign.transitions.em import estimate
from mralign.transitions.stage import COUNTS_STAGE, MATRICES_STAGE, annotators_stage

FIELDS = {"cautious": "labels_a", "bold": "labels_b", "final": "labels"}


def step(first, last, a, b, final):
    labels = {"labels_a": a, "labels_b": b, "labels": final}
    return {"first_segment": first, "last_segment": last, "rule": "equal", **labels}


def trajectory(row_id, steps, *, polarity=1):
    return {"row_id": row_id, "question_id": row_id[:1], "dataset": "d", "polarity": polarity, "steps": steps}


def annotated(count):
    """`count` trajectories of one to six steps of one or two segments, labels at random, 0 to 2 of them."""
    draw = random.Random(3)
    rows = []
    for number in range(count):
        steps, first = [], 0
        for _ in range(draw.randint(1, 6)):
            last = first + draw.randint(0, 1)
            a, b = (draw.sample(PAPER.labels[:5], draw.randint(0, 2)) for _ in range(2))
            steps.append(step(first, last, a, draw.choice((a, b)), draw.choice((a, a[::-1], b, []))))
            first = last + 1
        rows.append(trajectory(f"q{number}/on/0", steps, polarity=draw.choice((1, -1, 0))))
    return rows


def stage_dir(home, name):
    return StageDir(f"{home}/{name}/0123", stage=name, fingerprint="0123")


def make_annotation(home, rows, *, part_rows=7):
    out = stage_dir(home, "annotation")
    out.write_text("taxonomy.json", json.dumps({"states": PAPER.states, "macro": dict(PAPER.macro)}))
    for begin in range(0, len(rows), part_rows):
        table = pa.Table.from_pylist(rows[begin : begin + part_rows], schema=ANNOTATIONS)
        out.commit(part_name(f"{begin:03d}"), table, schema=ANNOTATIONS)
    return out


def config_of(human=None, **transitions):
    books = {"first": "cautious", "second": "bold"}
    annotators = [
        {"name": name, "rule_book": f"pkg://mralign.annotation/rule_books/{book}.yaml"} for book, name in books.items()
    ]
    return parse(
        {
            "questions": {"train": [{"name": "a", "path": "a"}]},
            "annotation": {"annotators": annotators, "human": human},
            "transitions": transitions,
        }
    )


def go(stage, config, home, **upstream):
    """Run one stage; its directory and its outcome."""
    out = stage_dir(home, stage.name)
    return out, stage.run(Context(config, out, upstream))


def matrix(rows, *, field, schema=ANNOTATIONS, labels="all"):
    """The oracle of a matrix: one table of all rows, counted and estimated without a stage."""
    counted = count(pa.Table.from_pylist(rows, schema=schema), states=PAPER.states, field=field, labels=labels)
    return estimate(select(counted, polarities=(1, -1, 0)), K=PAPER.K).P


def expected(rows, *, x, y):
    """The oracle of an entry: plain lists of all steps."""
    left, right = ([s[field] for row in rows for s in row["steps"]] for field in (x, y))
    fine = agreement(left, y=right)
    macro = asdict(agreement(to_macro(left, taxonomy=PAPER), y=to_macro(right, taxonomy=PAPER)))
    return {**asdict(fine), "macro": {name: macro[name] for name in macro if name not in ("steps", "unlabelled")}}


@pytest.mark.integration
@pytest.mark.parametrize("labels", ["all", "single"])
def test_every_pair_has_the_figures_of_plain_lists_and_matrices(local_ray, tmp_path, labels):
    rows, config = annotated(30), config_of(labels=labels)
    annotation = make_annotation(tmp_path, rows)
    matrices, outcome = go(annotators_stage(human=False), config, tmp_path, annotation=annotation)
    assert (outcome.rows_in, outcome.rows_out) == (30, 3 * PAPER.K**2)
    out, found = go(agreement_stage(human=False), config, tmp_path, annotation=annotation, annotator_matrices=matrices)
    assert (found.rows_in, found.rows_out) == (30, 3)
    assert found.figures == {"pairs": json.loads(out.read_text("agreement.json"))}
    assert [entry["pair"] for entry in found.figures["pairs"]] == [list(pair) for pair in combinations(FIELDS, 2)]
    for entry in found.figures["pairs"]:
        x, y = (FIELDS[name] for name in entry["pair"])
        P, other = (matrix(rows, field=field, labels=labels) for field in (x, y))
        assert {name: entry[name] for name in entry if name not in ("pair", "mean_l1")} == expected(rows, x=x, y=y)
        assert entry["mean_l1"] == pytest.approx(mean_l1(P, other=other), abs=1e-15)
        assert 0 < entry["mean_l1"] < 1


@pytest.mark.integration
def test_the_final_labels_matrix_is_the_one_of_the_road_and_parts_do_not_matter(local_ray, tmp_path):
    rows, config = annotated(30), config_of()
    whole = make_annotation(tmp_path / "whole", rows, part_rows=30)
    counts, _ = go(COUNTS_STAGE, config, tmp_path, annotation=whole)
    road, outcome = go(MATRICES_STAGE, config, tmp_path, annotation=whole, counts=counts)
    parts = make_annotation(tmp_path / "parts", rows[::-1], part_rows=2)
    found, figures = go(annotators_stage(human=False), config, tmp_path, annotation=parts)
    P, final = (
        out.read_parts([part_name(name)], schema=MATRICES).column("probability").to_numpy()
        for out, name in ((road, "all"), (found, "annotation-final"))
    )
    assert np.array_equal(P, final)
    assert figures.figures["annotation-final"] == outcome.figures["all"]


HUMAN = """row_id,first_segment,last_segment,labels,confidences,note
p/on/0,0,2,framing,9,
p/on/0,3,3,analogy;retrieval,4;8,"not sure, really"
n/on/0,0,3,,,
short/on/0,0,0,framing,,
gone/on/0,0,0,framing,,
,0,0,framing,,
"""


@pytest.fixture
def labelled(tmp_path):
    """(configuration, annotation, its rows) of three trajectories, two of them well labelled by a human."""
    rows = [
        trajectory("p/on/0", [step(0, 1, ["framing"], ["framing"], ["framing"]), step(2, 3, ["retrieval"], [], [])]),
        trajectory("n/on/0", [step(0, 3, [], ["chaining"], ["chaining"])], polarity=-1),
        trajectory("short/on/0", [step(0, 1, ["framing"], ["chaining"], ["framing"])]),
    ]
    (tmp_path / "human.csv").write_text(HUMAN, encoding="utf-8")
    return config_of(human=str(tmp_path / "human.csv")), make_annotation(tmp_path, rows, part_rows=2), rows


def test_human_steps_and_final_steps_become_common_ones_and_faults_are_rejects(labelled, tmp_path):
    config, annotation, _ = labelled
    out, outcome = go(HUMAN_STAGE, config, tmp_path, annotation=annotation)
    assert (outcome.rows_in, outcome.rows_out, outcome.figures) == (5, 2, {"steps": 4})
    p, n = out.read(schema=HUMAN_STEPS).to_pylist()
    assert (p["row_id"], p["polarity"], n["row_id"], n["polarity"]) == ("p/on/0", 1, "n/on/0", -1)
    fields = ("first_segment", "last_segment", "labels_human", "labels_a", "labels_b", "labels")
    assert [tuple(found[field] for field in fields) for found in (*p["steps"], *n["steps"])] == [
        (0, 1, ["framing"], ["framing"], ["framing"], ["framing"]),
        (2, 2, ["framing"], ["retrieval"], [], []),
        (3, 3, ["retrieval", "analogy"], ["retrieval"], [], []),
        (0, 3, [], [], ["chaining"], ["chaining"]),
    ]
    rejects = {row["row_id"]: row for row in out.read_rejects().to_pylist()}
    assert {row_id: row["reason"] for row_id, row in rejects.items()} == {
        "short/on/0": "invalid_annotation",
        "gone/on/0": "unknown_row",
        "": "unknown_row",
    }
    assert rejects["short/on/0"]["detail"].startswith("segments 1 to 1 are in no step")
    assert rejects["gone/on/0"]["raw"] == "line 6: gone/on/0,0,0,framing,,"


@pytest.mark.integration
def test_a_human_is_one_more_annotator_on_the_trajectories_of_the_human(local_ray, labelled, tmp_path):
    config, annotation, rows = labelled
    human, _ = go(HUMAN_STAGE, config, tmp_path, annotation=annotation)
    given = {"annotation": annotation, "human_labels": human}
    matrices, outcome = go(annotators_stage(human=True), config, tmp_path, **given)
    assert set(outcome.figures) == {
        *("annotation-first", "annotation-second", "annotation-final"),
        *("human_labels-first", "human_labels-second", "human_labels-final", "human_labels-human"),
    }
    _, found = go(agreement_stage(human=True), config, tmp_path, **given, annotator_matrices=matrices)
    entries = {tuple(entry["pair"]): entry for entry in found.figures["pairs"]}
    assert list(entries) == [
        *combinations(FIELDS, 2),
        *(("cautious", "human"), ("bold", "human"), ("final", "human")),
    ]
    common = human.read(schema=HUMAN_STEPS).to_pylist()
    for pair, entry in entries.items():
        some, schema = (common, HUMAN_STEPS) if "human" in pair else (rows, ANNOTATIONS)
        x, y = ({**FIELDS, "human": "labels_human"}[name] for name in pair)
        assert {name: entry[name] for name in entry if name not in ("pair", "mean_l1")} == expected(some, x=x, y=y)
        P, other = (matrix(some, field=field, schema=schema) for field in (x, y))
        assert entry["mean_l1"] == pytest.approx(mean_l1(P, other=other), abs=1e-15)
    # by hand: four common steps; framing, and twice one empty set: entailed; {framing} against {retrieval}: no;
    # {retrieval, analogy} holds {retrieval}
    assert (entries["cautious", "human"]["strict"], entries["cautious", "human"]["entail"]) == (2 / 4, 3 / 4)
    assert (entries["bold", "human"]["strict"], entries["bold", "human"]["entail"]) == (1 / 4, 4 / 4)


@pytest.mark.integration
def test_an_annotator_without_a_label_has_no_matrix_and_ends_no_run(local_ray, tmp_path):
    config, rows = config_of(), [trajectory("p/on/0", [step(0, 0, [], ["framing"], ["framing"])])]
    annotation = make_annotation(tmp_path, rows)
    matrices, outcome = go(annotators_stage(human=False), config, tmp_path, annotation=annotation)
    assert set(outcome.figures) == {"annotation-second", "annotation-final"}
    _, found = go(agreement_stage(human=False), config, tmp_path, annotation=annotation, annotator_matrices=matrices)
    silent, _, agreed = found.figures["pairs"]
    assert (silent["strict"], silent["entail"], silent["unlabelled"], silent["mean_l1"]) == (0, 1, 1, None)
    assert (silent["kappa_strict"], silent["chance"]) == (0, 0)
    assert (agreed["kappa_strict"], agreed["macro"]["kappa_entail"], agreed["mean_l1"]) == (None, None, 0)  # p_e = 1


def test_a_human_file_is_checked_before_anything_runs(tmp_path):
    path = tmp_path / "human.csv"
    config = config_of(human=str(path))
    with pytest.raises(ValueError, match=r"annotation\.human: .*human\.csv does not exist"):
        HUMAN_STAGE.check(config)
    path.write_bytes("row_id,first_segment,last_segment,labels\né,0,0,framing\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"annotation\.human=.*human\.csv is not UTF-8"):
        HUMAN_STAGE.check(config)
    path.write_text("row_id,labels\nr,framing\n")
    with pytest.raises(ValueError, match=r"annotation\.human=.*human\.csv: .*'last_segment'\] are missing"):
        HUMAN_STAGE.check(config)
    path.write_text("row_id,first_segment,last_segment,labels\nr,0,0,framing\n")
    HUMAN_STAGE.check(config)


def test_rejects_of_the_human_count_against_the_limit(labelled, tmp_path):
    config, annotation, _ = labelled
    item = pipeline.Planned(HUMAN_STAGE, stage_dir(tmp_path, "human_labels"), {"annotation": annotation}, {}, {}, None)
    with pytest.raises(ValueError, match=r"stage human_labels: 3 of 5 rows were rejected \(60\.0%\)") as error:
        pipeline.run_stage(config, item)
    assert "human_labels/0123/rejects" in str(error.value)
    assert count_reasons([item.out.read_rejects()]).counts == {"unknown_row": 2, "invalid_annotation": 1}


def test_roles_have_fields_of_the_schemas():
    names = {field.name for field in HUMAN_STEPS.field("steps").type.value_type}
    assert names == {"first_segment", "last_segment", *HUMAN_FIELDS.values()}
