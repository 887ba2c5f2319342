"""Stage `questions`: the configured sources become one deduplicated table of questions.

Files and hub data sets enter; schema QUESTIONS leaves in parts of 2,000, named `<split>-<source>-<number>`. Ray Data
streams each source into raw parts; then only keys meet: a 16-byte hash of every normalised question says which rows
repeat or also stand in a held-out split, and each part is committed without those. No process holds all questions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from mralign.config import NAMED_FORMATS, PLAIN_FORMATS, RunConfig, Source, resolve_path
from mralign.questions.inspection import Yield, check_yield, look, warn_of_choices
from mralign.questions.repeats import drop_repeats, find_repeats, question_keys
from mralign.questions.sources import check_source, read_batches
from mralign.rows.schema import QUESTIONS
from mralign.run.placement import NotInstalled
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context, Outcome, Stage, log, progress
from mralign.run.store import StageDir, part_key, part_name

SPLITS = ("train", "dev", "test")
_ROWS = 2_000  # questions a part
_SHOWN = 50  # rejects from which the columns of a wrong source are told, and rows that are looked at
_PARTS = 50  # parts whose keys one task reads
_KEYS_A_BUCKET = 2_000_000  # keys that one task compares


def sources(config: RunConfig) -> dict[str, tuple[Source, ...]]:
    """Sources by split; imported rollouts bring their own train questions."""
    train = config.questions.train
    if config.rollouts.import_on:
        fields = config.rollouts.import_fields
        train = (
            Source(
                name=config.rollouts.import_name,
                path=config.rollouts.import_on,
                fields={"id": fields.id, "question": fields.question, "answers": fields.answers},
            ),
        )
    return {"train": train, "dev": config.questions.dev, "test": config.questions.test}


def _inputs(config: RunConfig) -> Mapping[str, str]:
    return {f"{split}/{s.name}": s.path for split, group in sources(config).items() for s in group}


def _reads(config: RunConfig) -> Mapping[str, Any]:
    return {f"questions.{split}": group for split, group in sources(config).items()}


def _code(config: RunConfig) -> Mapping[str, Any]:
    """The settings that a named format stands for."""
    formats = {source.format for group in sources(config).values() for source in group}
    return {f"format {name}": NAMED_FORMATS[name] for name in formats if name in NAMED_FORMATS}


def _read(batch: pa.Table, *, raw: StageDir) -> Iterator[pa.Table]:
    """Commit the raw parts of the sources in `batch`; yield the name of each."""
    for row in batch.to_pylist():
        source, key = Source.model_validate_json(row["source"]), f"{row['split']}-{row['number']:02d}"
        tables = read_batches(**resolved(source).model_dump(), split=row["split"], rows=_ROWS)
        for number, (table, rejects) in enumerate(tables):
            name = part_name(f"{key}-{number:05d}")
            raw.commit(name, table, schema=QUESTIONS, rejects=to_table(rejects))
            yield pa.table({"part": [name]})
        raw.write_text(f"{key}.read", "")


def resolved(source: Source) -> Source:
    """The source with the path of its file; in a plain one the answers lie in `answer`."""
    plain = source.format in PLAIN_FORMATS
    fields = {**({"answers": "answer"} if plain else {}), **source.fields}
    return source.model_copy(update={"path": resolve_path(source.path), "fields": fields})


def _read_all(context: Context, *, raw: StageDir) -> None:
    import ray

    items = [
        {"split": split, "number": number, "source": source.model_dump_json()}
        for split, group in sources(context.config).items()
        for number, source in enumerate(group)
        if not raw.exists(f"{split}-{number:02d}.read")
    ]
    if not items:
        return
    read: Any = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        cast(Any, _read),
        fn_kwargs={"raw": raw},
        batch_size=1,
        batch_format="pyarrow",
    )
    parts = (
        name for batch in read.iter_batches(batch_size=None, batch_format="pyarrow") for name in batch.column("part")
    )
    for _ in progress(parts, total=None, label="questions, reading"):
        pass


def _drop_all(context: Context, *, raw: StageDir) -> None:
    """Commit every raw part without the questions that stand elsewhere."""
    import ray

    names = [name for split in SPLITS for name in raw.parts(split)]
    splits = [part_key(name).partition("-")[0] for name in names]
    groups = {start: names[start : start + _PARTS] for start in range(0, len(names), _PARTS)}
    keys = [ray.remote(_keys).remote(raw, group) for group in groups.values()]
    buckets = max(1, -(-sum(raw.rows(name) for name in names) // _KEYS_A_BUCKET))
    find: Any = ray.remote(_find)
    ids = [find.remote(splits, "id", (b, buckets), 0, *keys) for b in range(buckets)]
    questions = [find.remote(splits, "question", (b, buckets), buckets, *ids, *keys) for b in range(buckets)]
    task: Any = ray.remote(_commit)
    imported = context.config.rollouts.import_on is not None
    pending = [
        task.remote(raw, context.out, group, start, imported, *ids, *questions) for start, group in groups.items()
    ]
    for done in progress(pending, total=len(pending), label="questions, repeats", unit=f"{_PARTS} parts"):
        ray.get(done)


def _keys(raw: StageDir, names: Sequence[str]) -> list[pa.Table]:
    return [question_keys(raw.read_parts([name], schema=QUESTIONS)) for name in names]


def _find(splits: Sequence[str], by: str, share: tuple[int, int], gone: int, *tables: Any) -> pa.Table:
    """The first `gone` of `tables` are REPEATS that are dropped already, the others lists of KEYS."""
    without = pa.concat_tables(tables[:gone]) if gone else None
    keys = [table for group in tables[gone:] for table in group]
    return find_repeats(keys, splits=splits, by=by, without=without, bucket=share[0], buckets=share[1])


def _commit(raw: StageDir, out: StageDir, names: Sequence[str], start: int, imported: bool, *repeats: pa.Table) -> None:
    found = pa.concat_tables(repeats)
    for number, name in enumerate(names, start):
        mine = found.filter(pc.equal(found.column("part"), number))
        table, repeated = drop_repeats(raw.read_parts([name], schema=QUESTIONS), mine)
        if imported:  # a row a draw: the same question again is no fault
            repeated = [reject for reject in repeated if reject.reason != "duplicate_id"]
        rejects = pa.concat_tables([raw.read_rejects([name]), to_table(repeated)])
        out.commit(name, table, schema=QUESTIONS, rejects=rejects)


def _run(context: Context) -> Outcome:
    raw = StageDir(f"{context.out.uri}/raw", stage="questions", fingerprint=context.out.fingerprint)
    _read_all(context, raw=raw)
    _check_read(context.config, raw=raw)
    _drop_all(context, raw=raw)
    funnel = _funnel(context)
    _check_kept(context.config, funnel=funnel)
    _remove(context.config, raw=raw)
    kept = {split: sum(row["kept"] for row in funnel if row["split"] == split) for split in SPLITS}
    rows_in = sum(row["records"] for row in funnel)
    return Outcome(rows_in=rows_in, rows_out=sum(kept.values()), figures={**kept, "funnel": funnel})


def _check_read(config: RunConfig, *, raw: StageDir) -> None:
    """Raise ValueError for a source that gave no question, or more rejects than a source may have."""
    for split, group in sources(config).items():
        for number, source in enumerate(group):
            parts = raw.parts(f"{split}-{number:02d}")
            reasons = Counter(raw.read_rejects(parts, columns=["reason"]).column("reason").to_pylist())
            rejects = [Reject(**row) for row in _first_rejects(raw, parts)]
            with _named(split, source):
                found = Yield(sum(map(raw.rows, parts)), dict(reasons.most_common()), rejects)
                if "://" in source.path and parts:  # no local file, so the plan has not looked at it
                    warn_of_choices(source, raw.read_parts(parts[:1], schema=QUESTIONS).slice(0, _SHOWN).to_pylist())
                check_yield(resolved(source), found, limit=config.run.reject_limit, path=raw.path("rejects"))


def _first_rejects(raw: StageDir, parts: Sequence[str]) -> list[dict[str, Any]]:
    """Up to _SHOWN rejects of the first part that has any."""
    for part in parts:
        if raw.reject_rows(part):
            return cast(list[dict[str, Any]], raw.read_rejects([part]).slice(0, _SHOWN).to_pylist())
    return []


def _check_kept(config: RunConfig, *, funnel: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for a source of which nothing is left; warn of one that repeats others for the most part."""
    for row in funnel:
        lost = row["records"] - row["kept"]
        head = f"questions.{row['split']}, source {row['dataset']!r}: {lost} of {row['records']} records are put aside"
        if row["kept"] == 0:
            raise ValueError(f"{head}, all of them: {row['dropped']}; leave the source out, or those that it repeats")
        if lost > config.run.reject_limit * row["records"]:
            log.warning("%s: %s", head, row["dropped"])


