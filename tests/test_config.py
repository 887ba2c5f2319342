"""Defaults < preset < overrides, and what a wrong configuration is told."""

import math
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from mralign.config import RunConfig, load, parse, resolve_path, to_yaml

ROOT = Path(__file__).parents[1]
PRESETS = ROOT / "mralign" / "presets"
QUESTIONS = {"train": [{"name": "a", "path": "a.jsonl"}]}
NEEDED = {"import-rollouts": ["rollouts.import_on=on.jsonl", "rollouts.import_off=off.jsonl"]}


def wrong(values):
    """What `parse` says of `values`, which has every other thing right."""
    with pytest.raises(ValueError, match="wrong configuration") as error:
        parse({"questions": QUESTIONS, **values})
    return str(error.value)


def preset(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("values", "where", "close", "allowed"),
    [
        ({"trainig": {}}, "trainig", "training", "weights"),
        ({"training": {"learning_rat": 1}}, "training.learning_rat", "learning_rate", "zero_stage"),
        ({"rollouts": {"decoding": {"temprature": 1}}}, "rollouts.decoding.temprature", "temperature", "top_k"),
        ({"questions": {"train": [{"name": "a", "path": "b", "limt": 3}]}}, "questions.train.0.limt", "limit", "path"),
        (
            {"annotation": {"annotators": [{"name": "a", "rule_book": "x"}, {"name": "b", "rule_bok": "y"}]}},
            "annotation.annotators.1.rule_bok",
            "rule_book",
            "engine",
        ),
    ],
)
def test_an_unknown_key_is_told_where_it_is_and_what_is_allowed(values, where, close, allowed):
    (line,) = [line for line in wrong(values).splitlines() if "unknown key" in line]
    assert line.startswith(f"  {where}: unknown key; did you mean {close!r}? allowed here: ")
    assert {close, allowed} <= set(line.split("allowed here: ")[1].split(", "))


def test_an_unknown_key_like_no_other_gets_no_guess():
    assert "training.lora.zzz: unknown key; allowed here: alpha, dropout, modules_to_save, r, target" in wrong(
        {"training": {"lora": {"zzz": 3}}}
    )


def test_wrong_types_and_values_are_all_told_at_once():
    text = wrong({"training": {"epochs": "three", "batch_size": 2.5, "pairs": "all"}, "model": 3})
    assert "training.epochs:" in text and "(given: 'three')" in text
    assert "training.batch_size:" in text and "(given: 2.5)" in text
    assert "training.pairs:" in text and "'batch', 'trl' or 'none'" in text
    assert "  model:" in text
    assert len(text.splitlines()) == 5


def test_defaults_yield_to_the_preset_and_the_preset_to_overrides(tmp_path):
    path = preset(
        tmp_path, "questions: {train: [{name: a, path: b}]}\ntraining: {epochs: 7, beta: 0.5}\nrun: {dir: here}\n"
    )
    assert load(path).training.epochs == 7
    config = load(path, overrides=["training.epochs=2", "training.epochs=9", "rollouts.decoding.top_k=5"])
    assert (config.training.epochs, config.training.beta, config.training.lambda_rejected) == (9, 0.5, 1.5)
    assert (config.rollouts.decoding.top_k, config.rollouts.decoding.top_p) == (5, 0.9)
    assert (config.run.dir, config.weights.clip_max) == ("here", math.e)


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("training.learning_rate=1e-3", "training", "learning_rate", 0.001),
        ("training.max_steps=null", "training", "max_steps", None),
        ("training.max_steps=12", "training", "max_steps", 12),
        ("candidates.keep_neutral=false", "candidates", "keep_neutral", False),
        ("run.dir=s3://bucket/a=b", "run", "dir", "s3://bucket/a=b"),
        (" run.dir = runs/x", "run", "dir", "runs/x"),
        ("questions.dev=[]", "questions", "dev", ()),
    ],
)
def test_an_override_is_section_field_and_a_yaml_value(override, section, field, value):
    config = load("miniworld", overrides=[override], presets_dir=PRESETS)
    assert getattr(getattr(config, section), field) == value


