"""`python jobs/evaluate.py` as a user starts it, before anything is asked: suites, files, messages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import parsed

from mralign.config import load
from mralign.plan.suites import configure

ROOT = Path(__file__).parents[1]
SUITES = ROOT / "mralign" / "presets" / "suites"
DATA = ROOT.parent / "shared" / "data"


def evaluate(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "jobs/evaluate.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", "HF_HUB_OFFLINE": "1", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def configured(*arguments):
    given = parsed("evaluate", *arguments)
    wanted = {key: given[key] for key in ("model", "adapter", "suite", "data", "benchmarks")}
    return configure(given["settings"] or (), **wanted)


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_suite_loads_and_trains_nothing(path):
    config = load(path.stem, presets_dir=SUITES)
    assert config.questions.test
    assert not config.questions.train


def test_a_model_gives_the_label_and_the_run_directory():
    config = configured("--model", "org/Some Model:v2", "evaluation.draws=2")
    assert config.model.path == "org/Some Model:v2"
    assert (config.evaluation.label, config.run.dir) == ("org_Some_Model_v2", "runs/evaluate/org_Some_Model_v2")
    assert config.evaluation.draws == 2
    assert configured("--model", "m", "run.dir=mine").run.dir == "mine"


def test_no_two_models_share_a_run_directory(tmp_path):
    models = [tmp_path / run / "training" / mark / "model" for run, mark in (("one", "a"), ("one", "b"), ("two", "a"))]
    for path in models:
        path.mkdir(parents=True)
    (tmp_path / "007").mkdir()
    configs = [configured("--model", str(path)) for path in [*models, tmp_path / "007"]]
    configs.append(configured("--model", str(models[0]), "--adapter", "my: adapter"))
    assert [config.evaluation.label for config in configs] == ["one", "one", "two", "007", "one-my_adapter"]
    assert configs[-1].model.adapter == "my: adapter"
    assert len({config.run.dir for config in configs}) == 5


def test_the_configuration_of_a_training_is_evaluated_in_a_directory_of_its_own_only():
    preset = str(ROOT / "mralign" / "presets" / "miniworld.yaml")
    with pytest.raises(ValueError, match="is the configuration of a training, whose run directory is runs/miniworld"):
        configured("--suite", preset)
    config = configured("--suite", preset, "run.dir=runs/other")
    assert (config.questions.train, config.questions.dev, len(config.questions.test)) == ((), (), 1)


def test_files_lie_under_the_data_directory_and_benchmarks_can_be_chosen():
    config = configured("--suite", "paper", "--data", "s3://bucket/data/", "--benchmarks", "sciq,nq_open")
    assert {source.name: source.path for source in config.questions.test} == {
        "nq_open": "s3://bucket/data/NQ-open.dev.jsonl",
        "sciq": "s3://bucket/data/SciQ.zip",
    }
    assert configured("--suite", "quick", "--benchmarks", "sciq", "evaluation.draws=2").evaluation.draws == 2
    assert configured("--data", "d").questions.test[0].path.startswith("pkg://")
    with pytest.raises(ValueError, match="--benchmarks sciqq: not in this suite; allowed are nq_open, sciq, simpleqa"):
        configured("--suite", "quick", "--benchmarks", "sciqq")


@pytest.mark.skipif(not DATA.is_dir(), reason="the published data sets are not here")
def test_the_published_files_fit_the_suites(tmp_path):
    published = {
        "NQ-open.dev.jsonl": DATA / "nq_open" / "NQ-open.dev.jsonl",
        "SciQ.zip": DATA / "sciq" / "SciQ.zip",
        "simple_qa_test_set.csv": DATA / "simpleqa" / "simple_qa_test_set.csv",
        "TruthfulQA.csv": DATA / "truthfulqa" / "TruthfulQA.v1.csv",
        "longfact-objects": DATA / "longfact" / "longfact-objects_gpt4_01-12-2024_noduplicates",
    }
    for name, path in published.items():
        (tmp_path / name).symlink_to(path)
    from mralign.questions.sources import read_batches

    config = configured("--suite", "paper", "--data", str(tmp_path))
    read = {}
    for source in config.questions.test:
        settings = {"format": source.format, "fields": source.fields, "sample": source.sample, "rows": 10_000}
        tables = read_batches(source.path, name=source.name, split="test", **settings)
        read[source.name] = sum(table.num_rows for table, _ in tables)
    assert read == {"nq_open": 3610, "sciq": 1000, "simpleqa": 4326, "truthfulqa": 817, "longfact": 250}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "papr"], "no preset 'papr'"),
        (["--suite", "quick"], "questions.test, source 'nq_open': question file 'NQ-open.dev.jsonl' does not exist"),
        (["evaluation.prompts={gone: '{question}'}"], "evaluation.prompts names ['gone']; allowed are the sources"),
        (["model.path=./gone"], "model.path='./gone' does not exist"),
        (["evaluation.label=a/b"], "evaluation.label: String should match pattern"),
        (["--compare", "a", "b"], "--compare takes no settings"),
        (["--compare", "gone", "gone"], "gone: no evaluation/index.json there; give the directory of a run"),
        (["evaluation.methods=[think_on_ret]"], "think_on_ret needs evaluation.retrieval.engine: bm25 with a corpus"),
        (["evaluation.methods=[think]"], "Input should be 'think_off', 'think_on', 'self_refine'"),
    ],
)
def test_wrong_input_ends_before_ray_starts(tmp_path, arguments, message):
    place = [] if arguments == ["--compare", "gone", "gone"] else [f"run.dir={tmp_path}/run"]
    done = evaluate(*place, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_stages_and_touches_nothing(tmp_path):
    done = evaluate("--dry-run", f"run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["questions", "responses_base", "evaluation_base"]
    assert not (tmp_path / "run").exists()


def test_a_dry_run_of_predictions_leaves_no_questions_behind(tmp_path):
    path, temporary = tmp_path / "mine.jsonl", tmp_path / "temporary"
    path.write_text('{"question": "q", "answers": ["a"], "response": "a"}\n')
    temporary.mkdir()
    done = evaluate("--predictions", path, "--dry-run", TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    assert not [place.name for place in temporary.iterdir() if place.name.startswith("mralign-")]


def test_a_bad_line_of_predictions_ends_in_one_sentence(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "q", "answers": ["a"], "response": "a"}\n{"question": "q", "answers": ["a"]}\n')
    done = evaluate("--predictions", path, "--dry-run")
    assert done.returncode == 2
    assert f"predictions {path}: line 2 has no `response`" in done.stderr
    assert "Traceback" not in done.stderr
    done = evaluate("--predictions", path, "--model", "m")
    assert "leave --model and --adapter out" in done.stderr
