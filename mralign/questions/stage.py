"""Stage `questions`: the configured sources become one deduplicated table of questions.

Files and hub data sets enter; schema QUESTIONS leaves in parts of 2,000, named `<split>-<source>-<number>`. Ray Data
streams each source into raw parts; then only keys meet: a 16-byte hash of every normalised question says which rows
repeat or also stand in a held-out split, and each part is committed without those. No process holds all questions.

The manifest holds a digest of the rows of each split. What stands on the train questions depends on these rows alone:
another test source reruns nothing of the training unless one of its questions was a train question.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import NAMED_FORMATS, RunConfig, Source
from mralign.questions.configured import SplitSource, resolved, sources
from mralign.questions.inspection import Yield, check_yield, look, warn_of_choices
from mralign.questions.repeats import drop_repeats, find_repeats, question_keys
from mralign.questions.sources import SPLITS, check_source, read_batches
from mralign.rows import Reject, from_table
from mralign.rows.schema import QUESTIONS
from mralign.run.events import counted
from mralign.run.part_names import part_key, part_name
from mralign.run.pieces import rejects_in_pieces
from mralign.run.placement import NotInstalled
from mralign.run.rejects import REASONED, count_reasons, to_table
from mralign.run.stage import Context, Faults, Outcome, Stage, log, run_tasks
from mralign.run.store import StageDir, ahead, parts_of

_ROWS = 2_000  # questions a part
_SHOWN = 50  # rejects from which the columns of a wrong source are told, and rows that are looked at
_PARTS = 50  # parts whose keys one task reads
_READ_AHEAD = 4  # parts that a task holds at once
_KEYS_A_BUCKET = 2_000_000  # keys that one task compares


def _inputs(config: RunConfig) -> Mapping[str, str]:
    return {f"{one.split}/{one.source.name}": one.source.path for one in sources(config)}


def _reads(config: RunConfig) -> Mapping[str, Any]:
    by_split: dict[str, list[Source]] = {split: [] for split in SPLITS}
    for one in sources(config):
        by_split[one.split].append(one.source)
    return {f"questions.{split}": tuple(group) for split, group in by_split.items()}


def _code(config: RunConfig) -> Mapping[str, Any]:
    """The settings that a named format stands for."""
    formats = {one.source.format for one in sources(config)}
    return {f"format {name}": NAMED_FORMATS[name] for name in formats if name in NAMED_FORMATS}


def _read(batch: pa.Table, *, raw: StageDir) -> Iterator[pa.Table]:
    """Commit the raw parts of the sources in `batch`; yield the name, rows and bytes of each."""
    for row in batch.to_pylist():
        source, split, key = Source.model_validate_json(row["source"]), row["split"], row["key"]
        tables = read_batches(**resolved(source).model_dump(), split=split, rows=_ROWS)
        for number, (table, rejects) in enumerate(tables):
            name = part_name(f"{key}-{number:05d}")
            size = raw.commit(name, table, schema=QUESTIONS, rejects=to_table(rejects))
            yield pa.table({"part": [name], "rows": [table.num_rows], "size": [size]})
        raw.write_text(_mark(key), "")


def _mark(key: str) -> str:
    """The file that says that a source has been read to its end."""
    return f"{key}.read"


def _read_all(context: Context, *, raw: StageDir) -> None:
    import ray

    there = raw.sizes(recursive=False)
    items = [
        {"split": one.split, "key": one.key, "source": one.source.model_dump_json()}
        for one in sources(context.config)
        if _mark(one.key) not in there
    ]
    if not items:
        return
    read: Any = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        cast(Any, _read),
        fn_kwargs={"raw": raw},
        batch_size=1,
        batch_format="pyarrow",
    )
    batches = read.iter_batches(batch_size=None, batch_format="pyarrow")
    committed = chain.from_iterable(batch.to_pylist() for batch in batches)
    for one in counted(committed, total=None, what="reading"):
        raw.know_rows(one["part"], rows=one["rows"], size=one["size"])


def _drop_all(context: Context, *, raw: StageDir) -> None:
    """Commit every raw part without the questions that stand elsewhere."""
    import ray

    there = raw.parts()
    names = list(chain.from_iterable(parts_of(there, split) for split in SPLITS))
    splits = [part_key(name).partition("-")[0] for name in names]
    groups = {start: names[start : start + _PARTS] for start in range(0, len(names), _PARTS)}
    keys = [ray.remote(_keys).remote(raw, group) for group in groups.values()]
    total = sum(raw.counts(names).values())
    buckets = max(1, math.ceil(total / _KEYS_A_BUCKET))
    find: Any = ray.remote(_find)
    ids = [find.remote(splits, "id", (bucket, buckets), 0, *keys) for bucket in range(buckets)]
    # A question whose id is repeated is put aside already, and repeats nothing.
    questions = [find.remote(splits, "question", (bucket, buckets), buckets, *ids, *keys) for bucket in range(buckets)]
    commit: Any = ray.remote(_commit)
    imported = context.config.rollouts.import_on is not None
    pending = [
        commit.remote(raw, context.out, group, start, imported, *ids, *questions) for start, group in groups.items()
    ]
    for done in counted(pending, total=len(pending), what="finding repeats", unit="groups of parts"):
        for name, rows, size in ray.get(done):
            context.out.know_rows(name, rows=rows, size=size)


def _keys(raw: StageDir, names: Sequence[str]) -> list[pa.Table]:
    return [question_keys(table) for table in _tables(raw, names)]


def _tables(out: StageDir, names: Sequence[str]) -> Iterator[pa.Table]:
    """The questions of some parts, a part at a time; the next few are being read, as a store may be far away."""
    yield from ahead(lambda name: out.read_parts([name], schema=QUESTIONS), names, at_once=_READ_AHEAD)


def _find(splits: Sequence[str], by: str, share: tuple[int, int], gone: int, *tables: Any) -> pa.Table:
    """The first `gone` of `tables` are REPEATS that are dropped already, the others lists of KEYS."""
    without = pa.concat_tables(tables[:gone]) if gone else None
    keys = list(chain.from_iterable(tables[gone:]))
    bucket, buckets = share
    return find_repeats(keys, splits=splits, by=by, without=without, bucket=bucket, buckets=buckets)


def _commit(
    raw: StageDir, out: StageDir, names: Sequence[str], start: int, imported: bool, *repeats: pa.Table
) -> list[tuple[str, int, int]]:
    """Commit some parts without what is repeated; the name, rows and bytes of each."""
    all_repeats = pa.concat_tables(repeats)

    def commit(number: int, name: str) -> tuple[str, int, int]:  # a few at once, as a store may be far away
        own = all_repeats.filter(pc.equal(all_repeats.column("part"), number))
        table, repeated = drop_repeats(raw.read_parts([name], schema=QUESTIONS), own)
        if imported:  # a row a draw: the same question again is no fault
            repeated = [reject for reject in repeated if reject.reason != "duplicate_id"]
        rejects = pa.concat_tables([raw.read_rejects([name]), to_table(repeated)])
        return name, table.num_rows, out.commit(name, table, schema=QUESTIONS, rejects=rejects)

    return list(ahead(lambda one: commit(*one), enumerate(names, start), at_once=_READ_AHEAD))


def _run(context: Context) -> Outcome:
    raw = StageDir(f"{context.out.uri}/raw", stage="questions", fingerprint=context.out.fingerprint)
    _read_all(context, raw=raw)
    raw.quiet()
    _check_read(context.config, raw=raw)
    _drop_all(context, raw=raw)
    context.out.quiet()
    with ThreadPoolExecutor(1) as beside:
        removed = beside.submit(_remove, context.config, raw=raw)
        funnel = _funnel(context)
        _check_kept(context.config, funnel=funnel)
        content = _content(context)
        removed.result()
    kept = dict.fromkeys(SPLITS, 0)
    for row in funnel:
        kept[row.split] += row.kept
    rows_in = sum(row.records for row in funnel)
    figures = {**kept, "funnel": [asdict(row) for row in funnel], "content": content}
    return Outcome(rows_in=rows_in, rows_out=sum(kept.values()), figures=figures)


def _content(context: Context) -> dict[str, str]:
    """By split a digest of its rows, and of the parts that they lie in: what stands on them names its own by these. A
    held-out set goes with the benchmark that it is asked as."""
    out = context.out
    formats: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for one in sources(context.config):
        if one.split != "train":
            formats[one.split][one.source.name] = one.source.format
    there = out.parts()
    parts = {split: parts_of(there, split) for split in SPLITS}
    names = list(chain.from_iterable(parts.values()))
    groups = [(out, names[start : start + _PARTS]) for start in range(0, len(names), _PARTS)]
    digests = dict(chain.from_iterable(run_tasks(_digests, groups)))
    return {split: _digest([formats[split], [digests[name] for name in own]]) for split, own in parts.items()}


def _digests(out: StageDir, names: Sequence[str]) -> list[tuple[str, str]]:
    """Each part with a digest of its name and its rows."""
    tables = zip(names, _tables(out, names), strict=True)
    return [(name, _digest([name, table.to_pylist()])) for name, table in tables]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _check_read(config: RunConfig, *, raw: StageDir) -> None:
    """Raise ValueError for a source that gave no question, or more rejects than a source may have."""
    sizes, rows = raw.sizes(), raw.counts()
    every = [(one, parts_of(list(rows), one.key)) for one in sources(config)]
    # The plan has looked at local files alone. A store may be far away.
    shown = ahead(lambda one: _shown(raw, one[1]) if "://" in one[0].source.path else [], every)
    for one, parts in every:
        reasons = dict(count_reasons(rejects_in_pieces(raw, columns=REASONED, parts=parts, sizes=sizes)).counts)
        result = Yield(sum(rows[part] for part in parts), reasons, _first_rejects(raw, parts, sizes=sizes))
        with _named(one):
            warn_of_choices(one.source, next(shown))
            check_yield(resolved(one.source), result, limit=config.run.reject_limit, path=raw.path("rejects"))


def _shown(raw: StageDir, parts: Sequence[str]) -> list[dict[str, Any]]:
    """The first questions of a source."""
    return raw.read_parts(parts[:1], schema=QUESTIONS).slice(0, _SHOWN).to_pylist() if parts else []


def _first_rejects(raw: StageDir, parts: Sequence[str], *, sizes: Mapping[str, int]) -> list[Reject]:
    """Up to _SHOWN rejects of the first part that has any; `sizes`: the files that there are."""
    first = next((part for part in parts if f"rejects/{part}" in sizes), None)
    return [] if first is None else from_table(raw.read_rejects([first]).slice(0, _SHOWN), Reject)


@contextmanager
def _named(one: SplitSource) -> Iterator[None]:
    """Puts the name of a source before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"questions.{one.split}, source {one.source.name!r}: {error}") from None


