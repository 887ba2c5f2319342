"""Tables of several runs: what a file says, which configurations it makes, and what is read of their runs."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from mralign.comparison import run_tables
from mralign.evaluation.scoring import SCORES
from mralign.plan import pipeline
from mralign.run.part_names import part_name
from mralign.run.store import Manifest

ROOT = Path(__file__).parents[2]
PRESETS = ROOT / "mralign" / "presets"
TABLES = PRESETS / "tables"
TWO = (
    'questions.train=[{name: one, path: "pkg://mralign.miniworld/data/questions/train.jsonl", limit: 300},'
    ' {name: two, path: "pkg://mralign.miniworld/data/questions/train.jsonl", skip: 300}]'
)


def written(tmp_path, **values):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return run_tables.read_table(str(path), tables_dir=TABLES)


def configured(table, *overrides, preset="miniworld"):
    return run_tables.configure(table, preset=preset, overrides=overrides, presets_dir=PRESETS)


def test_a_row_with_a_data_set_in_its_name_is_one_row_for_each():
    rows = {"full": [], "{dataset} only": ["training.datasets=[{dataset}]", "training.epochs=1"], "last": ["a.b=c"]}
    assert run_tables.expand(rows, datasets=["nq_open", "sciq"]) == {
        "full": (),
        "nq_open only": ("training.datasets=[nq_open]", "training.epochs=1"),
        "sciq only": ("training.datasets=[sciq]", "training.epochs=1"),
        "last": ("a.b=c",),
    }
    assert list(run_tables.expand(rows, datasets=["nq_open", "sciq"])) == ["full", "nq_open only", "sciq only", "last"]


@pytest.mark.parametrize("name", ["plain", "2024", "true", "a, b", "with: colon", "#1", "it's", "[x]"])
def test_any_name_of_a_data_set_is_read_back(name):
    (override,) = run_tables.expand({"{dataset}": ["training.datasets=[{dataset}]"]}, datasets=[name])[name]
    assert yaml.safe_load(override.removeprefix("training.datasets=")) == [name]


@pytest.mark.parametrize("preset", ["miniworld", "paper"])
@pytest.mark.parametrize("path", sorted(TABLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_table_loads_and_its_rows_differ(path, preset):
    table = run_tables.read_table(path.stem, tables_dir=TABLES)
    rows = configured(table, TWO, preset=preset)
    assert table.reference in rows
    assert len({config.model_dump_json() for config in rows.values()}) == len(rows)
    assert len({config.run.dir for config in rows.values()}) == 1


def test_the_shipped_tables_hold_the_rows_of_the_paper():
    def rows(name):
        return configured(run_tables.read_table(name, tables_dir=TABLES), TWO)

    main = rows("main")
    assert {name: config.training.method for name, config in main.items()} == {
        "SFT": "sft",
        "KTO": "kto",
        "MR-ALIGN": "mralign",
    }
    assert {config.evaluation.methods for config in main.values()} == {("think_off", "think_on", "self_refine")}
    ablation = rows("ablation")
    told = {
        name: (c.training.datasets, c.transitions.estimator, c.transitions.labels, c.weights.control)
        for name, c in ablation.items()
    }
    assert told == {
        "full": ((), "em", "all", "none"),
        "one only": (("one",), "em", "all", "none"),
        "two only": (("two",), "em", "all", "none"),
        "frequency estimator": ((), "frequency", "all", "none"),
        "single labels": ((), "em", "single", "none"),
        "shuffled weights": ((), "em", "all", "shuffle"),
    }
    assert {c.training.method for c in ablation.values()} == {"mralign"}
    assert [c.training.lambda_rejected for c in rows("lambda").values()] == [1.0, 1.5, 2.0, 2.5]


def test_defaults_preset_base_command_line_row_in_that_order(tmp_path):
    table = written(
        tmp_path,
        base=["training.epochs=7", "training.beta=0.5", "training.batch_size=4"],
        rows={"a": ["training.batch_size=8"], "b": None},
    )
    rows = configured(table, "training.beta=0.25")
    told = {n: (c.training.epochs, c.training.beta, c.training.batch_size, c.rollouts.n) for n, c in rows.items()}
    assert told == {"a": (7, 0.25, 8, 3), "b": (7, 0.25, 4, 3)}
    assert rows["a"].training.lora.r == 16  # the preset's


def test_what_a_table_varies_is_not_given_on_the_command_line(tmp_path):
    table = written(tmp_path, rows={"a": ["training.beta=0.1"], "b": ["training.beta=0.2"], "c": []})
    with pytest.raises(ValueError, match=r"'training.beta=0.3' is what the table varies: rows \['a', 'b'\] set it"):
        configured(table, "training.beta=0.3")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"row": {}}, r"holds \['row'\]; allowed are the keys base, reference and rows"),
        ({"rows": {}}, "has no rows"),
        ({"base": []}, "has no rows"),
        ({"rows": {"a": "training.beta=1"}}, "row 'a': 'training.beta=1' is no list of section.field=value"),
        ({"rows": {"a": ["training.beta"]}}, "is no list of section.field=value"),
        ({"rows": {"a": [{"training.beta": 1}]}}, "is no list of section.field=value"),
        ({"rows": {"a": ["run.dir=elsewhere"]}}, "'run.dir=elsewhere' would part the rows"),
        ({"rows": {"a": []}, "base": ["run.dir=x"]}, "base: 'run.dir=x' would part the rows"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        written(tmp_path, **values)


def test_a_table_that_is_not_there_or_is_no_yaml(tmp_path):
    with pytest.raises(ValueError, match=r"no table 'mian'.*allowed are \['ablation', 'lambda', 'main'\] or the path"):
        run_tables.read_table("mian", tables_dir=TABLES)
    (tmp_path / "bad.yaml").write_text("rows: [")
    with pytest.raises(ValueError, match="is not valid YAML"):
        run_tables.read_table(str(tmp_path / "bad.yaml"), tables_dir=TABLES)
    (tmp_path / "list.yaml").write_text("- rows")
    with pytest.raises(ValueError, match=r"list\.yaml holds list; allowed are the keys"):
        run_tables.read_table(str(tmp_path / "list.yaml"), tables_dir=TABLES)


def test_a_wrong_row_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"table mine, row 'a': wrong configuration:\n.*training.bta: unknown key"):
        configured(written(tmp_path, rows={"b": [], "a": ["training.bta=1"]}))
    with pytest.raises(ValueError, match=r"reference 'c' is no row of table mine; allowed are \['b'\]"):
        configured(written(tmp_path, rows={"b": []}, reference="c"))
    with pytest.raises(ValueError, match=r"a table needs an evaluation, and questions.test is empty"):
        configured(written(tmp_path, rows={"b": []}), "questions.test=[]")


# --- what is read of finished runs ---------------------------------------------------------------------------------


def finish(planned, name, scores):
    """Commit and seal an evaluation with these scores: method -> question -> right or wrong."""
    out = pipeline.find(planned, name).out
    if out.manifest() is not None:
        return
    rows = [
        {"row_id": f"{q}/on/0", "question_id": q, "dataset": "d", "method": method, "acc": acc}
        for method, outcomes in scores.items()
        for q, acc in outcomes.items()
    ]
    out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=SCORES), schema=SCORES)
    means = {method: sum(outcomes.values()) / len(outcomes) for method, outcomes in scores.items()}
    out.write_text("metrics.json", json.dumps({m: {"d": {"kind": "short_answer", "acc": a}} for m, a in means.items()}))
    out.seal(Manifest(name, out.fingerprint, {}, {}, {}, len(rows), len(rows), {}, 1.0, {}))


BASE = {"base_think_on": {"x": False, "y": False}}


def test_the_base_comes_once_and_the_rows_by_their_names(tmp_path):
    table = written(
        tmp_path, rows={"plain": [], "KTO": ["training.method=kto"], "shuffled": ["weights.control=shuffle"]}
    )
    rows = configured(table, f"run.dir={tmp_path}/run")
    outcomes = {"plain": ("mralign", True, True), "KTO": ("kto", True, False), "shuffled": ("mralign-shuffle", 0, 0)}
    places = {}
    for name, (method, x, y) in outcomes.items():
        planned = pipeline.survey(rows[name])
        finish(planned, "evaluation_base", BASE)
        more = {"mralign_ret": {"x": True, "y": False}} if name == "plain" else {}
        finish(planned, "evaluation", {method: {"x": bool(x), "y": bool(y)}, **more})
        places[name] = pipeline.find(planned, "evaluation").out.uri
    measured = run_tables.collect(rows)
    assert {name: found.figures["d"]["acc"] for name, found in measured.items()} == {
        "base_think_on": 0.0,
        "plain": 1.0,
        "plain_ret": 0.5,
        "KTO": 0.5,
        "shuffled": 0.0,
    }
    assert list(measured) == ["base_think_on", "plain", "plain_ret", "KTO", "shuffled"]
    assert f"{tmp_path}/run/{measured['KTO'].place}" == places["KTO"]
    assert measured["plain_ret"].scores.column("method").to_pylist() == ["mralign_ret"] * 2
    found = run_tables.differences(measured, reference="plain", level=0.95, samples=200)
    assert [(row["method"], row["reference"], row["difference"], row["n"]) for row in found] == [
        ("base_think_on", "plain", -1.0, 2),
        ("plain_ret", "plain", -0.5, 2),
        ("KTO", "plain", -0.5, 2),
        ("shuffled", "plain", -1.0, 2),
    ]


def test_a_base_that_a_row_has_changed_stands_under_its_name(tmp_path):
    table = written(tmp_path, rows={"a": [], "b": ["evaluation.match=contains"]})
    rows = configured(table, f"run.dir={tmp_path}/run")
    for config in rows.values():
        planned = pipeline.survey(config)
        finish(planned, "evaluation_base", BASE)
        finish(planned, "evaluation", {"mralign": {"x": True, "y": True}})
    assert list(run_tables.collect(rows)) == ["base_think_on", "b: base_think_on", "a", "b"]


def test_a_row_that_has_the_name_of_a_base_method_is_refused(tmp_path):
    rows = configured(written(tmp_path, rows={"base_think_on": []}), f"run.dir={tmp_path}/run")
    planned = pipeline.survey(rows["base_think_on"])
    finish(planned, "evaluation_base", BASE)
    finish(planned, "evaluation", {"mralign": {"x": True}})
    with pytest.raises(ValueError, match=r"two methods have one name .* rename that row"):
        run_tables.collect(rows)


def test_the_plan_says_what_runs_once(tmp_path):
    table = written(tmp_path, rows={"a": [], "b": ["weights.control=shuffle"], "c": []})
    rows = configured(table, f"run.dir={tmp_path}/run")
    finish(pipeline.survey(rows["a"]), "evaluation_base", BASE)
    lines = run_tables.describe({name: pipeline.survey(config) for name, config in rows.items()}).splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["a", "b", "c"]
    first, second, third = (lines[lines.index(name) + 1 : lines.index(name) + 4] for name in "abc")
    assert first[0].startswith("  run: questions, rollouts, candidates")
    assert first[1] == "  done: evaluation_base"
    anew = second[0].removeprefix("  run: ").split(", ")
    assert anew[:2] == ["weights", "training"]  # and what stands on the trained model
    assert "evaluation" in anew and "evaluation_base" not in anew
    assert second[1].startswith("  shared with a row above: questions, rollouts")
    assert third[0].startswith("  shared with a row above: questions, rollouts")
    assert not any("run:" in line for line in third)
