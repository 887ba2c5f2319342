"""The day that templates write for today: settled once for a run, kept where the run lives."""

import datetime
from pathlib import Path

import pytest
from dated_model import DATED, MINIWORLD, copy_of

from mralign.config import load
from mralign.plan import pipeline, template_dates

ROOT = Path(__file__).parents[2]

MONDAY, TUESDAY = datetime.date(2026, 3, 2), datetime.date(2026, 3, 3)


@pytest.fixture
def model(tmp_path):
    return copy_of(MINIWORLD, tmp_path / "model", template=DATED)


def configured(run, model, *overrides):
    given = [f"run.dir={run}", f"model.path={model}", *overrides]
    return load("miniworld", overrides=given, presets_dir=ROOT / "mralign" / "presets")


def marks(config):
    return {item.stage.name: item.out.fingerprint for item in pipeline.survey(config)}


def test_a_run_that_goes_on_tomorrow_asks_as_it_did_today(tmp_path, model):
    config = configured(tmp_path / "run", model)
    first = template_dates.settle(config, today=MONDAY)
    assert first.model.template_date == MONDAY
    assert not (tmp_path / "run").exists()  # a plan writes nothing
    template_dates.remember(first)
    later = template_dates.settle(config, today=TUESDAY)
    assert later == first
    assert marks(later) == marks(first)
    template_dates.remember(later)
    assert (tmp_path / "run" / "template_date.txt").read_text() == "2026-03-02\n"

    other = template_dates.settle(configured(tmp_path / "other", model), today=TUESDAY)
    changed = {name for name, mark in marks(other).items() if mark != marks(first)[name]}
    assert "rollouts" in changed and "questions" not in changed


def test_a_day_of_ones_own_wins(tmp_path, model):
    config = configured(tmp_path / "run", model, "model.template_date=2024-07-26")
    assert template_dates.settle(config, today=MONDAY) == config
    assert config.model.template_date == datetime.date(2024, 7, 26)


def test_a_template_without_a_date_keeps_its_fingerprints(tmp_path):
    config = configured(tmp_path / "run", MINIWORLD)
    assert template_dates.settle(config, today=MONDAY) is config
    template_dates.remember(config)
    assert not (tmp_path / "run").exists()


def test_every_model_of_ours_that_is_asked_gets_the_day(tmp_path, model):
    judge = f"{{name: j, engine: vllm, model: {{path: {model}}}}}"
    config = configured(tmp_path / "run", MINIWORLD, f"evaluation.judge={judge}", f"annotation.adjudicator={judge}")
    settled = template_dates.settle(config, today=MONDAY)
    assert settled.model.template_date is None
    assert settled.evaluation.judge.model.template_date == MONDAY
    assert settled.annotation.adjudicator.model.template_date == MONDAY


def test_a_day_that_is_none_is_told(tmp_path, model):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "template_date.txt").write_text("soon")
    with pytest.raises(ValueError, match=r"template_date\.txt holds 'soon' and no date"):
        template_dates.settle(configured(tmp_path / "run", model))
