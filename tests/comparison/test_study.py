"""A study: its plan is fixed, its cost told, and a minute one runs through, is resumed and drawn from its rows."""

import re
import shutil
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from measured_rows import row

from mralign.cli.commands import run as run_command
from mralign.comparison import study
from mralign.comparison.exam import divergence, expected_calibration_error
from mralign.comparison.run_rows import read_rows
from mralign.comparison.study_page import write_page
from mralign.comparison.study_plan import SECONDS, read_plan
from mralign.presets import STUDIES

KEPT = Path(__file__).parents[2] / "docs" / "results"


def test_the_worlds_of_the_study_are_those_that_were_written_down():
    plan = read_plan("weights")  # every hash is checked
    assert len(plan.worlds) == 8 + 19 * 3
    centre = [world for world in plan.worlds if world.factor == "centre"]
    assert all(world.grid.trainings == 6 * (5 + 3) for world in centre)


def test_a_world_that_has_become_another_is_refused(tmp_path):
    text = (STUDIES / "weights.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub("harm: 0.95", "harm: 0.94", text))
    with pytest.raises(ValueError, match=r"centre-0 of the study .* has the hash [0-9a-f]{12}, its file says"):
        read_plan(str(path))
    with pytest.raises(ValueError, match="no study 'gone'; allowed are"):
        read_plan("gone")


def test_a_dry_run_tells_the_cost(capsys):
    assert run_command(["study", "--plan", "minute", "--dry-run"]) == 0
    seconds = 0.4 * SECONDS["base"] + SECONDS["answers"] + 2 * SECONDS["dev"] + 2 * SECONDS["test"]
    assert f"1 worlds, 4 trainings, about {seconds / 60:.0f} minutes" in capsys.readouterr().out


def test_calibration_error_by_hand():
    """Bins [.1, .2) and [.9, 1]: gaps |1 - .12 - .14| and |1 - .9 - .96 - 1.0|, over five rows."""
    probabilities, right = np.array([0.12, 0.14, 0.9, 0.96, 1.0]), np.array([True, False, True, False, False])
    assert expected_calibration_error(probabilities, right_N=right) == pytest.approx((0.74 + 1.86) / 5)
    assert expected_calibration_error(np.full(10, 0.7), right_N=np.arange(10) < 7) == pytest.approx(0)


def test_divergence_is_the_mean_over_completions():
    own, base = [torch.tensor([-1.0, -2.0]), torch.tensor([-1.0])], [torch.tensor([-2.0, -3.0]), torch.tensor([-1.0])]
    assert divergence(own, base) == 1.0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("study")
    assert study.run(read_plan("minute"), file=home / "runs.csv", cache=home, workers=1) == []
    return home


def test_a_minute_study_measures_its_plan(home):
    rows = read_rows(home / "runs.csv")
    assert [(row.method, row.split) for row in rows] == [
        ("base", "test"),
        ("kto", "dev"),
        ("mralign", "dev"),
        ("kto", "test"),
        ("mralign", "test"),
    ]
    base, *trained = (row for row in rows if row.split == "test")
    assert base.kl == 0
    assert all(row.kl > 0 and row.steps == 1 for row in trained)
    assert all(
        0 <= row.ece <= 1 and 0 < row.off_acc < 1 and row.other_acc is not None for row in rows if row.split == "test"
    )
    assert all(row.acc + row.mis <= 1 for row in rows)


def test_a_finished_study_measures_nothing_again_and_a_cut_one_the_rest(home, tmp_path):
    whole = (home / "runs.csv").read_text()
    shutil.copy(home / "runs.csv", tmp_path / "runs.csv")
    study.run(read_plan("minute"), file=tmp_path / "runs.csv", cache=home, workers=1)
    assert (tmp_path / "runs.csv").read_text() == whole
    lines = whole.splitlines(keepends=True)
    (tmp_path / "runs.csv").write_text("".join(lines[:-1]) + lines[-1][:20])
    study.run(read_plan("minute"), file=tmp_path / "runs.csv", cache=home, workers=1)
    without_seconds = [line.rpartition(",")[0] for line in lines]
    assert [line.rpartition(",")[0] for line in (tmp_path / "runs.csv").read_text().splitlines()] == without_seconds


def test_the_page_is_drawn_from_the_rows(home, tmp_path):
    text = write_page(read_plan("minute"), read_rows(home / "runs.csv"), out=tmp_path)
    assert "1 of 1 worlds are finished" in text
    test = {row.method: row for row in read_rows(home / "runs.csv") if row.split == "test"}
    difference = test["mralign"].acc - test["kto"].acc
    assert f"| mralign − kto | {difference:+.3f} | one world |" in text
    assert (tmp_path / "study.md").read_text() == text
    with pytest.raises(ValueError, match="no world of the study minute is finished"):
        write_page(read_plan("minute"), read_rows(home / "runs.csv")[:-1], out=tmp_path)


def made_up(plan):
    """Rows of a whole study: MR-ALIGN is .02 above the others at the centre, and .02 + noise / 10 above them elsewhere;
    seed and world move all methods alike."""
    rows = []
    for world in plan.worlds:
        for point in world.grid.tuning(world.name):
            given = {"world": world.name, "rate": point.learning_rate, "steps": 8}
            rows.append(row(point.method, acc=0.5 - point.learning_rate, **given))
        gain = 0.02 if world.factor == "centre" else 0.02 + world.knobs.noise / 10
        for method, seed in product(("base", *world.grid.methods), world.grid.seeds):
            acc = 0.6 + world.knobs.seed / 100 + seed / 1000 + gain * (method == "mralign")
            steps = None if method == "base" else 8
            rows.append(row(method, acc=acc, world=world.name, seed=seed, split="test", steps=steps))
    return rows


def test_curves_are_drawn_level_by_level_with_the_centre_among_them(tmp_path):
    plan = read_plan("weights", check=False)
    text = write_page(plan, made_up(plan), out=tmp_path)
    assert "65 of 65 worlds are finished" in text
    curve = [line for line in text.splitlines() if line.startswith("| noise |")]
    found = [(line.split(" | ")[1], line.split(" | ")[2]) for line in curve]
    assert found == [
        ("0.0", "+0.020 [+0.020, +0.020]"),
        ("0.1", "+0.020 [+0.020, +0.020]"),  # the centre
        ("0.25", "+0.045 [+0.045, +0.045]"),
        ("0.4", "+0.060 [+0.060, +0.060]"),
    ]
    assert all(line.endswith("| pays |") for line in curve)
    assert "| mralign − kto | +0.020 | [+0.020, +0.020] | [+0.020, +0.020] | 0.008 | 0.039 | 8 | pays |" in text
    for name in ("study-curves.svg", "study-learning.svg"):
        picture = ElementTree.fromstring((tmp_path / name).read_text())
        told = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}title")]
        assert name in text and len(told) > 10
    assert "mralign − kto: 0.060 [0.060, 0.060]" in (tmp_path / "study-curves.svg").read_text()


def test_the_kept_rows_of_the_study_give_its_page(tmp_path):
    """The page and pictures in `docs/results` are those that the command draws from the rows beside them."""
    arguments = ["study", "--rows", str(KEPT / "study.csv"), "--page", str(tmp_path)]
    assert run_command(arguments) == 0
    drawn = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert "study.md" in drawn
    for name, text in drawn.items():
        assert (KEPT / name).read_text() == text, name
        if name.endswith(".svg"):
            assert ElementTree.fromstring(text).tag.endswith("svg")
