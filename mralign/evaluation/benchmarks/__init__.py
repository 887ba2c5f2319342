"""Benchmarks: what is measured on a set of questions. One file each; its name is the `kind` of its figures.

A file defines `BENCHMARK`. Nothing else in the project knows the names: the format of a question source says which
benchmark it is, and what reads results asks for the measures here.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from inspect import getsource
from pkgutil import iter_modules

from mralign.config import RunConfig
from mralign.evaluation.benchmarks.benchmark import Benchmark, Measure, Published


@cache
def registry() -> Mapping[str, Benchmark]:
    """All benchmarks by name. Raises ValueError where two take sources of one format, or all that others leave."""
    names = sorted(module.name for module in iter_modules(__path__) if module.name != "benchmark")
    found = {name: import_module(f"{__name__}.{name}").BENCHMARK for name in names}
    takers: dict[str, str] = {}
    for name, benchmark in found.items():
        for format in benchmark.formats or ("",):
            other = takers.setdefault(format, name)
            if other != name:
                taken = f"format {format!r}" if format else "all formats that are left"
                raise ValueError(f"the benchmarks {other} and {name} both take {taken}; give one of them other formats")
    return found


def find(name: str) -> Benchmark:
    """The benchmark of that name. Raises ValueError with the names that are allowed."""
    if name not in registry():
        raise ValueError(f"{name!r} is no benchmark; allowed are {sorted(registry())}")
    return registry()[name]


def source_of(name: str) -> str:
    """The text of a benchmark's file: an edited benchmark scores anew."""
    return getsource(import_module(f"{__name__}.{name}"))


def of_format(format: str) -> str:
    """The name of the benchmark that takes sources of this format."""
    others = ""
    for name, benchmark in registry().items():
        if format in benchmark.formats:
            return name
        if not benchmark.formats:
            others = name
    return others


def of_config(config: RunConfig) -> dict[str, str]:
    """Source -> name of its benchmark, for the sources of the evaluation split."""
    sources = getattr(config.questions, config.evaluation.split)
    return {source.name: of_format(source.format) for source in sources}


def measures() -> dict[str, Measure]:
    """The measures of all benchmarks by key; a key that several share means the same to all."""
    return {measure.key: measure for benchmark in registry().values() for measure in benchmark.measures}


def published() -> list[Published]:
    """What papers report on these benchmarks."""
    found = [benchmark.published for benchmark in registry().values()]
    return [one for one in found if one is not None]
