"""`mralign config`: what a preset resolves to, what settings mean, and the schema that editors check presets by."""

import json

import jsonschema
import pytest
import yaml
from command_line import ran

from mralign.cli.settings import explained, places, schema_text
from mralign.config import load, parse
from mralign.presets import PRESETS, SUITES

SCHEMA = json.loads((PRESETS / "schema.json").read_text())
SHIPPED = [*sorted(PRESETS.glob("*.yaml")), *sorted(SUITES.glob("*.yaml"))]


def test_the_printed_configuration_is_that_of_the_preset_and_reads_back(capsys):
    status, said, _ = ran(capsys, "config", "--preset", "miniworld", "training.epochs=7", "run.seed=3")
    assert status == 0
    wanted = load("miniworld", overrides=["training.epochs=7", "run.seed=3"], presets_dir=PRESETS)
    assert parse(yaml.safe_load(said)) == wanted


def test_a_suite_is_printed_likewise(capsys):
    status, said, _ = ran(capsys, "config", "--suite", "quick")
    assert status == 0
    assert [source["name"] for source in yaml.safe_load(said)["questions"]["test"]] == ["nq_open", "sciq", "simpleqa"]


def test_a_section_tells_every_setting_with_default_what_is_allowed_and_meaning(capsys):
    status, said, _ = ran(capsys, "config", "weights", "run.dir")
    assert status == 0
    anchor = said.index("weights.anchor=global\n")
    assert "allowed: global, opposite" in said[anchor : said.index("weights.control=none\n")]
    assert "Matrix by which a polarity's probability is divided" in said[anchor:]
    assert "weights.clip_max=2.718\n" in said
    assert "allowed: number above 0" in said
    assert said.endswith("allowed: text; changes speed only\n")  # run.dir


def test_a_section_inside_another_is_named_and_explained():
    assert "training.lora\n" in explained("training")
    assert "mralign config training.lora" in explained("training")
    assert "training.lora.r=32" in explained("training.lora")
    assert "annotation.annotators.engine" in explained("annotation.annotators")


def test_every_place_can_be_asked_for():
    for name in places():
        assert explained(name)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("trainig", "no section or setting 'trainig': did you mean training"),
        ("training.epoch", "no section or setting 'training.epoch': did you mean epochs? allowed in training are"),
        ("x.y", "allowed are run, model, questions"),
        ("training.epochs.more", "allowed are run, model"),
    ],
)
def test_an_unknown_name_is_told_in_one_sentence_with_what_is_near(capsys, word, told):
    status, _, errors = ran(capsys, "config", word)
    assert status == 2
    assert told in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_shipped_schema_is_current(capsys):
    assert (PRESETS / "schema.json").read_text() == schema_text(), (
        "mralign config --schema > mralign/presets/schema.json"
    )
    status, said, _ = ran(capsys, "config", "--schema")
    assert (status, json.loads(said)) == (0, SCHEMA)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_presets_name_the_schema_and_fit_it(path):
    first = path.read_text().splitlines()[0]
    named = path.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert named.resolve() == (PRESETS / "schema.json").resolve()
    jsonschema.Draft202012Validator(SCHEMA).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"training": {"epoch": 3}},
        {"training": {"epochs": "many"}},
        {"weights": {"anchor": "local"}},
        {"training": {"epochs": 0}},
        {"trainin": {}},
    ],
)
def test_the_schema_refuses_what_a_run_refuses(wrong):
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid(wrong)
    with pytest.raises(ValueError, match="wrong configuration"):
        parse({"questions": {"test": [{"name": "q", "path": "q"}]}, **wrong})
