"""Why a row was put aside: a reason, a detail and its raw text, counted, stored and bounded.

A stage's pure function returns the rows it kept and a list of `Reject`; the wiring writes both and the manifest
counts the reasons. Whatever a program wants to know of a reject (its data set, its polarity, whose reply it was) is a
field of its own; the detail is for people. `check_limit` fails a stage whose share of rejects is above its limit and
says where to look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mralign.rows import columns
from mralign.rows.schema import Reject

__all__ = ["Reject", "check_limit", "count_reasons", "to_table"]


def to_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as a table of schema REJECTS; lone surrogates in texts become replacement characters."""
    return columns.to_table([_storable(reject) for reject in rejects], Reject)


def _storable(reject: Reject) -> Reject:
    texts: dict[str, Any] = {name: value for name, value in vars(reject).items() if isinstance(value, str)}
    storable = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    return replace(reject, **storable)


def count_reasons(table: pa.Table) -> dict[str, int]:
    """Number of rejects by reason, most frequent first."""
    return dict(Counter(table.column("reason").to_pylist()).most_common())


def check_limit(*, stage: str, reasons: dict[str, int], rows_in: int, limit: float, path: str) -> None:
    """Raise ValueError if rejects / rows_in exceeds `limit` (a share in [0, 1])."""
    rejected = sum(reasons.values())
    if rejected > limit * rows_in:
        raise ValueError(
            f"stage {stage}: {rejected} of {rows_in} rows were rejected ({rejected / max(rows_in, 1):.1%}), above the "
            f"limit of {limit:.1%}. Reasons: {reasons}. Look at {path}; then mend the input or raise the limit "
            f"(run.reject_limit)."
        )
