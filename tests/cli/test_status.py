"""`mralign status`: what is said of run directories in every condition, without a cluster and without writing there."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from command_line import ran
from sealed_run import COLUMNS, planned, rows, seal

from mralign.cli import status as status_command
from mralign.config import load, parse, to_yaml
from mralign.plan import pipeline
from mralign.plan.run_state import expected_rows, read_run
from mralign.presets import PRESETS
from mralign.run import lease
from mralign.run.rejects import Reject, to_table
from mralign.run.store import Directory, Manifest


@pytest.fixture
def run(tmp_path):
    """A run whose questions are finished and whose answers are under way, with rejects."""
    stages = planned(tmp_path / "run", "evaluation.methods=[think_off, think_on]", "evaluation.draws=2")
    seal(stages["questions"], test=40, train=0)
    out = stages["responses_base"].out
    gone = [Reject(f"r{n}", reason, "", "") for n, reason in enumerate(["no_answer", "no_answer", "too_long"])]
    out.commit("part-test-00-00000-aa.parquet", rows(5), schema=COLUMNS, rejects=to_table(gone))
    out.commit("part-test-00-00000-bb.parquet", rows(6), schema=COLUMNS)
    return tmp_path / "run"


def found(state):
    return {stage.name: (stage.state, stage.done, stage.of) for stage in state.stages}


def test_a_run_under_way_tells_rows_rejects_and_its_driver(run, capsys):
    with lease.hold(str(run)):
        status, said, _ = ran(capsys, "status", str(run))
    assert status == 0
    lines = said.splitlines()
    assert lines[0] == f"run directory: {run}"
    assert " ".join(lines[2].split()) == "1 questions finished 7 rows 1 min 01 s rejects: malformed_json 2"
    # 40 questions, two methods, two draws.
    assert "responses_base    under way   11 of 160 rows" in lines[3]
    assert lines[3].endswith("rejects: no_answer 2, too_long 1")
    assert lines[4].split() == ["3", "evaluation_base", "to", "come"]
    assert "pid" in said and "heard of" in said
    assert "may have been killed" not in said
    assert "report          none yet" in said
    assert "next" not in said


def test_a_run_that_was_stopped_says_how_it_goes_on(run, capsys):
    state = read_run(str(run))
    assert found(state)["responses_base"] == ("stopped", 11, 160)
    said = ran(capsys, "status", str(run))[1]
    assert f"mralign evaluate --suite {run}/config.yaml   (goes on" in said
    assert "driver          none" in said


def test_json_says_the_same_for_programs(run, capsys):
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("")
    with lease.hold(str(run)):
        said = json.loads(ran(capsys, "status", str(run), "--json")[1])
    assert [(s["name"], s["state"], s["done"], s["of"]) for s in said["stages"]] == [
        ("questions", "finished", 7, 7),
        ("responses_base", "under way", 11, 160),
        ("evaluation_base", "to come", 0, None),
    ]
    assert said["stages"][1]["rejects"] == {"no_answer": 2, "too_long": 1}
    assert said["stages"][1]["directory"].startswith(f"{run}/responses_base/")
    assert (said["finished"], said["report"], said["faults"]) == (False, f"{run}/report/index.html", [])
    assert len(said["drivers"]) == 1
    age = datetime.now(UTC) - datetime.fromisoformat(said["last_activity"])
    assert timedelta(0) <= age < timedelta(minutes=5)


def test_nothing_is_written_and_a_moved_run_is_read_as_well(run, tmp_path, capsys):
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    before = {path: path.stat().st_mtime_ns for path in moved.rglob("*")}
    state = read_run(str(moved))
    assert found(state)["questions"] == ("finished", 7, 7)
    assert state.uri == str(moved)
    assert {path: path.stat().st_mtime_ns for path in moved.rglob("*")} == before


def test_a_read_only_directory_is_read(run, capsys):
    for path in [*run.rglob("*"), run]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert ran(capsys, "status", str(run))[0] == 0
    finally:
        for path in [run, *run.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_run_on_an_object_store_is_read(bucket, capsys):
    stages = planned("s3://bucket/run")
    seal(stages["questions"], test=40)
    status, said, _ = ran(capsys, "status", "s3://bucket/run")
    assert status == 0
    assert said.startswith("run directory: s3://bucket/run\n")
    assert "questions         finished   7 rows" in said


def test_results_of_other_settings_are_not_those_of_this_run(run):
    other = planned(run, "evaluation.draws=1", "evaluation.methods=[think_off, think_on]")
    assert found(read_run(str(run)))["responses_base"] == ("to come", 0, None)
    seal(other["responses_base"], rows_out=80)
    assert found(read_run(str(run)))["responses_base"] == ("finished", 80, 80)


def test_where_inputs_are_not_at_hand_the_newest_results_that_fit_each_other_are_shown(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "who?", "answer": ["she"]}\n')
    stages = planned(tmp_path / "run", f"questions.test=[{{name: q, path: {file}}}]")
    seal(stages["questions"], test=1)
    seal(stages["responses_base"], rows_out=3, upstream={"questions": "0" * 16})  # of an older run
    file.unlink()
    state = read_run(str(tmp_path / "run"))
    assert found(state)["questions"] == ("finished", 7, 7)
    assert found(state)["responses_base"] == ("to come", 0, None)


@pytest.mark.parametrize(
    ("torn", "told"),
    [
        ("manifest", "manifest.json cannot be read"),
        ("part", "part-test-00-00000-aa.parquet cannot be read"),
        ("rejects", "rejects cannot be read"),
        ("config", "config.yaml cannot be read"),
    ],
)
def test_a_torn_file_is_told_and_the_rest_is_shown(run, capsys, torn, told):
    files = {
        "manifest": next(run.glob("questions/*/manifest.json")),
        "part": next(run.glob("responses_base/*/part-*-aa.parquet")),
        "rejects": next(run.glob("responses_base/*/rejects/*")),
        "config": run / "config.yaml",
    }
    whole = files[torn].read_bytes()
    files[torn].write_bytes(whole[: 20 if torn == "config" else len(whole) // 2])
    status, said, errors = ran(capsys, "status", str(run))
    assert (status, errors) == (0, "")
    assert told in said
    assert "questions" in said and "responses_base" in said
    if torn == "part":
        assert "6 of 160 rows" in said
    if torn == "manifest":
        assert " unreadable " in said
        assert "delete it and run the same command again" in said


@pytest.mark.parametrize("kind", ["gone", "empty", "foreign", "file"])
def test_what_is_no_run_is_told_in_one_sentence(tmp_path, capsys, kind):
    place = tmp_path / kind
    if kind == "file":
        place.write_text("text")
    elif kind != "gone":
        place.mkdir()
    if kind == "foreign":
        (place / "src").mkdir()
        (place / "config.yaml").write_text("server: {port: 80}\n")
    status, said, errors = ran(capsys, "status", str(place))
    assert (status, said) == (2, "")
    wanted = {"gone": "cannot be read", "file": "cannot be read", "empty": "is empty", "foreign": "holds no run"}
    assert wanted[kind] in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_driver_that_was_killed_elsewhere_is_told_as_such(run, capsys):
    long_ago = (datetime.now(UTC) - timedelta(hours=3)).isoformat(timespec="seconds")
    holder = {"state": "held", "job": "mralign align\x1b[2J", "host": "node-7", "pid": 41, "machine": "another"}
    holder |= {"began": 5, "token": "t", "taken": long_ago, "renewed": long_ago}
    (run / "lease").mkdir()
    (run / "lease" / "000001.json").write_text(json.dumps(holder))
    said = ran(capsys, "status", str(run))[1]
    assert "mralign align on node-7, pid 41, since 3 h 00 min" in said
    assert "it may have been killed" in said
    assert "\x1b" not in said


def test_a_training_tells_its_steps(tmp_path):
    config = load("miniworld", overrides=[f"run.dir={tmp_path}/run"], presets_dir=PRESETS)
    Directory(f"{tmp_path}/run").write_text("config.yaml", to_yaml(config))
    stages = {item.stage.name: item for item in pipeline.survey(config)}
    seal(stages["questions"], train=600)
    lines = [json.dumps({"step": step, "of": 150}) for step in (1, 2, 3)]
    stages["training"].out.write_text("metrics.jsonl", "\n".join([*lines, '{"step": 4, "of']))
    state = read_run(f"{tmp_path}/run")
    (training,) = (stage for stage in state.stages if stage.name == "training")
    assert (training.done, training.of, training.unit) == (3, 150, "steps")


def test_expected_rows_follow_from_settings_and_questions():
    source = [{"name": "q", "path": "q.jsonl"}]
    config = parse({"questions": {"train": source, "test": source}, "rollouts": {"n": 3}, "evaluation": {"draws": 2}})
    made = Manifest("questions", "a", {}, {}, {}, 9, 9, {}, 1.0, {}, {"train": 100, "test": 10})
    assert expected_rows("rollouts", config=config, manifests={"questions": made}) == 600
    assert expected_rows("rollouts", config=config, manifests={}) is None
    assert expected_rows("annotation", config=config, manifests={"candidates": made}) == 9
    assert expected_rows("responses_base", config=config, manifests={"questions": made}) == 40  # off and on
    assert expected_rows("matrices", config=config, manifests={"questions": made}) is None


def test_watch_looks_again_until_all_is_finished(run, capsys, monkeypatch):
    state = read_run(str(run))
    left = [stage.name for stage in state.stages if stage.state != "finished"]
    stages = {item.stage.name: item for item in pipeline.survey(state.config)}

    def finish_one(seconds):
        seal(stages[left.pop(0)])

    monkeypatch.setattr(status_command.time, "sleep", finish_one)
    status, said, _ = ran(capsys, "status", str(run), "--watch", "--json")
    assert status == 0
    seen = [json.loads(line) for line in said.splitlines()]
    assert [sum(s["state"] == "finished" for s in one["stages"]) for one in seen] == [1, 2, 3]
    assert [one["finished"] for one in seen] == [False, False, True]


def test_rows_of_a_table_that_share_a_directory_are_shown_one_by_one(tmp_path, capsys):
    run = tmp_path / "run"
    files = []
    for number, draws in enumerate((1, 2), 1):
        stages = planned(run, f"evaluation.draws={draws}", "evaluation.methods=[think_on]")
        seal(stages["questions"], test=40)
        seal(stages["responses_base"], rows_out=40 * draws)
        file = run / "tables" / "mine" / "rows" / f"{number}-row.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").rename(file)
        files.append(file)
    seal(stages["evaluation_base"])  # of the second row
    said = ran(capsys, "status", str(run))[1]
    assert f"no configuration: shown is the newest result of each stage; that of one row: --preset {files[0]}" in said
    shown = [ran(capsys, "status", str(run), "--preset", str(file), "--json")[1] for file in files]
    states = [{s["name"]: (s["state"], s["done"]) for s in json.loads(text)["stages"]} for text in shown]
    assert [state["responses_base"] for state in states] == [("finished", 40), ("finished", 80)]
    assert [state["evaluation_base"][0] for state in states] == ["to come", "finished"]
    status, _, errors = ran(capsys, "status", str(run), "--preset", str(tmp_path / "gone.yaml"))
    assert status == 2
    assert "gone.yaml cannot be read" in errors


def test_the_runs_in_a_directory_of_runs_are_named(run, capsys):
    errors = ran(capsys, "status", str(run.parent))[2]
    assert "holds no run" in errors and "the runs in it are run" in errors
