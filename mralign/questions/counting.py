"""How many questions a configuration names, by data set, before anything has run.

A configuration enters; the records of each source leave, as its limits cut them. Repeats, leaks and broken records are
still among them: the stage `questions` finds these. Local files are counted within a time limit; what lies elsewhere is
known only by its limits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from mralign.config import RunConfig, Source
from mralign.questions.configured import resolved, sources
from mralign.questions.formats import choose
from mralign.questions.records import Record

LIMIT_S = 5.0  # for all sources together
_LOOK = 500  # records between two looks at the clock


@dataclass(frozen=True)
class SourceCount:
    """Records of one source. `exact` False: at least so many (`most` False) or at most so many (`most` True); None:
    nothing is known."""

    split: str
    name: str
    records: int | None
    exact: bool = True
    most: bool = False

    def __str__(self) -> str:
        if self.records is None:
            return f"{self.name} unknown"
        inexact = "at most " if self.most else "more than "
        return f"{self.name} {'' if self.exact else inexact}{self.records:,}"


def count_questions(config: RunConfig, *, limit_s: float = LIMIT_S) -> list[SourceCount]:
    """The records of every source of the configuration, train first."""
    end = time.monotonic() + limit_s
    found: list[SourceCount] = []
    for one in sources(config):
        source = resolved(one.source)
        found.append(_count(source, split=one.split, end=end))
    return found


def _count(source: Source, *, split: str, end: float) -> SourceCount:
    most = min(filter(None, (source.limit, source.sample)), default=None)
    if "://" in source.path:
        return SourceCount(split, source.name, most, exact=False, most=most is not None)
    settings = source.model_dump(exclude={"name", "path", "format", "fields", "skip", "limit", "sample"})
    try:
        records = iter(choose(source.format, fields=source.fields, **settings).records(source.path, split))
        counted, whole = _walk(records, most=None if source.limit is None else source.skip + source.limit, end=end)
    except (ValueError, OSError):  # the checks of the plan say what is wrong with it
        return SourceCount(split, source.name, None, exact=False)
    counted = max(0, counted - source.skip)
    if source.sample is not None and counted >= source.sample:
        return SourceCount(split, source.name, source.sample)
    return SourceCount(split, source.name, counted, exact=whole)


def _walk(iterator: Iterator[Record], *, most: int | None, end: float) -> tuple[int, bool]:
    """How many records there are, up to `most`; and whether the count came to its end in time."""
    counted = 0
    while most is None or counted < most:
        step = _LOOK if most is None else min(_LOOK, most - counted)
        got = sum(1 for _ in islice(iterator, step))
        counted += got
        if got < step:
            return counted, True
        if time.monotonic() > end:
            return counted, False
    return counted, True
