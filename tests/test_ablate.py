"""`python jobs/ablate.py` as a user starts it: the plan of a table, and the table of rows that are finished."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from mralign.cli import ablate as ablate_command
from mralign.comparison import run_tables
from mralign.config import load
from mralign.evaluation.scoring import SCORES
from mralign.plan import pipeline
from mralign.run.part_names import part_name
from mralign.run.store import Directory, Manifest

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "mralign" / "presets"


def ablate(*arguments):
    return subprocess.run(
        [sys.executable, "jobs/ablate.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_dry_run_says_what_every_row_takes_and_touches_nothing(tmp_path):
    done = ablate("--table", "ablation", "--dry-run", f"run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    plan, _, rows = done.stdout.partition("\n\ntable ablation, row by row\n")
    assert plan.startswith(f"run directory: {tmp_path}/run\n")
    names = [line for line in rows.splitlines() if not line.startswith(" ")]
    assert names == ["full", "miniworld only", "frequency estimator", "single labels", "shuffled weights"]
    block = rows.splitlines()[names.index("full") :]
    shuffled = block[block.index("shuffled weights") + 1]
    anew = shuffled.removeprefix("  run: ").split(", ")
    assert anew[:2] == ["weights", "training"]  # and what stands on the trained model
    assert "evaluation" in anew and "evaluation_base" not in anew
    # One data set alone that is the only one: nothing of it has to be run.
    assert block[block.index("miniworld only") + 1].startswith("  shared with a row above: questions")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "mian"], "no table 'mian'"),
        (["--table", "lambda", "training.lambda_rejected=3"], "'training.lambda_rejected=3' is what the table varies"),
        (["--table", "main", "--preset", "miniwrld"], "no preset 'miniwrld'"),
        (["--table", "main", "training.datasets=[nq]"], "training.datasets names ['nq']"),
        (["--table", "main", "run.rounds=2"], "run.rounds=2: every row of a table is one round"),
        (["--table", "main", "questions.test=[]"], "a table needs an evaluation, and questions.test is empty"),
    ],
)
def test_wrong_input_ends_the_job_before_anything_starts(tmp_path, arguments, message):
    done = ablate(*arguments, f"run.dir={tmp_path}/run")
    assert done.returncode == 2
    assert f"stopped: {message}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def figures(acc):
    return {"nq_open": {"kind": "short_answer", "acc": acc, "acc_ci": [acc - 0.1, acc + 0.1], "mis": None}}


def finish(item, scores):
    """Seal a stage as if it had run; an evaluation with scores: method -> outcomes of questions 0, 1, ..."""
    if item.out.manifest() is not None:
        return
    if scores is not None:
        rows = [
            {"row_id": f"{q}", "question_id": f"{q}", "dataset": "nq_open", "method": method, "acc": acc}
            for method, outcomes in scores.items()
            for q, acc in enumerate(outcomes)
        ]
        item.out.commit(part_name("0"), pa.Table.from_pylist(rows, schema=SCORES), schema=SCORES)
        means = {method: figures(sum(outcomes) / len(outcomes)) for method, outcomes in scores.items()}
        item.out.write_text("metrics.json", json.dumps(means))
    item.out.seal(Manifest(item.stage.name, item.out.fingerprint, {}, {}, item.inputs, 1, 1, {}, 1.0, {}))


def test_finished_rows_become_one_table_with_its_files(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("rows:\n  full: []\n  λ of 2 & more: [training.lambda_rejected=2]\n")
    overrides = [f"run.dir={tmp_path}/run"]
    table = run_tables.read_table(str(mine), tables_dir=PRESETS / "tables")
    rows = run_tables.configure(table, preset="miniworld", overrides=overrides, presets_dir=PRESETS)
    right = {"full": [True] * 8 + [False] * 2, "λ of 2 & more": [True] * 2 + [False] * 8}
    for name, config in rows.items():
        evaluations = {
            "evaluation_base": {"base_think_on": [True] * 5 + [False] * 5},
            "evaluation": {"mralign": right[name]},
        }
        for item in pipeline.survey(config):
            finish(item, evaluations.get(item.stage.name))
    done = ablate("--table", str(mine), "--published", *overrides)
    assert done.returncode == 0, done.stderr
    home = tmp_path / "run" / "tables" / "mine"
    assert [line.split("   ")[0].strip() for line in done.stdout.splitlines()[2:5]] == [
        *("base_think_on", "full", "λ of 2 & more")
    ]
    assert "MR-ALIGN (published, Qwen3-8B)" in done.stdout
    assert f"{home}/table.md" in done.stdout
    found = json.loads((home / "table.json").read_text())
    assert (found["table"], found["reference"]) == ("mine", "full")
    assert [row["values"][0]["value"] for row in found["rows"][:3]] == [0.5, 0.8, 0.2]
    assert [(r["method"], r["difference"], r["p"]) for r in found["comparisons"]] == [
        ("base_think_on", pytest.approx(-0.3), 2 / 2**3),  # three questions, all one way
        ("λ of 2 & more", pytest.approx(-0.6), 2 / 2**6),
    ]
    assert r"$\lambda$ of 2 \& more & 20.0" in (home / "table.tex").read_text()
    assert "| full | **80.0** [70.0, 90.0] | – |" in (home / "table.md").read_text()
    # The configuration of each row is a preset of its own.
    assert sorted(path.name for path in (home / "rows").iterdir()) == ["1-full.yaml", "2-lambda-of-2-more.yaml"]
    assert load(str(home / "rows" / "2-lambda-of-2-more.yaml")) == rows["λ of 2 & more"]
    again = ablate("--table", str(mine), "--published", *overrides)
    assert again.stdout == done.stdout


def test_what_runs_anew_is_said_of_the_first_row_only(tmp_path, monkeypatch):
    """The rows differ from each other by design."""
    said = []
    monkeypatch.setattr(pipeline, "plan", lambda config: [])
    monkeypatch.setattr(pipeline, "run", lambda config, planned, *, start_ray, explain, title: said.append(explain))
    config = load("miniworld", overrides=[f"run.dir={tmp_path}"], presets_dir=PRESETS)
    ablate_command.run_rows({"one": config, "two": config, "three": config}, home=Directory(str(tmp_path)))
    assert said == [True, False, False]
