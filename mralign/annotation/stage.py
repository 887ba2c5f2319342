"""Stage `annotation`: two annotators and an adjudicator label every candidate's thought.

Candidates enter (into a stage of `annotation_of`, other thoughts in their schema); one row of schema ANNOTATIONS a
candidate leaves, with `taxonomy.json` (the states of the chain, in order) beside the parts, and `tallies/` with what
each part took. Where chats are asked, candidates stream through the engines that they visit (Ray Data scales and feeds
each pool), and the last one commits; where all are cue phrases, each upstream part is one remote task. The annotators,
the consensus and the figures are pure functions.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from mralign.annotation.costs import describe_expected, expect, figures, money
from mralign.annotation.cues import load_rule_book
from mralign.annotation.desk import (
    Desk,
    add_tallies,
    annotate_by_cues,
    annotate_row,
    desk_of,
    instructions,
    roles_of,
    taxonomy_of,
    trajectory_of,
)
from mralign.annotation.panel import Hearing, Visit, hear
from mralign.annotation.taxonomy import PAPER
from mralign.asking.chats import ChatHouse, Speaker, check_purses, check_speaker
from mralign.chat.model_files import load_tokenizer, model_path
from mralign.config import RunConfig, resolve_path
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.placement import DEALING, Fault, Workers
from mralign.run.rejects import Reject, to_table
from mralign.run.stage import Context, Outcome, Stage, all_checks, log, map_parts, progress
from mralign.run.store import Directory, StageDir, drop_repeated, part_key, part_name
from mralign.run.stream import batch_key, pack
from mralign.serving.calls import Stopped
from mralign.serving.lacks import annotator_lacks
from mralign.serving.streaming import (
    deal,
    endpoint_pool,
    engine_pool,
    engine_workers,
    forget_failures,
    reports,
    visit,
)
from mralign.serving.vllm import engine_faults

_HALT = "halted.txt"
_SAMPLE = 200  # candidates that the expected cost is measured on
_COLUMNS = ["row_id", "question_id", "dataset", "polarity", "question", "answers", "text"]
_COLUMNS += ["segment_start", "segment_end"]


def _run(context: Context) -> Outcome:
    desk = desk_of(context.config)
    source = _source(context)
    rows_in = sum(source.rows(part) for part in source.parts())
    if not rows_in:
        raise ValueError(
            "no candidate is left: no question was right in every draw of one mode and wrong in every draw of the "
            "other, or its draws were invalid, or the length filter dropped it. The same command with --until "
            "candidates prints how many went where; see candidates.*, rollouts.prompt and model.family"
        )
    states = {"states": desk.taxonomy.states, "macro": dict(desk.taxonomy.macro)}
    context.out.write_text("taxonomy.json", json.dumps(states))
    times: dict[str, float] = {}
    if desk.visits:
        times = _ask_chats(context, desk=desk, rows=rows_in)
    else:
        by_cues = partial(_annotate_part, desk=desk)
        map_parts(context, by_cues, source=source, schema=ANNOTATIONS, upstream_schema=CANDIDATES)
    done = context.out.parts()
    tallies = (tally for part in done for tally in _tallies(context.out, part))
    steps = (context.out.read_parts([part], schema=ANNOTATIONS, columns=["steps"]) for part in done)
    rows_out = sum(context.out.rows(part) for part in done)
    return Outcome(rows_in, rows_out, figures(steps, tallies=tallies, desk=desk) | times)


def _source(context: Context) -> StageDir:
    """The trajectories to be annotated: candidates, whatever the stage that gives them is called."""
    (source,) = context.upstream.values()
    return source


def _tally_name(part: str) -> str:
    return f"tallies/{part_key(part)}.json"


def _tallies(out: StageDir, part: str) -> list[dict[str, Any]]:
    """What each row (or reject) took that stands in the part now; a row that was asked again stands in another."""
    if not out.exists(_tally_name(part)):
        return []  # cue phrases take nothing
    standing = out.read_parts([part], schema=ANNOTATIONS, columns=["row_id"]).column("row_id").to_pylist()
    standing += out.read_rejects([part], columns=["row_id"]).column("row_id").to_pylist()
    found = json.loads(out.read_text(_tally_name(part)))
    return [found[row_id] for row_id in standing]


def _annotate_part(table: pa.Table, *, desk: Desk) -> tuple[pa.Table, list[Reject]]:
    rows, rejects = annotate_by_cues(table, desk=desk)
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS), rejects


class Annotating:
    """A Ray Data actor: one engine (or endpoint) that trajectories visit. At the last one they are committed."""

    def __init__(self, *, desk: Desk, visit: Visit, last: bool, out: StageDir) -> None:
        self.house = ChatHouse(desk.speaker(visit))
        self.seated = desk.seat(visit, house=self.house)
        self.desk, self.last, self.out, self.ready = desk, last, out, time.time()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Not the last: the batch with what was heard. The last: its rows committed, and what they took."""
        rows = batch.to_pylist()
        halted = await asyncio.to_thread(_read_halt, self.out)
        if halted:  # at another engine: nothing more is paid for that would be of no use
            rows = [row | {"stopped": row["stopped"] or halted} for row in rows]
        hearings = [Hearing.from_json(row["heard"]) for row in rows]
        pairs = zip(rows, hearings, strict=True)
        done = await asyncio.gather(*(self._visit(row, hearing=hearing) for row, hearing in pairs))
        reason = next((answer for answer in done if isinstance(answer, str)), "")
        if reason and not halted:
            await asyncio.to_thread(self.out.write_text, _HALT, reason)
        if not self.last:
            heard = pa.array([hearing.to_json() for hearing in hearings], pa.string())
            stopped = pa.array([answer if isinstance(answer, str) else "" for answer in done], pa.string())
            kept = batch.drop_columns(["heard", "stopped"])
            return kept.append_column("heard", heard).append_column("stopped", stopped)
        return await asyncio.to_thread(self._commit, batch, hearings, done, reason)

    async def _visit(self, row: dict[str, Any], *, hearing: Hearing) -> dict[str, Any] | Reject | str | None:
        """A row, a reject, or (text) why nothing may be asked any more; None where the row goes on."""
        if row["stopped"]:
            return str(row["stopped"])
        try:
            if self.last:
                return await annotate_row(row, desk=self.desk, hearing=hearing, seated=self.seated)
            await hear(trajectory_of(row), hearing=hearing, annotators=self.seated)
        except Stopped as reason:
            return str(reason)
        return None

    def _commit(self, batch: pa.Table, hearings: list[Hearing], done: list[Any], stopped: str) -> pa.Table:
        rows = [answer for answer in done if isinstance(answer, dict)]
        rejects = [answer for answer in done if isinstance(answer, Reject)]
        ids = batch.column("row_id").to_pylist()
        ended = zip(ids, hearings, done, strict=True)
        finished = {row_id: hearing for row_id, hearing, answer in ended if not isinstance(answer, str)}
        if finished:
            part = part_name(f"{batch.column('part')[0]}-{batch_key(ids)}")
            tallies = {row_id: hearing.tallies for row_id, hearing in finished.items()}
            self.out.write_text(_tally_name(part), json.dumps(tallies))
            table = pa.Table.from_pylist(rows, schema=ANNOTATIONS)
            self.out.commit(part, table, schema=ANNOTATIONS, rejects=to_table(rejects))
        counted = json.dumps(add_tallies(finished.values()))
        return pa.table({"rows": [len(finished)], "ready": [self.ready], "stopped": [stopped], "tallies": [counted]})


