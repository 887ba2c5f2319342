"""Records become what the browser reads: a list to search and filter, and chunks with the texts.

Records enter one by one; an index in columns (short texts, codes) and chunks of at most about 2 MB leave. The list
needs the index only, so it is quick with very many; a text is read when somebody opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, product
from typing import Any

from mralign.report.blocks import to_script
from mralign.report.trajectory_records import ShownSide, TrajectoryRecord

CHUNK_BYTES = 1_500_000
_QUESTION, _GOLD = 160, 80  # characters of a question and of its gold answers that the list shows and searches
_START, _STOP = "<start>", "<stop>"
_CODED = ("shelf", "dataset", "outcome", "stratum", "reason", "stage")


@dataclass(frozen=True)
class Shelves:
    """`index`: the list, in columns; `chunks`: JSON arrays of records, in the order of the list."""

    index: dict[str, Any]
    chunks: Sequence[str]


def shelve(records: Iterable[TrajectoryRecord], *, chunk_bytes: int = CHUNK_BYTES, most: int | None = None) -> Shelves:
    """The records in their order, at most `most` of them; the index says by `full` that there are more."""
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "question", "gold", "labels", "moves", "chunk")}
    columns |= {name: [] for name in _CODED}
    codes: dict[str, dict[str, int]] = {name: {} for name in (*_CODED, "labels")}
    chunks: list[str] = []
    open_chunk: list[str] = []
    size = 0
    anchors: dict[str, int] = {}
    full = False
    for record in records:
        full = most is not None and len(columns["id"]) == most
        if full:
            break
        text = to_script(record)
        if open_chunk and size + len(text) > chunk_bytes:
            chunks.append(_array(open_chunk))
            open_chunk, size = [], 0
        open_chunk.append(text)
        size += len(text) + 1
        _add(record, columns=columns, codes=codes, anchors=anchors, chunk=len(chunks))
    if open_chunk:
        chunks.append(_array(open_chunk))
    names = {name: list(found) for name, found in codes.items()}
    return Shelves({"columns": columns, "names": names, "chunks": len(chunks), "full": full}, chunks)


def _array(texts: Sequence[str]) -> str:
    return f"[{','.join(texts)}]"


def _add(
    record: TrajectoryRecord,
    *,
    columns: dict[str, list[Any]],
    codes: dict[str, dict[str, int]],
    anchors: dict[str, int],
    chunk: int,
) -> None:
    labels = codes["labels"]
    sets = [label_sets(side) for side in record.sides]
    steps = chain.from_iterable(sets)
    seen = {_code(labels, label) for label in chain.from_iterable(steps)}
    moves: set[tuple[int, int]] = set()
    for side in sets:
        moves |= {(_code(labels, before), _code(labels, after)) for before, after in sorted(moves_of(side))}
    columns["id"].append(_anchor(record.row_id, anchors))
    columns["question"].append(_short(record.question, _QUESTION))
    columns["gold"].append(_short(" | ".join(record.answers), _GOLD))
    columns["labels"].append(sorted(seen))
    columns["moves"].append(list(chain.from_iterable(sorted(moves))))
    columns["chunk"].append(chunk)
    for name in _CODED:
        columns[name].append(_code(codes[name], getattr(record, name)))


def label_sets(side: ShownSide) -> list[tuple[str, ...]]:
    """The labels of the labelled steps of a thought, in order."""
    return [tuple(step.labels) for step in side.steps if step.labels]


def moves_of(sets: Sequence[tuple[str, ...]]) -> set[tuple[str, str]]:
    """Every transition from a label to a label of the next labelled step, from <start> to <stop>; method.md §3."""
    if not sets:
        return set()
    found: set[tuple[str, str]] = set()
    for before, after in pairwise([(_START,), *sets, (_STOP,)]):
        found |= set(product(before, after))
    return found


def _code(codes: dict[str, int], name: str) -> int:
    return codes.setdefault(name, len(codes))


def _short(text: str, most: int) -> str:
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _anchor(row_id: str, anchors: dict[str, int]) -> str:
    """The row id; with a number behind it where it comes again (another way of asking, another stage)."""
    anchors[row_id] = anchors.get(row_id, 0) + 1
    return row_id if anchors[row_id] == 1 else f"{row_id}~{anchors[row_id]}"
