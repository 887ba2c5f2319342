"""What a file of predictions says of its own evaluation, before anything runs."""

import json
from pathlib import Path

import pytest

from mralign.config import RunConfig
from mralign.plan.prediction_runs import configure_predictions

ROWS = [
    {"id": 1, "question": "Capital of France?", "answers": ["Paris", "Paname"], "response": "<think>x</think>Paris"},
    {"question": "Capital of Peru?", "answers": "Lima", "response": "Cusco"},
    {"id": 1, "question": "capital of france", "answers": ["Paris"], "response": "Rome"},
    {"id": 1, "question": "Capital of France?", "answers": ["Paris"], "response": "Paris", "mode": "off"},
]


@pytest.fixture
def file(tmp_path):
    def write(*rows, name="my file.v2.jsonl"):
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


def test_questions_on_the_lines_become_a_source_of_the_run(file, tmp_path):
    home = tmp_path / "run"
    config = configure_predictions([f"run.dir={home}"], path=file(*ROWS))
    assert (config.evaluation.label, config.evaluation.draws) == ("my_file", 2)
    assert [str(way) for way in config.evaluation.methods] == ["think_off", "think_on"]
    (source,) = config.questions.test
    assert source.name == "my_file"
    assert Path(source.path).parent == home / "predictions"
    written = [json.loads(line) for line in Path(source.path).read_text().splitlines()]
    assert written == [
        {"id": "1", "question": "Capital of France?", "answers": ["Paris", "Paname"]},
        {"id": "row1", "question": "Capital of Peru?", "answers": ["Lima"]},
    ]


def test_a_plan_leaves_no_file_in_the_run_directory(file, tmp_path):
    home = tmp_path / "run"
    configure_predictions([f"run.dir={home}"], path=file(*ROWS), keep=False)
    assert not home.exists()


def test_data_sets_are_sources_of_their_own_and_two_files_two_run_directories(file, tmp_path):
    rows = [{**row, "dataset": name} for row in ROWS[:1] for name in ("nq", "sciq")]
    settings = [f"run.dir={tmp_path / 'run'}"]
    config = configure_predictions(settings, path=file(*rows))
    assert [source.name for source in config.questions.test] == ["nq", "sciq"]
    places = [
        configure_predictions([], path=file(*ROWS, name=name), keep=False).run.dir for name in ("a.jsonl", "b.jsonl")
    ]
    assert len(set(places)) == 2
    assert places[0].startswith("runs/evaluate/a-")


def test_a_suite_gives_the_questions_and_settings_win(file):
    path = file({"id": "miniworld/x", "response": "y"})
    config = configure_predictions(["evaluation.label=mine", "evaluation.match=contains"], path=path, suite="miniworld")
    assert [source.name for source in config.questions.test] == ["miniworld"]
    assert (config.evaluation.label, config.evaluation.match, config.evaluation.predictions) == (
        "mine",
        "contains",
        path,
    )
    assert [str(way) for way in config.evaluation.methods] == ["think_off"]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"response": "x"}], {}, r"line 1 has no gold answers; give `answers` on every line, or name the suite"),
        ([{"response": "x", "answers": ["x"]}], {}, "line 1 has no `question`"),
        (
            [ROWS[0], {**ROWS[1], "id": 1}],
            {},
            "line 2: its id '1' is that of another question further up",
        ),
        ([ROWS[0]], {"benchmarks": ["nq"]}, "--data and --benchmarks are of a suite"),
    ],
)
def test_what_is_missing_is_told(file, rows, options, message):
    with pytest.raises(ValueError, match=message):
        configure_predictions([], path=file(*rows), keep=False, **options)


def test_predictions_are_not_trained_on():
    source = {"name": "a", "path": "a.jsonl"}
    values = {"questions": {"train": [source], "test": [source]}, "evaluation": {"predictions": "p.jsonl"}}
    with pytest.raises(ValueError, match=r"evaluation\.predictions are scored as they are, and this run trains"):
        RunConfig.model_validate(values)