def _ask_chats(context: Context, *, desk: Desk, rows: int) -> dict[str, float]:
    """Annotate by engines what is not annotated yet. Returns the seconds of this call until the engine of the last
    visit was ready and those after it. Raises ValueError when a budget is spent; what came is kept."""
    out, source = context.out, _source(context)
    forget_failures(out)
    drop_repeated(out, schema=ANNOTATIONS)  # of a run that was killed before it came to that
    _clear_halt(out)
    done = {part: [p for p in out.parts() if p.startswith(f"part-{part_key(part)}-")] for part in source.parts()}
    left = rows - sum(out.rows(p) + out.reject_rows(p) for names in done.values() for p in names)
    ready = began = time.time()
    if left > 0:
        if desk.twins:
            log.warning("annotation.annotators are one model at temperature 0: both will say the same, always")
        log.info("annotation of %d trajectories will take\n%s", left, _expected(context, desk=desk, rows=left))
        ready = _follow(_stream(source, done, desk=desk, out=out), desk=desk, total=left)
    drop_repeated(out, schema=ANNOTATIONS)
    return {"engine_start_s": round(ready - began, 2), "annotating_s": round(time.time() - ready, 2)}


def _read_halt(out: StageDir) -> str:
    """Why nothing may be asked any more, as another engine's actor wrote it; empty if all may go on."""
    return out.read_text(_HALT) if out.exists(_HALT) else ""


