"""A study of two parts: candidates are told apart on some worlds, and the chosen one is tested on others."""

from itertools import product
from pathlib import Path

import pytest
import yaml
from measured_rows import row

from mralign.cli.commands import run as run_command
from mralign.comparison import study
from mralign.comparison.choice import choose_method
from mralign.comparison.run_rows import read_rows
from mralign.comparison.study_page import write_page
from mralign.comparison.study_plan import read_plan
from mralign.presets import STUDIES

KEPT = Path(__file__).parents[2] / "docs" / "results"
CANDIDATES = ["mralign-normalised", "mralign-zero-floor"]
MINUTE = yaml.safe_load((STUDIES / "minute.yaml").read_text())
TWO_PARTS = MINUTE | {"worlds": [1], "choice": {"candidates": CANDIDATES, "worlds": [0], "seeds": [2]}}


def written(path, **changes):
    path.write_text(yaml.safe_dump(TWO_PARTS | changes))
    return read_plan(str(path))


def test_the_worlds_of_the_published_plan_are_those_that_were_written_down():
    plan = read_plan("better-weights")  # every hash is checked
    choice = [world for world in plan.worlds if world.factor == "choice"]
    test = [world for world in plan.worlds if world.factor == "centre"]
    assert [world.knobs.seed for world in choice] == [300, 301, 302]
    assert [world.knobs.seed for world in test] == [400, 401, 402, 403, 404, 405, 406, 407]
    first = read_plan("weights").worlds[0].knobs
    assert {world.knobs.__class__(**{**vars(world.knobs), "seed": 0}) for world in plan.worlds} == {first}
    assert choice[0].grid.methods == plan.candidates
    assert choice[0].grid.rates == read_plan("weights").worlds[0].grid.rates


def test_while_nothing_is_chosen_only_the_worlds_of_the_choice_are_ready(tmp_path):
    open_plan, closed = written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml", chosen="mralign-zero-floor")
    assert [world.name for world in open_plan.ready] == ["choice-0"]
    assert "1 worlds, 4 trainings" in open_plan.cost()
    assert [world.name for world in closed.ready] == ["choice-0", "centre-1"]
    assert closed.ready[1].grid.methods == ("kto", "mralign", "mralign-zero-floor")
    with pytest.raises(ValueError, match="has chosen 'kto'; allowed are its candidates"):
        written(tmp_path / "c.yaml", chosen="kto")


def test_the_best_mean_over_worlds_is_chosen_and_a_tie_goes_to_the_first():
    """a: worlds .5 and .9, mean .7; b: (.6 + .8) / 2 and .6, mean .65, though its rows have the mean .667."""
    values = [("a", "u", 1, 0.5), ("a", "v", 1, 0.9), ("b", "u", 1, 0.6), ("b", "u", 2, 0.8), ("b", "v", 1, 0.6)]
    rows = [row(name, acc=acc, world=world, seed=seed, split="test") for name, world, seed, acc in values]
    rows += [row("b", acc=1.0, world="u"), row("c", acc=1.0, world="u", split="test")]
    assert choose_method(rows, candidates=["b", "a"]) == "a"
    tied = [row(name, acc=0.5, split="test") for name in "ab"]
    assert choose_method(tied, candidates=["b", "a"]) == "b"
    with pytest.raises(ValueError, match=r"\{'a': 2, 'c': 1\} worlds"):
        choose_method(rows, candidates=["a", "c"])


@pytest.mark.long
def test_a_study_of_two_parts_is_run_part_by_part(tmp_path):
    file = tmp_path / "runs.csv"
    assert study.run(written(tmp_path / "plan.yaml"), file=file, cache=tmp_path, workers=1) == []
    rows = read_rows(file)
    assert {row.world for row in rows} == {"choice-0"}
    best = choose_method(rows, candidates=CANDIDATES)
    (other,) = set(CANDIDATES) - {best}
    with pytest.raises(ValueError, match=f"says chosen: {other}, its rule chooses {best}"):
        study.run(written(tmp_path / "plan.yaml", chosen=other), file=file, cache=tmp_path, workers=1)
    study.run(written(tmp_path / "plan.yaml", chosen=best), file=file, cache=tmp_path, workers=1)
    added = read_rows(file)[len(rows) :]
    assert {(row.world, row.method) for row in added} == {("centre-1", m) for m in ("base", "kto", "mralign", best)}


def made_up(plan, *, gain):
    """Rows of a whole study in which a method has its gain in every world; world and seed move all alike."""
    rows = []
    for world in plan.worlds:
        tuning = [(point.method, point.learning_rate) for point in world.grid.tuning(world.name)]
        rows += [row(method, acc=0.5 - rate, world=world.name, rate=rate, steps=8) for method, rate in tuning]
        for method, seed in product(("base", *world.grid.methods), world.grid.seeds):
            acc = 0.6 + world.knobs.seed % 10 / 100 + seed / 1000 + gain.get(method, 0.0)
            steps = None if method == "base" else 8
            rows.append(row(method, acc=acc, world=world.name, seed=seed, split="test", steps=steps))
    return rows


def test_the_page_tells_the_choice_and_the_two_differences(tmp_path):
    text = (STUDIES / "better-weights.yaml").read_text()
    path = tmp_path / "two.yaml"
    values = yaml.safe_load(text) | {"chosen": "mralign-shrunk"}
    path.write_text(yaml.safe_dump(values))
    plan = read_plan(str(path))
    rows = made_up(plan, gain={"mralign-shrunk": 0.05, "mralign": 0.02})
    text = write_page(plan, rows, out=tmp_path)
    assert (tmp_path / "two.md").read_text() == text
    assert "3 of 3 worlds of the choice and 8 of 8 worlds of the test are finished" in text
    assert "The best of the candidates is `mralign-shrunk`" in text
    # Eight worlds with the same sign: p = 2 / 256, twice that by Holm for the first of two.
    assert (
        "| mralign-shrunk − mralign | +0.030 | [+0.030, +0.030] | [+0.030, +0.030] | 0.008 | 0.016 | 8 | pays |" in text
    )
    assert "| mralign-shrunk − kto | +0.050 | [+0.050, +0.050] | [+0.050, +0.050] | 0.008 | 0.016 | 8 | pays |" in text
    with pytest.raises(ValueError, match="says chosen: mralign-shrunk, its rule chooses mralign-held-out"):
        write_page(plan, made_up(plan, gain={"mralign-held-out": 0.1}), out=tmp_path)


def test_a_dry_run_tells_the_cost_of_what_is_ready(tmp_path, capsys):
    written(tmp_path / "plan.yaml")
    assert run_command(["study", "--plan", str(tmp_path / "plan.yaml"), "--dry-run"]) == 0
    assert "study plan: 1 worlds, 4 trainings" in capsys.readouterr().out


def test_the_kept_rows_of_the_study_give_its_page(tmp_path):
    """The page in `docs/results` is that which the command draws from the rows beside it."""
    arguments = ["study", "--plan", "better-weights", "--rows", str(KEPT / "better-weights.csv")]
    assert run_command([*arguments, "--page", str(tmp_path)]) == 0
    assert (tmp_path / "better-weights.md").read_text() == (KEPT / "better-weights.md").read_text()
