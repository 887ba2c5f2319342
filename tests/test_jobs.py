"""`python jobs/align.py` as a user starts it: exit status and messages."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report.page_words import passages

from mralign.annotation.taxonomy import PAPER
from mralign.config import load, parse
from mralign.plan import pipeline
from mralign.rows.schema import ANNOTATIONS
from mralign.run import local_ray
from mralign.run.store import Manifest

ROOT = Path(__file__).parents[1]
STAGES = (
    *("questions", "rollouts", "candidates", "annotation", "counts", "matrices", "weights", "signal"),
    *("annotator_matrices", "agreement", "examples", "reference", "training"),
    *("responses_base", "evaluation_base", "responses", "evaluation"),
)


def align(run_dir, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "jobs/align.py", f"run.dir={run_dir}", *arguments],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["training.learning_rat=1"], "training.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (["--preset", "miniwrld"], "no preset 'miniwrld'"),
        (["training.epochs"], "override 'training.epochs' is not of the form section.field=value"),
        (["questions.train=[{name: a, path: gone.jsonl}]"], "questions.train, source 'a': question file 'gone.jsonl'"),
        (["--until", "candidate"], "--until 'candidate' is no stage of this run"),
        (["--only", "agreements"], "--only 'agreements' is no stage of this run"),
        (["--only", "agreement", "--until", "weights"], "--until weights and --only agreement exclude each other"),
    ],
)
def test_wrong_input_ends_the_run_before_ray_starts(tmp_path, arguments, message):
    done = align(tmp_path / "run", *arguments, RAY_TMPDIR=str(tmp_path / "ray"))
    assert done.returncode == 2
    assert f"stopped: {message}" in done.stderr.replace("wrong configuration:\n  ", "")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ray").exists()  # where Ray would have put its session
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_every_stage_and_touches_nothing(tmp_path):
    settings = ("training.epochs=1", "evaluation.reannotate=0")
    done = align(tmp_path / "run", "--dry-run", *settings, RAY_TMPDIR=str(tmp_path / "ray"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"run directory: {tmp_path}/run"
    assert [line.split()[0] for line in lines[2:19]] == list(STAGES)
    assert all(line.split()[2:] == ["run"] for line in lines[2:19])
    assert not (tmp_path / "ray").exists()  # where Ray would have put its session
    assert not (tmp_path / "run").exists()


def test_the_papers_preset_is_planned_where_there_is_no_gpu(tmp_path):
    file = tmp_path / "nq.jsonl"
    file.write_text('{"question": "who?", "answer": ["she"]}\n')
    sources = [f"questions.{split}=[{{name: nq_open, path: {file}}}]" for split in ("train", "test")]
    done = align(tmp_path / "run", "--preset", "paper", "--dry-run", *sources)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "GPUs: training takes 4 training workers with 1 GPU each" in lines
    assert [line for line in lines if line.startswith("warning: ")]
    assert not (tmp_path / "run").exists()


def seal(item, **figures):
    """Finish a stage that the test has made by hand, or needs only the name of."""
    versions = {"pyarrow": "26"}
    mark = item.out.fingerprint
    item.out.seal(Manifest(item.stage.name, mark, {}, {}, item.inputs, 2, 2, {}, 1.0, versions, figures))


def annotated(row_id, *pairs):
    """One row of schema.ANNOTATIONS with a step of one segment for each (labels_a, labels_b)."""
    steps = [
        {"first_segment": n, "last_segment": n, "labels": a, "rule": "equal", "labels_a": a, "labels_b": b}
        for n, (a, b) in enumerate(pairs)
    ]
    return {"row_id": row_id, "question_id": row_id[0], "dataset": "d", "polarity": 1, "steps": steps}


@pytest.mark.integration
def test_only_the_agreement_of_an_annotated_run_with_a_human_beside_it(tmp_path):
    run, human = tmp_path / "run", tmp_path / "human.csv"
    human.write_text("row_id,first_segment,last_segment,labels\np/on/0,0,0,framing\np/on/0,1,1,\n")
    config = load("miniworld", overrides=[f"run.dir={run}"], presets_dir=ROOT / "mralign" / "presets")
    road = {item.stage.name: item for item in pipeline.plan(config)}
    out = road["annotation"].out
    out.write_text("taxonomy.json", json.dumps({"states": PAPER.states, "macro": dict(PAPER.macro)}))
    for row in (annotated("p/on/0", (["framing"], ["framing"]), (["analogy"], [])), annotated("n/on/0", ([], []))):
        table = pa.Table.from_pylist([row], schema=ANNOTATIONS)
        out.commit(f"part-{row['question_id']}.parquet", table, schema=ANNOTATIONS)
    for name in ("questions", "rollouts", "candidates", "annotation", "counts"):
        seal(road[name], funnel=[])

    done = align(run, "--only", "agreement", f"annotation.human={human}")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"(\[\d/7\] \w+): (?:starts|done before)", done.stderr) == [
        *("[1/7] questions", "[2/7] rollouts", "[3/7] candidates", "[4/7] annotation"),
        *("[5/7] human_labels", "[6/7] annotator_matrices", "[7/7] agreement"),
    ]
    (written,) = run.glob("agreement/*/agreement.json")
    found = {" ".join(entry["pair"]): entry for entry in json.loads(written.read_text())}
    assert list(found) == [
        *("first second", "first final", "second final"),
        *("first human", "second human", "final human"),
    ]
    assert (found["first second"]["steps"], found["first second"]["strict"]) == (3, 2 / 3)
    assert (found["first human"]["steps"], found["first human"]["strict"]) == (2, 1 / 2)
    assert (found["second human"]["strict"], found["second human"]["mean_l1"]) == (1, 0)
    assert {place.name for place in run.iterdir()} == {
        *("questions", "rollouts", "candidates", "annotation", "counts"),
        *("human_labels", "annotator_matrices", "agreement", "report", "config.yaml", "lease", "logs"),
    }
    page = (run / "report" / "index.html").read_text()
    assert passages(page)["agreement"]["blocks"]
    assert "8 of 26 planned stages finished" in page  # the page keeps what else is finished


def questions(path, *, good, bad):
    rows = [json.dumps({"question": f"what is number {n} ?", "answer": str(n)}) for n in range(good)]
    path.write_text("\n".join(rows + ['{"question": "cut'] * bad) + "\n")
    return [f"questions.train=[{{name: mine, path: {path}}}]", "questions.dev=[]", "questions.test=[]"]


@pytest.mark.integration
def test_malformed_rows_are_kept_as_rejects_up_to_the_limit(tmp_path):
    run = tmp_path / "run"
    done = align(
        run, *questions(tmp_path / "nine.jsonl", good=9, bad=1), "run.reject_limit=0.2", "--until", "questions"
    )
    assert done.returncode == 0, done.stderr
    (directory,) = (run / "questions").iterdir()
    manifest = json.loads((directory / "manifest.json").read_text())
    assert (manifest["rows_in"], manifest["rows_out"], manifest["rejects"]) == (10, 9, {"malformed_json": 1})
    beside_the_page = (run / "config.yaml").read_text()
    (reject,) = pq.read_table(directory / "rejects" / "part-train-00-00000.parquet").to_pylist()
    assert (reject["row_id"], reject["reason"], reject["raw"]) == ("mine/row9", "malformed_json", '{"question": "cut')

    done = align(
        run, *questions(tmp_path / "seven.jsonl", good=7, bad=3), "run.reject_limit=0.2", "--until", "questions"
    )
    assert done.returncode == 2
    (failed,) = (place for place in (run / "questions").iterdir() if place != directory)
    assert "questions.train, source 'mine': " in done.stderr
    assert "3 of 10 records were rejected (30.0%), above run.reject_limit=0.2" in done.stderr
    assert "Reasons: {'malformed_json': 3}. The first: line 8: " in done.stderr
    assert f"Look at {failed}/raw/rejects" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (failed / "manifest.json").exists()
    assert pq.read_table(failed / "raw" / "rejects" / "part-train-00-00000.parquet").num_rows == 3
    assert "questions runs anew: the content of train/mine has changed; the old result stays in " in done.stderr
    assert (run / "config.yaml").read_text() == beside_the_page  # that of the page, not of the run that stopped
    assert "seven.jsonl" in (run / "unfinished" / "config.yaml").read_text()


def test_a_submitted_job_needs_a_run_directory_that_stays(tmp_path):
    environment = {**os.environ, "RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}
    command = [sys.executable, "jobs/align.py", "run.dir=runs/here", "--dry-run"]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 2
    assert "run.dir=runs/here is relative" in found.stderr
    assert "absolute path or a URI" in found.stderr


def test_a_ray_that_did_not_start_in_time_is_started_once_more(monkeypatch):
    """With a stand-in for ray.init: how busy a machine must be for the real one to give up cannot be arranged."""
    import ray

    config = parse({"questions": {"test": [{"name": "q", "path": "q.jsonl"}]}})
    tries = []

    def init(**given):
        tries.append(given)
        if len(tries) == 1:
            raise Exception("The current node timed out during startup.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    local_ray._init(config)
    assert len(tries) == 2
    assert tries[0] == tries[1]
    assert tries[0]["address"] == "local"

    def refuse(**given):
        raise ValueError("another fault")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ValueError, match="another fault"):
        local_ray._init(config)