def test_an_override_can_be_a_list_of_sources():
    override = "questions.train=[{name: a, path: x.csv, fields: {answers: gold}}, {name: b, path: y.csv, limit: 2}]"
    sources = load("miniworld", overrides=[override], presets_dir=PRESETS).questions.train
    assert [(s.name, s.path, s.fields, s.limit) for s in sources] == [
        ("a", "x.csv", {"answers": "gold"}, None),
        ("b", "y.csv", {}, 2),
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs", "'training.epochs' is not of the form section.field=value"),
        ("epochs=1", "'epochs=1' is not of the form"),
        ("run.dir.name=3", "dir is no section"),
        ("questions.train=[{name: a", "the value is not valid YAML; quote it"),
        ("training.epoch=1", "training.epoch: unknown key; did you mean 'epochs'"),
        ("training.epochs=0", r"training.epochs: .*greater than or equal to 1 \(given: 0\)"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it(override, message):
    with pytest.raises(ValueError, match=message):
        load("miniworld", overrides=[override], presets_dir=PRESETS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_workers": 3, "workers": 2}, "min_workers=3 is above workers=2"),
        ({"zero_stage": 0}, "zero_stage=0 trains in float32 only"),
        ({"attention": "varlen", "packing": "off"}, "attention=varlen takes packed sequences"),
        ({"kernels": "liger"}, "kernels=liger needs a GPU"),
        (
            {"offload": "optimizer", "zero_stage": 0, "dtype": "float32"},
            "offload=optimizer needs zero_stage 1, 2 or 3; given is 0",
        ),
        ({"offload": "all", "zero_stage": 2}, "offload=all needs zero_stage=3; given is 2"),
        ({"tuning": "qlora", "zero_stage": 3}, "tuning=qlora needs zero_stage 0, 1 or 2"),
    ],
)
def test_what_zero_cannot_do_is_refused(changes, message):
    assert message in wrong({"training": changes})


@pytest.mark.parametrize("given", ["import_on", "import_off"])
def test_imports_come_in_pairs(given):
    assert "rollouts.import_on and rollouts.import_off go together" in wrong({"rollouts": {given: "x.jsonl"}})


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_two_sources_of_a_split_must_not_share_a_name(split):
    twins = [{"name": "twin", "path": "a"}, {"name": "other", "path": "b"}, {"name": "twin", "path": "c"}]
    assert f"questions.{split} names ['twin', 'other', 'twin']" in wrong({"questions": {**QUESTIONS, split: twins}})


def test_questions_are_needed_unless_rollouts_are_imported():
    with pytest.raises(ValueError, match=r"no questions: give questions\.train"):
        parse({})
    assert parse({"rollouts": {"import_on": "a", "import_off": "b"}}).questions.train == ()


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_loads_and_its_yaml_reads_back_equal(path, tmp_path):
    config = load(path.stem, overrides=NEEDED.get(path.stem, []), presets_dir=PRESETS)
    assert config.run.dir == f"runs/{path.stem}"
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load(str(tmp_path / "config.yaml"))
    assert again == config
    assert load(str(tmp_path / "config.yaml"), overrides=["run.seed=1"]) != config


def test_only_the_papers_presets_match_as_the_paper_does():
    paper = load("paper", overrides=NEEDED.get("paper", []), presets_dir=PRESETS)
    assert (paper.candidates.match, paper.evaluation.match) == ("paper", "paper")
    assert load(str(PRESETS / "suites" / "paper.yaml")).evaluation.match == "paper"
    for other in (load("miniworld", presets_dir=PRESETS), parse({"questions": QUESTIONS})):
        assert (other.candidates.match, other.evaluation.match) == ("exact", "exact")
    assert "candidates.match:" in wrong({"candidates": {"match": "papers"}})


def test_a_missing_or_unreadable_preset_says_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"no preset 'miniwrld'.*'import-rollouts', 'miniworld', 'paper'"):
        load("miniwrld", presets_dir=PRESETS)
    with pytest.raises(ValueError, match=r"no preset .*gone\.yaml"):
        load(str(tmp_path / "gone.yaml"), presets_dir=PRESETS)
    with pytest.raises(ValueError, match="is not valid YAML"):
        load(preset(tmp_path, "run: [\n"))
    with pytest.raises(ValueError, match=r"must hold sections .* it holds list"):
        load(preset(tmp_path, "- run\n"))


def test_resolve_path_finds_package_data_and_leaves_other_paths_alone():
    found = Path(resolve_path("pkg://mralign.miniworld/data/model"))
    assert found == ROOT / "mralign" / "miniworld" / "data" / "model"
    for path in ("Qwen/Qwen3-8B", "s3://bucket/pkg://x", "./a b", "/abs/x.jsonl"):
        assert resolve_path(path) == path
    with pytest.raises(ValueError, match=r"pkg://no_such_package/x: no package 'no_such_package' is installed"):
        resolve_path("pkg://no_such_package/x")


