"""What stages are expected to take, for the time left of a run."""

import pytest

from mralign.config import load
from mralign.plan import pipeline
from mralign.plan.shipped_run import SHIPPED
from mralign.plan.stage_seconds import expected_seconds
from mralign.presets import PRESETS
from mralign.run.store import Manifest

HALF = [
    'questions.train=[{name: w, path: "pkg://mralign.miniworld/data/questions/train.jsonl", limit: 300}]',
    'questions.test=[{name: w, path: "pkg://mralign.miniworld/data/questions/test.jsonl", limit: 60}]',
]


def config_of(tmp_path, *overrides):
    return load("miniworld", overrides=[f"run.dir={tmp_path}/run", *HALF, *overrides], presets_dir=PRESETS)


def sealed(config, seconds, **figures):
    """The stage `questions`, finished in so many seconds."""
    item = pipeline.survey(config)[0]
    item.out.seal(Manifest("questions", item.out.fingerprint, {}, {}, item.inputs, 1, 1, {}, seconds, {}, figures))


def test_half_the_questions_of_the_shipped_run_take_half_of_its_time(tmp_path):
    """It had 600 to train on and 240 held out; a second epoch of four is half a training of half the questions."""
    config = config_of(tmp_path, "training.epochs=2")
    found = expected_seconds(config, pipeline.survey(config))
    assert (SHIPPED.train, SHIPPED.held_out, SHIPPED.epochs) == (600, 240, 4)
    assert found["rollouts"] == pytest.approx(SHIPPED.seconds["rollouts"] / 2)
    assert found["responses"] == pytest.approx(SHIPPED.seconds["responses"] / 4)
    assert found["training"] == pytest.approx(SHIPPED.seconds["training"] / 4)


def test_what_is_done_is_expected_to_take_nothing(tmp_path):
    config = config_of(tmp_path)
    sealed(config, 9.0, train=300, test=60, dev=0)
    found = expected_seconds(config, pipeline.survey(config))
    assert "questions" not in found
    assert found["rollouts"] == pytest.approx(SHIPPED.seconds["rollouts"] / 2)


def test_a_result_without_figures_ends_no_run(tmp_path):
    config = config_of(tmp_path)
    sealed(config, 9.0)
    found = expected_seconds(config, pipeline.survey(config))
    assert found["rollouts"] == SHIPPED.seconds["rollouts"]  # of how many questions is not known: as many as it had
