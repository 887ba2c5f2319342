"""Which trials a world takes, and how they are run: tuned on dev with one seed, then examined on test with others.

A prepared world, a grid and the rows that are there enter; rows are appended to the table of runs as they are measured.
Every method has the same grid and so the same number of trainings. What is in the table is not measured again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from mralign.comparison.choice import choose
from mralign.comparison.run_rows import BASE, Point, RunRow, append, read_rows
from mralign.comparison.trial import Prepared, Trials

log = logging.getLogger("mralign")


@dataclass(frozen=True)
class RateGrid:
    """What every method is tuned over, and the seeds with which its choice is tested."""

    methods: tuple[str, ...]
    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    tuning_seed: int
    seeds: tuple[int, ...]

    def tuning(self, world: str) -> list[Point]:
        """The trainings of which each method's best is chosen on dev."""
        found = product(self.methods, self.rates, self.epochs)
        return [Point(world, method, rate, epochs, self.tuning_seed) for method, rate, epochs in found]

    def tested(self, world: str, chosen: Iterable[RunRow]) -> list[Point]:
        """The trainings of the choices under each seed."""
        return [
            Point(world, row.method, row.learning_rate, row.epochs, seed) for row, seed in product(chosen, self.seeds)
        ]

    @property
    def trainings(self) -> int:
        """Trainings that a world takes."""
        return len(self.methods) * (len(self.rates) * len(self.epochs) + len(self.seeds))


Run = Callable[[Prepared, Sequence[Point], str], Iterator[list[RunRow]]]


def measure(prepared: Prepared, *, grid: RateGrid, file: Path, run: Run) -> list[RunRow]:
    """The rows of this world: the base on test, the grid on dev, the choices on test. Writes those that are missing."""
    there = {row.key: row for row in read_rows(file)}
    wanted: list[RunRow] = []

    def complete(points: Sequence[Point], split: str) -> list[RunRow]:
        keys = [(point, split, prepared.mark(point.method)) for point in points]
        missing = [point for point, key in zip(points, keys, strict=True) if key not in there]
        for rows in run(prepared, missing, split):
            append(file, rows)
            there.update({row.key: row for row in rows})
            for row in rows:
                log.info("%s %s acc %.3f mis %.3f", row.split, row.point, row.acc, row.mis)
        return [there[key] for key in keys]

    wanted += complete([Point(prepared.world, BASE, 0.0, 0, 0)], "test")
    tuned = complete(grid.tuning(prepared.world), "dev")
    chosen = choose(tuned).values()
    return wanted + tuned + complete(grid.tested(prepared.world, chosen), "test")


def one_by_one(prepared: Prepared, points: Sequence[Point], split: str) -> Iterator[list[RunRow]]:
    """The trials in this process."""
    for point in points:
        yield _trial(prepared, point, split)


@contextmanager
def runner(workers: int) -> Iterator[Run]:
    """What runs trials: this process, or so many others."""
    if workers == 1:
        yield one_by_one
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield _Pooled(pool)


@dataclass(frozen=True)
class _Pooled:
    pool: Executor

    def __call__(self, prepared: Prepared, points: Sequence[Point], split: str) -> Iterator[list[RunRow]]:
        tasks = [self.pool.submit(_trial, prepared, point, split) for point in points]
        for task in tasks:
            yield task.result()


_LOADED: dict[str, Trials] = {}  # of this process: the world it is at


def _trial(prepared: Prepared, point: Point, split: str) -> list[RunRow]:
    if prepared.identity not in _LOADED:
        _LOADED.clear()
        _LOADED[prepared.identity] = Trials(prepared)
    trials = _LOADED[prepared.identity]
    return [trials.of_base()] if point.method == BASE else [trials.run(point, split=split)]