def test_a_configuration_is_frozen_at_every_level():
    config = parse({"questions": QUESTIONS})
    assert isinstance(config, RunConfig)
    for owner, name in ((config, "run"), (config.training, "epochs"), (config.training.lora, "r")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, getattr(owner, name))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rollouts": {"prompt": "Answer."}}, "rollouts.prompt='Answer.' does not hold {question}"),
        ({"evaluation": {"prompt": "Q"}}, "evaluation.prompt='Q' does not hold {question}"),
        ({"weights": {"clip_min": 3.0}}, "weights.clip_min=3.0 is above"),
        ({"candidates": {"min_segments": 4, "max_segments": 5}}, "let no thought pass"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse({"questions": {"train": [{"name": "a", "path": "a.jsonl"}]}, **changes})


def test_what_leaves_nothing_out_is_not_written_and_reads_back_equal(tmp_path):
    source = {"name": "a", "path": "a.jsonl"}
    for more, datasets in (({}, []), ({"skip": 3}, ["a"])):
        config = parse({"questions": {"train": [{**source, **more}]}, "training": {"datasets": datasets}})
        text = to_yaml(config)
        assert ("skip" in text, "datasets" in text) == (bool(more), bool(datasets))
        assert load(preset(tmp_path, text)) == config


def test_settings_of_a_files_layout_are_written_and_read_back(tmp_path):
    source = {"name": "a", "path": "a.txt", "file": "csv", "columns": ["q", "a1", "a2"], "skip_lines": "auto"}
    source |= {"fields": {"question": "q", "answers": ["a1", "a2"]}, "answer_is": "number", "delimiter": ";"}
    config = parse({"questions": {"train": [source]}})
    assert config.questions.train[0].fields["answers"] == ("a1", "a2")
    assert load(preset(tmp_path, to_yaml(config))) == config
    with pytest.raises(ValueError, match="delimiter: String should have at most 1 character"):
        parse({"questions": {"train": [{**source, "delimiter": "::"}]}})


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["questions.train=[{name: mine, path: mine.jsonl}]"], True),
        (["rollouts.import_on=a.jsonl", "rollouts.import_off=b.jsonl"], True),
        (["questions.train=[{name: mine, path: mine.jsonl}]", "questions.test=[{name: t, path: t.jsonl}]"], False),
        (["questions.train=[{name: mine, path: mine.jsonl}]", "questions.test=[]", "questions.dev=[]"], False),
        (["questions.train=[{name: mine, path: mine.jsonl}]", "questions.test=[]", "evaluation.split=dev"], True),
        (["training.epochs=1"], False),
    ],
)
def test_my_questions_beside_the_test_set_of_a_preset_are_a_warning(overrides, warned, caplog):
    with caplog.at_level("WARNING", logger="mralign"):
        load("miniworld", overrides=overrides, presets_dir=PRESETS)
    told = "the training questions are yours, but the evaluation asks those of preset miniworld: miniworld"
    assert (told in caplog.text) == warned


def test_a_preset_file_of_ones_own_has_its_own_test_set(tmp_path, caplog):
    own = "questions:\n  train: [{name: a, path: a.jsonl}]\n  test: [{name: t, path: t.jsonl}]\n"
    with caplog.at_level("WARNING", logger="mralign"):
        load(preset(tmp_path, own), overrides=["questions.train=[{name: b, path: b.jsonl}]"])
    assert caplog.text == ""


@pytest.mark.parametrize(
    "options", ["?region=eu-west-1", "?endpoint_override=h:9&scheme=http", "?secret_key=abc", "#x"]
)
def test_options_behind_a_run_directory_are_refused_without_being_shown(options):
    given = {"run": {"dir": f"s3://bucket/run{options}"}, "questions": {"test": [{"name": "a", "path": "a.jsonl"}]}}
    with pytest.raises(ValueError, match="options behind the path are not taken here") as refused:
        parse(given)
    assert "AWS_REGION" in str(refused.value) and "abc" not in str(refused.value)
    given["run"]["dir"] = "runs/what?"  # a local name may hold anything
    assert parse(given).run.dir == "runs/what?"


def test_a_password_in_a_run_directory_is_refused_without_being_shown():
    given = {"run": {"dir": "s3://key:topsecret@bucket/run"}, "questions": {"test": [{"name": "a", "path": "a.jsonl"}]}}
    with pytest.raises(ValueError, match=r"s3://\.\.\.@: a user and a password .* AWS_ACCESS_KEY_ID") as refused:
        parse(given)
    assert "topsecret" not in str(refused.value)
    with pytest.raises(ValueError, match=r"given: 'https://\.\.\.@h/v1\?\.\.\.'"):
        parse({**given, "http": {"concurrency": "https://u:topsecret@h/v1?key=abc"}})
    for place in ("s3://bucket/who@where", "abfs://runs@account.dfs.core.windows.net/a", "gs://anonymous@bucket/a"):
        given["run"]["dir"] = place  # a name, a container, no password
        assert parse(given).run.dir == place