def _clear_halt(out: StageDir) -> None:
    if out.exists(_HALT):
        out.filesystem.delete_file(out.path(_HALT))


def _served(config: RunConfig) -> list[Speaker]:
    """One speaker of every engine of ours that trajectories visit."""
    desk = desk_of(config)
    return [speaker for speaker in map(desk.speaker, desk.visits) if speaker.http is None]


def _workers(config: RunConfig) -> Sequence[Workers]:
    """The engines that trajectories visit: candidates stream through all of them at the same time. Annotators with the
    same model and `serving` share one."""
    setting = "annotation: `serving`, else engine"
    engines = [engine_workers(s.serving, what=f"engines of {s.name!r}", setting=setting) for s in _served(config)]
    return [*engines, DEALING] if engines else []


def _faults(config: RunConfig) -> Sequence[Fault]:
    return list(dict.fromkeys(fault for speaker in _served(config) for fault in engine_faults(speaker.serving)))


def _follow(reports: Iterator[dict[str, Any]], *, desk: Desk, total: int) -> float:
    """Drive the stream with a progress bar of rows, tokens and money; when the engine of the last visit was ready."""
    stopped, ready, tokens, spent = "", math.inf, 0, 0.0

    def rows() -> Iterator[int]:
        nonlocal stopped, ready, tokens, spent
        for report in reports:
            for role, tally in json.loads(report["tallies"]).items():
                tokens += tally.get("fresh_prompt_tokens", 0) + tally.get("fresh_completion_tokens", 0)
                spent += money(tally, desk=desk, role=role, fresh=True)
            stopped, ready = report["stopped"] or stopped, min(ready, report["ready"])
            yield from range(report["rows"])

    bar: Any = progress(rows(), total=total, label="annotation", unit="row")
    for _ in bar:
        bar.set_postfix_str(f"{tokens:,} tokens, money {spent:,.2f}", refresh=False)
    if stopped:
        raise ValueError(stopped)
    return ready


def _stream(source: StageDir, done: dict[str, list[str]], *, desk: Desk, out: StageDir) -> Iterator[dict[str, Any]]:
    """One report a committed batch."""
    rows = desk.speaker(desk.visits[0]).serving.batch_size
    data = deal(list(done), read=_rows_left, given={"source": source, "done": done, "out": out, "rows": rows})
    for number, called in enumerate(desk.visits, 1):
        given = {"desk": desk, "visit": called, "last": number == len(desk.visits), "out": out}
        data = visit(data, Annotating, given=given, pool=_pool(desk.speaker(called)))
    for report in reports(data):
        yield from report.to_pylist()


def _pool(speaker: Speaker) -> dict[str, Any]:
    if speaker.http is not None:
        return endpoint_pool(speaker.http, batch_size=speaker.serving.batch_size)
    return engine_pool(speaker.serving)


def _rows_left(
    batch: pa.Table, *, source: StageDir, done: dict[str, list[str]], out: StageDir, rows: int
) -> Iterator[pa.Table]:
    """The candidates of the parts named in `batch` that have no row in the parts `done`, nothing heard of them yet, as
    packed batches of so many `rows`."""
    for part in batch.column("part").to_pylist():
        table = source.read_parts([part], schema=CANDIDATES, columns=_COLUMNS)
        finished = out.read_parts(done[part], schema=ANNOTATIONS, columns=["row_id"]).column("row_id").to_pylist()
        finished += out.read_rejects(done[part]).column("row_id").to_pylist()
        left = ~np.isin(table.column("row_id").to_numpy(), np.array(finished, dtype=object))
        todo = table.filter(pa.array(left, pa.bool_()))
        for name, text in (("part", part_key(part)), ("heard", Hearing().to_json()), ("stopped", "")):
            todo = todo.append_column(name, pa.array([text] * todo.num_rows, pa.string()))
        yield from pack(todo, rows=rows)