@contextmanager
def _named(split: str, source: Source) -> Iterator[None]:
    """Puts the name of a source before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"questions.{split}, source {source.name!r}: {error}") from None


def _remove(config: RunConfig, *, raw: StageDir) -> None:
    """Delete the raw parts, the marks first: no kill may leave the mark of a source without its parts."""
    for split, group in sources(config).items():
        for number in range(len(group)):
            raw.filesystem.delete_file(raw.path(f"{split}-{number:02d}.read"))
    raw.remove()


def _funnel(context: Context) -> list[dict[str, Any]]:
    """One row a source: records read, records put aside by reason, questions kept."""
    rows = []
    for split, group in sources(context.config).items():
        for number, source in enumerate(group):
            parts = context.out.parts(f"{split}-{number:02d}")
            kept = sum(context.out.rows(part) for part in parts)
            found = context.out.read_rejects(parts, columns=["reason"]).column("reason")
            dropped = dict(Counter(found.to_pylist()).most_common())
            records = kept + sum(dropped.values())
            rows.append({"split": split, "dataset": source.name, "records": records, "dropped": dropped, "kept": kept})
    return rows


def _check(config: RunConfig) -> None:
    """Raise ValueError that names every unreadable source; NotInstalled if packages are all that is missing."""
    wrong: list[str] = []
    not_installed: list[str] = []
    for split, group in sources(config).items():
        for source in group:
            try:
                found = resolved(source)
                check_source(**found.model_dump(exclude={"skip", "limit", "sample"}), split=split)
                look(found, split=split)
            except ValueError as error:
                faults = not_installed if isinstance(error, NotInstalled) else wrong
                faults.append(f"questions.{split}, source {source.name!r}: {error}")
    if wrong:
        raise ValueError("\n  ".join(wrong))
    if not_installed:
        raise NotInstalled("\n  ".join(not_installed))


QUESTIONS_STAGE = Stage(name="questions", run=_run, reads=_reads, code=_code, inputs=_inputs, check=_check, version=3)
