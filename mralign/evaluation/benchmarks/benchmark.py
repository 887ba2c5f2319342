"""What a benchmark says of itself, and what it is given.

A benchmark is one file beside this one. It says which questions it takes, how it asks, what judges are asked about a
response and how they reply, which scores a response gets, which figures are made of scores, and how tables show them.
The stages, the paired tests and the report read all of that here; none of them knows a benchmark by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from mralign.asking.json_reply import JsonReply
from mralign.config import Evaluation

Row = Mapping[str, Any]
Said = Mapping[str, Sequence[Mapping[str, Any]]]  # kind of judgement -> its verdicts about one response, in order
Role = Literal["extractor", "verifier", "judge"]
ROLES: tuple[Role, ...] = ("extractor", "verifier", "judge")  # settings of config.Evaluation; in this order they judge


@dataclass(frozen=True)
class Measure:
    """One figure of a benchmark: its key in the metrics, and how tables show it.

    A figure with an `interval` has it under `<key>_ci`. A `paired` one is a column of the scores, by the same name, in
    which methods are compared question by question.
    """

    key: str
    title: str
    better: int = 0  # 1: more is better, -1: less is better, 0: neither
    unit: Literal["share", "count"] = "share"  # a share in [0, 1] is printed in percent
    digits: int = 1
    interval: bool = False
    paired: bool = False
    terminal: bool = False  # also in the lines that end a run; the page shows every measure
    table: bool = False  # also in the tables for a paper
    gain: str = ""  # long name; what training changed in it is told by itself
    note: str = ""  # key of a word that stands behind the figure
    parameter: str = ""  # key of the figure that takes the place of the title's `K` where all methods have the same


@dataclass(frozen=True)
class Published:
    """Figures of a paper, as printed there: by data set and key, one a method."""

    source: str
    model: str
    methods: tuple[str, ...]
    figures: Mapping[str, Mapping[str, tuple[str, ...]]]


@dataclass(frozen=True)
class Case:
    """A response and what its judges may be shown. `answer` None: it is invalid, and nobody is asked about it."""

    row_id: str
    question_id: str
    dataset: str
    benchmark: str
    question: str
    answer: str | None
    gold: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)  # those of the question that the benchmark needs


@dataclass(frozen=True)
class Item:
    """One thing to be judged. With a `verdict` it is settled without a judge; else `shown` is what the judge sees."""

    subject: str
    shown: Mapping[str, Any] = field(default_factory=dict)
    verdict: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Step:
    """One kind of question to a judge about a response.

    `items` makes what is judged from the case and from what the steps before it said. Where it is `searched`, the
    judge also sees as `evidence` what a search for the item's subject finds; where that is nothing, `unfound` is the
    verdict and nobody is asked.
    """

    kind: str
    role: Role
    instruction: str
    reply: type[JsonReply]
    items: Callable[[Case, Said], list[Item]]
    searched: bool = False
    unfound: Mapping[str, Any] | None = None
    advice: str = "be shorter"  # to a judge whose reply was cut off
    bounds: tuple[int, ...] = ()  # numbers of the benchmark that change what is asked


def _nothing_shared(rows: Sequence[Row], settings: Evaluation, *, source: str) -> dict[str, Any]:
    return {}


def _complete(row: Row) -> dict[str, Any]:
    return dict(row)


@dataclass(frozen=True)
class Benchmark:
    """How responses to some questions are asked for, judged, scored and shown."""

    columns: Mapping[str, pa.DataType]  # of the scores: what `score` and `complete` fill
    # (response as a row of GENERATIONS with `method`, what the judges said, settings) -> its columns
    score: Callable[[Row, Said, Evaluation], dict[str, Any]]
    figures: Callable[..., dict[str, Any]]  # (scores of one method, level=, samples=, **shared) -> figures
    measures: tuple[Measure, ...]  # in the order in which the page shows them
    explain: Callable[[Evaluation], str]  # a sentence or two above the page's tables
    formats: tuple[str, ...] = ()  # formats of sources that it takes; the one without any takes all others
    fields: tuple[str, ...] = ()  # fields beside question and answers that a question must have
    prompt: str | None = None  # how it asks where the configuration says nothing of it
    steps: tuple[Step, ...] = ()
    # (scores of the base model, settings, source="this run" | "base") -> what all methods are scored with
    shared: Callable[..., dict[str, Any]] = _nothing_shared
    complete: Callable[..., dict[str, Any]] = _complete  # (score, **shared) -> the score with what hangs on `shared`
    alike: Callable[[pa.Table, pa.Table], pa.Table] | None = None  # (scores, reference) -> scored as the reference was
    published: Published | None = None
