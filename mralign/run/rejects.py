"""Why a row was put aside: a reason, a detail and its raw text, counted, stored and bounded.

A stage's pure function returns the rows it kept and a list of `Reject`; the wiring writes both and the manifest
counts the reasons. Whatever a program wants to know of a reject (its data set, its polarity, whose reply it was) is a
field of its own; the detail is for people. `check_limit` fails a stage whose share of rejects is above its limit and
says where to look. `is_passing` is the one rule of which rows are asked again, and `check_passing` keeps a stage that
has some from being sealed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mralign.rows import columns
from mralign.rows.schema import Reject

__all__ = [
    "PASSING",
    "REASONED",
    "Reasons",
    "Reject",
    "check_limit",
    "check_passing",
    "count_reasons",
    "is_passing",
    "to_table",
]

REASONED = ("reason", "detail")  # columns of a reject that its counting needs
# Why an endpoint or a search gave no answer this time. A reply that says so was never an answer of the model.
PASSING = frozenset({"rate_limited", "server_error", "timeout", "connection", "malformed_reply", "usage_missing"})


def is_passing(reason: str) -> bool:
    """Whether another try may mend the failure that a reject has as its reason: its row is then asked again.

    That is so of every failure of an endpoint (`PASSING`), and of a call that it refused when it served no other
    (http_<status>: a wrong name or setting, perhaps corrected since). A refused call had no price. It is not so of
    `refused`: the endpoint served others, and not this row.
    """
    return reason in PASSING or reason.startswith("http_")


def to_table(rejects: Iterable[Reject]) -> pa.Table:
    """Rejects as a table of schema REJECTS; lone surrogates in texts become replacement characters."""
    return columns.to_table([_storable(reject) for reject in rejects], Reject)


def _storable(reject: Reject) -> Reject:
    texts: dict[str, Any] = {name: value for name, value in vars(reject).items() if isinstance(value, str)}
    storable = {name: text.encode("utf-8", "replace").decode() for name, text in texts.items()}
    return replace(reject, **storable)


@dataclass(frozen=True)
class Reasons:
    """Rejects by reason, most frequent first, and of each reason the detail that came last."""

    counts: Mapping[str, int]
    details: Mapping[str, str]


def count_reasons(pieces: Iterable[pa.Table]) -> Reasons:
    """What the rejects in some tables (their columns REASONED) were put aside for; a table is held at a time."""
    counts: Counter[str] = Counter()
    details: dict[str, str] = {}
    for table in pieces:
        last = table.group_by("reason", use_threads=False).aggregate([("detail", "last"), ("reason", "count")])
        for row in last.to_pylist():
            counts[row["reason"]] += row["reason_count"]
            details[row["reason"]] = row["detail_last"]
    return Reasons(dict(counts.most_common()), details)


def check_passing(found: Reasons, *, stage: str, rows_in: int, limit: float) -> None:
    """Raise ValueError if more than the share `limit` of `rows_in` rows was rejected for reasons that may pass."""
    lost = Counter({reason: count for reason, count in found.counts.items() if is_passing(reason)})
    if lost.total() <= limit * rows_in:
        return
    reasons = dict(lost.most_common())
    last = found.details[next(iter(reasons))]
    share = math.ceil(lost.total() / max(rows_in, 1) * 10_000) / 10_000
    raise ValueError(
        f"stage {stage}: {lost.total()} of {rows_in} rows have no answer yet, {reasons}. The last that came: "
        f"{last:.300}. Run the same command again: only these rows are asked. If they will never be answered, "
        f"run.lost_limit={share:g} (a share of the rows, now {limit:g}) goes on without them"
    )


def check_limit(*, stage: str, reasons: Mapping[str, int], rows_in: int, limit: float, path: str) -> None:
    """Raise ValueError if rejects / rows_in exceeds `limit` (a share in [0, 1]); those that may pass do not count."""
    reasons = {reason: count for reason, count in reasons.items() if not is_passing(reason)}
    rejected = sum(reasons.values())
    if rejected > limit * rows_in:
        raise ValueError(
            f"stage {stage}: {rejected} of {rows_in} rows were rejected ({rejected / max(rows_in, 1):.1%}), above the "
            f"limit of {limit:.1%}. Reasons: {reasons}. Look at {path}; then mend the input or raise the limit "
            f"(run.reject_limit)."
        )