def _expected(context: Context, *, desk: Desk, rows: int) -> str:
    """The expected cost as text, measured on the first candidates with the tokenizer of the model that thought."""
    source, model = _source(context), context.config.model
    sample: list[Any] = []
    for part in source.parts():
        table = source.read_parts([part], schema=CANDIDATES, columns=_COLUMNS)
        sample += [trajectory_of(row) for row in table.slice(0, _SAMPLE - len(sample)).to_pylist()]
        if len(sample) >= _SAMPLE:
            break
    tokenizer = load_tokenizer(model_path(model), model=model)
    count = lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])  # noqa: E731
    return describe_expected(expect(sample, rows=rows, desk=desk, count=count))


def _forecast(context: Context) -> str:
    desk, source = desk_of(context.config), _source(context)
    rows = sum(source.rows(part) for part in source.parts())
    if not rows or not desk.visits:
        return "  no model is asked"
    return _expected(context, desk=desk, rows=rows)


def _reads(config: RunConfig) -> dict[str, Any]:
    settings = config.annotation
    annotators = tuple(config.filled(annotator) for annotator in settings.annotators)
    filled = {"annotators": annotators, "adjudicator": config.filled(settings.adjudicator)}
    return {"annotation": settings.model_copy(update=filled), "run.seed": config.run.seed}


def _code(config: RunConfig) -> dict[str, Any]:
    """The paper's taxonomy where the user gives none (a file is an input), and the wording of what chats are told."""
    found: dict[str, Any] = {}
    if config.annotation.taxonomy is None:
        found["taxonomy"] = [PAPER.labels, dict(PAPER.macro)]
    if any(annotator.engine != "cues" for annotator in roles_of(config.annotation).values()):
        found["instructions"] = instructions(PAPER)
    return found


def _inputs(config: RunConfig) -> dict[str, str]:
    settings = config.annotation
    found = {"taxonomy": settings.taxonomy} if settings.taxonomy else {}
    for role, annotator in roles_of(settings).items():
        if annotator.rule_book:
            found[role] = annotator.rule_book
        elif annotator.engine == "vllm":
            model = annotator.model or config.model
            found |= {f"{role} {name}": path for name, path in model.inputs().items()}
    return found


def _check(config: RunConfig) -> None:
    settings = config.annotation
    labels = set(taxonomy_of(settings).labels)
    for annotator in roles_of(settings).values():
        if annotator.rule_book:
            Directory(resolve_path(annotator.rule_book)).require("annotation file")
            unknown = set(load_rule_book(resolve_path(annotator.rule_book)).labels) - labels
            if unknown:
                raise ValueError(
                    f"rule book {annotator.rule_book} uses labels {sorted(unknown)} that the taxonomy does not have; "
                    f"allowed are {sorted(labels)}"
                )
    speakers = desk_of(config).speakers.values()
    all_checks([*(partial(check_speaker, speaker) for speaker in speakers), partial(check_purses, speakers)])


def _lacks(config: RunConfig) -> list[str]:
    places = ("annotation.annotators[0]", "annotation.annotators[1]", "annotation.adjudicator")
    found = zip(places, roles_of(config.annotation).values(), strict=True)
    return [said for place, who in found for said in annotator_lacks(who, config=config, setting=place)]


ANNOTATION_STAGE = Stage(
    name="annotation",
    run=_run,
    reads=_reads,
    code=_code,
    upstream=("candidates",),
    inputs=_inputs,
    check=_check,
    lacks=_lacks,
    forecast=_forecast,
    workers=_workers,
    faults=_faults,
    version=3,
)


def annotation_of(source: str, *, name: str) -> Stage:
    """The same annotators on the trajectories of another stage, whose parts are of schema CANDIDATES."""
    return replace(ANNOTATION_STAGE, name=name, upstream=(source,))