def _remove(config: RunConfig, *, raw: StageDir) -> None:
    """Delete the raw parts, the marks first: no kill may leave the mark of a source without its parts."""
    marks = (raw.path(_mark(one.key)) for one in sources(config))
    for _ in ahead(raw.filesystem.delete_file, marks):
        pass
    raw.remove()


@dataclass(frozen=True)
class SourceFunnel:
    """What became of the records of a source: how many were put aside, by reason, and how many are kept."""

    split: str
    dataset: str
    records: int
    dropped: dict[str, int]
    kept: int


def _funnel(context: Context) -> list[SourceFunnel]:
    """One row a source."""
    rows = []
    out = context.out
    sizes, counts = out.sizes(), out.counts()
    for one in sources(context.config):
        parts = parts_of(list(counts), one.key)
        kept = sum(counts[part] for part in parts)
        dropped = dict(count_reasons(rejects_in_pieces(out, columns=REASONED, parts=parts, sizes=sizes)).counts)
        records = kept + sum(dropped.values())
        rows.append(SourceFunnel(one.split, one.source.name, records, dropped, kept))
    return rows


def _check_kept(config: RunConfig, *, funnel: Sequence[SourceFunnel]) -> None:
    """Raise ValueError for a source of which nothing is left; warn of one that repeats others for the most part."""
    for row in funnel:
        lost = row.records - row.kept
        head = f"questions.{row.split}, source {row.dataset!r}: {lost} of {row.records} records are put aside"
        if row.kept == 0:
            raise ValueError(f"{head}, all of them: {row.dropped}; leave the source out, or those that it repeats")
        if lost > config.run.reject_limit * row.records:
            log.warning("%s: %s", head, row.dropped)


def _check(config: RunConfig) -> None:
    """Raise ValueError that names every unreadable source; NotInstalled if packages are all that is missing."""
    wrong: list[str] = []
    not_installed: list[str] = []
    for one in sources(config):
        try:
            source = resolved(one.source)
            check_source(**source.model_dump(exclude={"skip", "limit", "sample"}), split=one.split)
            look(source, split=one.split)
        except ValueError as error:
            faults = not_installed if isinstance(error, NotInstalled) else wrong
            faults.append(f"questions.{one.split}, source {one.source.name!r}: {error}")
    if wrong:
        raise Faults(wrong)
    if not_installed:
        raise NotInstalled("\n  ".join(not_installed))


QUESTIONS_STAGE = Stage(
    name="questions",
    words="reading questions",
    run=_run,
    reads=_reads,
    code=_code,
    inputs=_inputs,
    check=_check,
    version=3,
)
