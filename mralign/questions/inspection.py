"""Whether a source is what its settings say: a look at its first records, and what is to be said of a wrong one.

A source or what was counted of it enters. Nothing leaves if it is sound; else a ValueError that shows the columns that
were found and proposes a field map. A wrong name of a field rejects every record of one source, and a sum over all
sources would hide that.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from mralign.config import Source
from mralign.questions.choices import offered, resolve
from mralign.questions.fields import fetch
from mralign.questions.formats import choose
from mralign.questions.sources import read_batches
from mralign.questions.streams import PACKED
from mralign.run.rejects import Reject

log = logging.getLogger("mralign")
_RECORDS = 100  # records looked at before a run
_SECONDS = 2.0  # seconds that the look may take
_WHOLE_BYTES = 2**25  # bytes of a file that is looked at though it can only be read whole
_LONGEST_SKIP = 10_000
_SHOWN = 40  # names of columns in a message
_WORD = 0.8  # likeness of a name that holds a usual one as a word
_NAMES_A_CHOICE = re.compile(r"[0-9A-J]")
_NEAR = 0.6  # likeness of a name that is proposed
_USUAL = {
    "question": ("question", "query", "problem", "utterance", "input", "prompt", "instruction"),
    "answers": ("answer", "answers", "aliases", "correct answer", "target", "gold", "label", "solution", "output"),
}


@dataclass(frozen=True)
class Yield:
    """What came of a source: questions kept, rejects by reason, and some of the rejects."""

    kept: int
    reasons: Mapping[str, int]
    examples: Sequence[Reject]

    @property
    def rejected(self) -> int:
        return sum(self.reasons.values())


def look(source: Source, *, split: str) -> None:
    """Raise ValueError if a local source is empty, broken at its beginning, or none of its first records is a question.

    Nothing is read of a URL, of a large file that can only be read whole, or behind many skipped records; after a few
    seconds the look ends.
    """
    if not _cheap(Path(source.path), source=source):
        return
    first = min(source.limit or _RECORDS, _RECORDS)
    cut = source.model_dump(exclude={"limit", "sample"})
    end = time.monotonic() + _SECONDS
    rejects: list[Reject] = []
    for table, refused in read_batches(**cut, limit=first, split=split, rows=10):
        rejects += refused
        warn_of_choices(source, table.to_pylist())
        if table.num_rows or time.monotonic() > end:
            return
    reasons = Counter(reject.reason for reject in rejects)
    check_yield(source, Yield(0, reasons, rejects), limit=1.0)


def _cheap(path: Path, *, source: Source) -> bool:
    if "://" in str(path) or not path.exists() or source.skip > _LONGEST_SKIP:
        return False
    read_whole = source.file == "json" or bool({".json", ".zip"} & set(path.suffixes))
    packed = bool(set(PACKED) & set(path.suffixes))
    allowed = _WHOLE_BYTES // 8 if packed else _WHOLE_BYTES
    return not read_whole or path.stat().st_size <= allowed


def warn_of_choices(source: Source, rows: Sequence[Mapping[str, Any]]) -> None:
    """Warn if the answers of all `rows` (schema QUESTIONS) name choices that the source does not give as such.

    A gold answer `2` or `C` beside a list is the number of a choice: no model that is not shown the list can match it.
    """
    columns_of_rows = [_choices_beside(row) for row in rows]
    if columns_of_rows and all(columns_of_rows):
        columns = sorted(set.intersection(*columns_of_rows)) or sorted(set.union(*columns_of_rows))
        log.warning(
            "source %s: its answers, such as %r, seem to name one of the choices in %s, which are not shown; if so "
            "give fields.choices",
            source.name,
            rows[0]["answers"][0],
            columns,
        )


def _choices_beside(row: Mapping[str, Any]) -> set[str]:
    """The other fields of a question that hold choices of which its answer, a letter or a figure, names one."""
    if row["choices"] or len(row["answers"]) != 1 or not _NAMES_A_CHOICE.fullmatch(row["answers"][0]):
        return set()
    (answer,) = row["answers"]
    extra = json.loads(row["extra"])
    if isinstance(extra.get(answer), str):
        return {key for key in extra if _NAMES_A_CHOICE.fullmatch(key)}
    return {name for name, value in extra.items() if _offers(value, answer=answer)}


def _offers(value: Any, *, answer: str) -> bool:
    try:
        resolve(answer, offered({"": value}))
    except LookupError:
        return True
    except ValueError:
        return False
    return True


def check_yield(source: Source, result: Yield, *, limit: float, path: str = "") -> None:
    """Raise ValueError for a source without records, without questions, or with too many rejects.

    `limit`: the share of the records that may be rejects; `path`: where the rejects lie.
    """
    total = result.kept + result.rejected
    if total == 0:
        cut = f" behind the first {source.skip}" if source.skip else ""
        raise ValueError(f"{source.path} holds no record{cut}; give a file with questions, or leave the source out")
    if result.kept and result.rejected <= limit * total:
        return
    told = f"none of {total} records is a question"
    if result.kept:
        share = f"{result.rejected / total:.1%}"
        told = f"{result.rejected} of {total} records were rejected ({share}), above run.reject_limit={limit}"
    first = f" The first: {result.examples[0].detail}." if result.examples else ""
    where = f" Look at {path}." if path else ""
    advice = proposal(result.examples, source=source)
    raise ValueError(f"{source.path}: {told}. Reasons: {dict(result.reasons)}.{first}{where} {advice}")


def proposal(rejects: Sequence[Reject], *, source: Source) -> str:
    """The columns of rejected records, and the settings that may read them."""
    records = [record for record in map(_record, rejects) if record is not None]
    if not records:
        return "No record could be read: is the file what its suffix says (else give `file`, `encoding`)?"
    names_in_order: dict[str, None] = {}
    for record in records:
        names_in_order |= dict.fromkeys(map(str, record))
    columns = list(names_in_order)
    told = f"Columns found: {columns[:_SHOWN]}."
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        return f"{told} Give the `delimiter` of the file."
    names = choose(**source.model_dump(exclude={"skip", "limit", "sample"})).names
    if names is None:
        return f"{told} Read the file as format plain, with `fields`."
    fields: dict[str, str] = {}
    for ours, theirs in (("question", names.question), ("answers", names.answers)):
        if not any(_holds(record, theirs) for record in records):
            near = _nearest(records, ours=ours)
            fields |= {ours: near} if near else {}
    if not fields:
        return f"{told} Give `fields`, our names -> the file's: question, answers, id, choices."
    said = ", ".join(f"{ours}: {theirs}" for ours, theirs in fields.items())
    return f"{told} Try fields: {{{said}}}."


def _record(reject: Reject) -> dict[str, Any] | None:
    try:
        record = json.loads(reject.raw)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _holds(record: Mapping[str, Any], names: Sequence[str]) -> bool:
    return any(fetch(record, name) is not None for name in names)


def _nearest(records: Sequence[Mapping[str, Any]], *, ours: str) -> str | None:
    """The name in the records that is most like a usual name of our field."""
    paths: set[str] = set()
    for record in records:
        paths.update(_paths(record, prefix="", depth=0))
    likeness = {path: _likeness(path, ours=ours) for path in paths}
    best = max(sorted(likeness), key=lambda path: likeness[path], default=None)
    return best if best is not None and likeness[best] >= _NEAR else None


def _paths(record: Mapping[str, Any], *, prefix: str, depth: int) -> Iterator[str]:
    """Dotted names of all values that are no objects; columns that end in a number become a pattern."""
    for key, value in record.items():
        name = f"{prefix}{key}"
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, Mapping) and depth < 3:
            each = "[]" if isinstance(value, list) else ""
            yield from _paths(inner, prefix=f"{name}{each}.", depth=depth + 1)
        elif value not in (None, "", []):
            bare = name.rstrip("0123456789")
            is_numbered = depth == 0 and bare != name and bare.endswith(("_", " "))
            yield f"{bare}*" if is_numbered else name


def _likeness(path: str, *, ours: str) -> float:
    last = path.rpartition(".")[2].rstrip("*").replace("_", " ").strip().lower()
    words = last.split()
    best = 0.0
    for place, name in enumerate(_USUAL[ours]):
        ratio = SequenceMatcher(None, last, name).ratio()
        whole_word = _WORD if name in words else 0.0
        best = max(best, max(ratio, whole_word) - 0.01 * place)
    return best
