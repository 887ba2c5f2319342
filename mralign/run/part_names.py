"""Names of the parts of a stage, and what they tell of each other.

A part of a stage that streams is called `<upstream part>-<digest of what it answers>`. Where one part is about to take
the place of all others of its upstream part, a file `merging-<its key>` says so (see `merging.py`): which parts stand
is then known from the names in one listing, at every moment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PART = re.compile(r"part-[^/]*\.parquet")
MARK = "merging-"


def part_name(key: str) -> str:
    """File name of the part identified by `key` (a number or a content hash)."""
    return f"part-{key}.parquet"


def part_key(name: str) -> str:
    """The key in the file name of a part: `part_name` backwards."""
    return name.removeprefix("part-").removesuffix(".parquet")


def upstream_part(name: str) -> str:
    """The upstream part that a part `<upstream part>-<digest>` of a stream answers."""
    return part_name(part_key(name).rpartition("-")[0])


def standing_parts(names: Iterable[str]) -> list[str]:
    """Those of the files of a stage that are its parts, sorted. A part with a mark stands for all others of its
    upstream part, which are about to be deleted; a mark without its part says nothing."""
    found = set(names)
    parts = {name for name in found if _PART.fullmatch(name)}
    merged = {part_name(name.removeprefix(MARK)) for name in found if name.startswith(MARK)} & parts
    instead = {upstream_part(name): name for name in merged}
    return sorted(name for name in parts if instead.get(upstream_part(name), name) == name)


def parts_by_upstream(committed: Iterable[str], parts: Iterable[str]) -> dict[str, list[str]]:
    """Those of the committed parts that answer each of the upstream `parts`."""
    found: dict[str, list[str]] = {part: [] for part in parts}
    for name in committed:
        upstream = upstream_part(name)
        if upstream in found:
            found[upstream].append(name)
    return found
