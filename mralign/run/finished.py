"""Which requests of a stage have an answer, read once from what the stage has committed.

The parts of a stage that streams are named `<upstream part>-<digest of the batch>`. Their directory is listed once, and
the row_ids in them are read once, by several threads as a store may be far away. Requests that were answered twice are
removed, and when a stage starts those whose failure another try may mend: they are asked again. What each request took
stands beside its part, in `tallies/`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from mralign.rows.schema import REJECTS
from mralign.run.part_merging import Pieces, finish, finish_merging, merge, pieces_of, tally_name
from mralign.run.part_names import parts_by_upstream
from mralign.run.rejects import is_passing
from mralign.run.store import READERS, StageDir


@dataclass(frozen=True)
class Finished:
    """What is committed. `of`: upstream part -> row_ids of its requests that have an answer, sorted, as strings."""

    of: Mapping[str, pa.Array]
    repeated: int  # requests that were removed because an earlier part answers them

    def __len__(self) -> int:
        return sum(map(len, self.of.values()))


@dataclass(frozen=True)
class Ids:
    """Where a row of the output names its request: `request_of` maps the row_id of a reject, and what stands in the
    `column` of a row, to the row_id of its request."""

    schema: pa.Schema
    column: str = "row_id"
    request_of: Callable[[str], str] = str

    def requests(self, table: pa.Table, *, column: str = "row_id") -> list[str]:
        """The request of each row."""
        return list(map(self.request_of, table.column(column).to_pylist()))


def settle(out: StageDir, parts: Iterable[str], *, ids: Ids, forget: bool = False) -> Finished:
    """What is committed for the upstream `parts`, after removing requests that stand in an earlier part.

    A request is answered twice where a batch was cut otherwise before and after a failure. `forget` also removes the
    requests with a reject that another try may mend, and ends what a killed `merge` has left to do: it is what a stage
    begins with, and nothing is looked for where the plan has found nothing.
    """
    if forget and out.was_empty:
        return Finished({part: pa.array([], pa.string()) for part in parts}, 0)
    if forget:
        finish(out)
    groups = _settled(out, parts_by_upstream(out.parts(), parts), ids=ids, forget=forget)
    finished = {part: pa.array(sorted(group.finished), pa.string()) for part, group in groups.items()}
    return Finished(finished, sum(group.repeated for group in groups.values()))


def settle_and_merge(out: StageDir, pieces: Pieces, *, ids: Ids) -> int:
    """Put one part in the place of several; how many requests were removed because two of them answered them.

    It may be called again after it was killed.
    """
    if out.holds(pieces.merged):
        finish_merging(out, pieces)
        return 0
    groups = _settled(out, {pieces.upstream: list(pieces.parts)}, ids=ids, forget=False)
    repeated = groups[pieces.upstream].repeated
    if repeated:
        (pieces,) = pieces_of(out, [pieces.upstream])  # it may have fewer rejects now
    merge(out, pieces, schema=ids.schema)
    return repeated


def _settled(out: StageDir, committed: Mapping[str, Sequence[str]], *, ids: Ids, forget: bool) -> dict[str, _Group]:
    """What is committed of each upstream part, after removing what is to be removed."""
    groups = {}
    everything = list(chain(*committed.values()))
    rejecting = frozenset(out.with_rejects(everything))
    with ThreadPoolExecutor(READERS) as readers:
        looks = {name: readers.submit(_look, out, name, ids=ids, rejects=name in rejecting) for name in everything}
        for part, names in committed.items():
            answered = {name: looks.pop(name).result() for name in names}
            groups[part] = _settle(out, answered, ids=ids, forget=forget)
    return groups


@dataclass
class _Group:
    """What is committed of one upstream part."""

    finished: set[str]
    repeated: int


@dataclass(frozen=True)
class _PartAnswers:
    """The requests of one part: all that it answers, and those of them with a reject that another try may mend."""

    requests: set[str]
    passing: set[str]


def _look(out: StageDir, name: str, *, ids: Ids, rejects: bool) -> _PartAnswers:
    """`rejects`: whether it has any, as one listing has shown of all parts."""
    rows = out.read_parts([name], schema=ids.schema, columns=[ids.column])
    rejected_schema = pa.schema([REJECTS.field(column) for column in ("row_id", "reason")])
    found = out.read_files([f"rejects/{name}"] if rejects else [], schema=rejected_schema)
    rejected = ids.requests(found)
    reasons = zip(rejected, found.column("reason").to_pylist(), strict=True)
    passing = {request for request, reason in reasons if is_passing(reason)}
    return _PartAnswers({*ids.requests(rows, column=ids.column), *rejected}, passing)


def _settle(out: StageDir, parts: Mapping[str, _PartAnswers], *, ids: Ids, forget: bool) -> _Group:
    group = _Group(set(), 0)
    for name, here in parts.items():
        repeated = here.requests & group.finished
        passing = here.passing - repeated
        removed = repeated | passing if forget else repeated
        if removed:
            _remove(out, name, requests=removed, ids=ids)
        group.repeated += len(repeated)
        group.finished |= here.requests - repeated - passing  # an answer in a later part outlasts a failure
    return group


def _remove(out: StageDir, part: str, *, requests: set[str], ids: Ids) -> None:
    """Commit a part again without the rows and rejects of some requests.

    The rows go first. Killed in between, a request that is to be asked again must not lose its reject and keep rows
    that are only a part of its answer: it would pass for answered.
    """
    rows, rejects = out.read_parts([part], schema=ids.schema), out.read_rejects([part])
    kept = [request not in requests for request in ids.requests(rows, column=ids.column)]
    kept_rejects = [request not in requests for request in ids.requests(rejects)]
    lasting = rejects.filter(pa.array(kept_rejects, pa.bool_()))
    out.commit(part, rows.filter(pa.array(kept, pa.bool_())), schema=ids.schema)
    out.commit_rejects(part, lasting)


def read_tallies(
    out: StageDir, part: str, *, schema: pa.Schema, request_of: Callable[[str], str] = str
) -> list[Mapping[str, Any]]:
    """What each request took whose rows or rejects stand in the part now; one that was asked again stands in another
    part. A part without tallies gives none."""
    text = out.find_text(tally_name(part))
    if text is None:
        return []
    tallies = json.loads(text)
    rows = out.read_parts([part], schema=schema, columns=["row_id"])
    rejects = out.read_rejects([part], columns=["row_id"])
    row_ids = pa.concat_tables([rows, rejects]).column("row_id").to_pylist()
    return [tallies[request] for request in dict.fromkeys(map(request_of, row_ids))]


def add_tallies(tallies: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum by name of JSON objects whose values are numbers or such objects."""
    total: dict[str, Any] = {}
    for tally in tallies:
        for name, value in tally.items():
            if isinstance(value, Mapping):
                total[name] = add_tallies([total.get(name, {}), value])
            else:
                total[name] = total.get(name, 0) + value
    return total
