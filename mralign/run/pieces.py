"""Committed tables some parts at a time, so that what a driver holds of them does not grow with the run.

A stage's directory and names of columns enter; tables leave, each with the rows (or rejects) of up to 16 parts, in the
order of the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from mralign.rows.schema import REJECTS
from mralign.run.part_names import standing_parts
from mralign.run.store import StageDir

_TOGETHER = 16  # parts that are read at once, each by a thread of its own


def rows_in_pieces(out: StageDir, *, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The committed rows."""
    yield from _pieces(out, out.parts(), schema=schema, columns=columns)


def rejects_in_pieces(
    out: StageDir,
    *,
    columns: Sequence[str],
    parts: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Iterator[pa.Table]:
    """The rejects of the given committed parts, or of all. One listing tells which parts have any; `sizes`: that
    listing, for a caller that has it."""
    if sizes is None:
        below, names = _with_rejects(out, out.parts() if parts is None else parts)
    else:
        below, standing = _rejects_of(out), standing_parts(sizes) if parts is None else parts
        names = [part for part in standing if f"rejects/{part}" in sizes]
    yield from _pieces(below, names, schema=REJECTS, columns=columns)


def rejects_by_part(out: StageDir) -> Iterator[tuple[str, pa.Table]]:
    """Each committed part that has rejects, with these."""
    below, names = _with_rejects(out, out.parts())
    for name in names:
        yield name, below.read_parts([name], schema=REJECTS)


def reject_count(out: StageDir) -> int:
    """How many rejects the committed parts have, from the footers of their files."""
    below, names = _with_rejects(out, out.parts())
    return sum(below.counts(names).values())


def _with_rejects(out: StageDir, parts: Sequence[str]) -> tuple[StageDir, list[str]]:
    """The directory of the rejects, and those of the parts that have any."""
    return _rejects_of(out), out.with_rejects(parts)


def _rejects_of(out: StageDir) -> StageDir:
    return StageDir(f"{out.uri}/rejects", stage=out.stage, fingerprint=out.fingerprint)


def _pieces(out: StageDir, names: Sequence[str], *, schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
    for start in range(0, max(1, len(names)), _TOGETHER):  # of no part an empty table
        yield out.read_parts(names[start : start + _TOGETHER], schema=schema, columns=columns)
