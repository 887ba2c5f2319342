"""A world takes the trials of its grid once, tests what dev has chosen, and goes on where it was left."""

from collections import Counter

import pytest
from measured_rows import row

from mralign.comparison.run_rows import BASE, read_rows
from mralign.comparison.schedule import RateGrid, measure

GRID = RateGrid(methods=("kto", "mralign"), rates=(1e-3, 2e-3, 4e-3), epochs=(2,), tuning_seed=0, seeds=(1, 2))


class World:
    """A prepared world whose results are a table: the rate 2e-3 is the best for kto, 4e-3 for mralign."""

    world = "w0"

    def mark(self, method):
        return f"mark-{method}"


class Killed(Exception):
    pass


def runner(asked, *, kill_after=10**9):
    def run(prepared, points, split):
        for point in points:
            if len(asked) == kill_after:
                raise Killed
            asked.append((point, split))
            best = {"kto": 2e-3, "mralign": 4e-3}.get(point.method)
            acc = 0.9 if point.learning_rate == best else 0.5
            given = {"world": point.world, "rate": point.learning_rate, "epochs": point.epochs, "seed": point.seed}
            yield [row(point.method, acc=acc, split=split, mark=prepared.mark(point.method), **given)]

    return run


def test_dev_chooses_and_test_asks_the_choices_under_every_seed(tmp_path):
    asked = []
    rows = measure(World(), grid=GRID, file=tmp_path / "runs.csv", run=runner(asked))
    tested = {(p.method, p.learning_rate, p.seed) for p, split in asked if split == "test" and p.method != BASE}
    assert tested == {("kto", 2e-3, 1), ("kto", 2e-3, 2), ("mralign", 4e-3, 1), ("mralign", 4e-3, 2)}
    assert Counter(split for _, split in asked) == {"dev": 6, "test": 5}
    assert GRID.trainings == 10  # 2 methods x (3 rates + 2 seeds); the base is not trained
    assert read_rows(tmp_path / "runs.csv") == rows


@pytest.mark.parametrize("kill_after", range(11))
def test_a_killed_world_goes_on_and_measures_nothing_twice(tmp_path, kill_after):
    first, second = [], []
    file = tmp_path / "runs.csv"
    with pytest.raises(Killed):
        measure(World(), grid=GRID, file=file, run=runner(first, kill_after=kill_after))
    rows = measure(World(), grid=GRID, file=file, run=runner(second))
    assert len(first) == kill_after
    assert len(set(first + second)) == len(first + second) == 11
    assert rows == measure(World(), grid=GRID, file=file, run=runner([], kill_after=0))


def test_another_mark_is_measured_anew(tmp_path):
    class Changed(World):
        def mark(self, method):
            return "changed" if method == "kto" else f"mark-{method}"

    asked = []
    measure(World(), grid=GRID, file=tmp_path / "runs.csv", run=runner([]))
    measure(Changed(), grid=GRID, file=tmp_path / "runs.csv", run=runner(asked))
    assert {point.method for point, _ in asked} == {"kto"}
