"""Stages `judgements_base` and `judgements`: judges read the responses to the benchmarks that need them.

Responses of one model enter, with the fields of the questions that a benchmark needs; parts of schema JUDGEMENTS leave, 16 responses a
part, a judgement that cannot be used as a reject. The driver asks: endpoints from here, a vLLM judge in one Ray actor
that judge, extractor and verifier share where they name the same model. What a judge said is kept in the run directory
before anybody sees it, so nothing is paid for twice, whatever ends a run. The questions to the judges, the reading of
their replies and the figures are those of each benchmark (benchmarks/, judging.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.asking.chats import (
    asking_faults,
    asking_workers,
    chat_matters,
    check_purses,
    check_speaker,
    open_chats,
    speaker_of,
)
from mralign.asking.interview import commit_in_parts, price, together
from mralign.config import Annotator, RunConfig
from mralign.evaluation.benchmarks import find, of_config
from mralign.evaluation.benchmarks.benchmark import ROLES, Case, Role, Step
from mralign.evaluation.judging import Judges, judge, verdicts
from mralign.evaluation.responses import read_responses
from mralign.retrieval.search import check_search, open_search
from mralign.rows.schema import JUDGEMENTS, QUESTIONS
from mralign.rows.subjects import Subject
from mralign.run.rejects import Reject, check_limit
from mralign.run.stage import Context, Outcome, Stage, all_checks, log
from mralign.run.store import StageDir
from mralign.serving.lacks import annotator_lacks, search_lacks

PART_ROWS = 16  # responses that are committed together
_ADVICE = (
    "name a chat model with engine vllm or http, e.g. "
    "'evaluation.judge={name: judge, engine: http, http: {base_url: ...}}'"
)
_NEEDED = ["row_id", "question_id", "dataset", "answers", "answer"]


def judgements_stage(subject: Subject) -> Stage:
    """The stage that judges the responses of one model."""
    return Stage(
        name=subject.stage("judgements"),
        run=partial(_run, subject=subject),
        matters=_matters,
        upstream=("questions", subject.stage("responses")),
        inputs=_inputs,
        check=_check,
        lacks=_lacks,
        workers=lambda config: asking_workers(_judges(config).values(), config=config),
        faults=lambda config: asking_faults(_judges(config).values(), config=config),
        version=3,
    )


def _judged(config: RunConfig) -> dict[str, str]:
    """Data set -> benchmark, of those whose answers are judged."""
    return {dataset: name for dataset, name in of_config(config).items() if find(name).steps}


def _steps(config: RunConfig) -> list[Step]:
    """The steps of all benchmarks of this run that are judged."""
    return [step for name in dict.fromkeys(_judged(config).values()) for step in find(name).steps]


def _judges(config: RunConfig) -> dict[Role, Annotator]:
    """Who is asked, by role; a role that nobody has is missing, and `_check` says so."""
    settings, wanted = config.evaluation, {step.role for step in _steps(config)}
    found: dict[Role, Annotator] = {}
    for role in ROLES:
        annotator = getattr(settings, role) or settings.judge
        if role in wanted and annotator is not None:
            found[role] = annotator
    return found


def _searches(config: RunConfig) -> bool:
    """Whether evidence is searched for."""
    return any(step.searched for step in _steps(config))


def _check(config: RunConfig) -> None:
    judges, judged = _judges(config), _judged(config)
    missing = {step.role for step in _steps(config)} - set(judges)
    if missing:
        raise ValueError(
            f"{sorted(judged)} of questions.{config.evaluation.split} are scored by judges, and there is no "
            f"{', '.join(sorted(missing))}: {_ADVICE}, or leave these sources out"
        )
    for role, annotator in judges.items():
        if annotator.engine == "cues":
            raise ValueError(f"the {role} {annotator.name!r} has engine=cues, which cannot judge: {_ADVICE}")
    speakers = [speaker_of(annotator, config=config) for annotator in judges.values()]
    checks = [*(partial(check_speaker, speaker) for speaker in speakers), partial(check_purses, speakers)]
    if _searches(config):
        checks.append(partial(check_search, config))
    all_checks(checks)


def _lacks(config: RunConfig) -> list[str]:
    found: list[str] = []
    for role, annotator in _judges(config).items():
        found += annotator_lacks(annotator, config=config, setting=f"evaluation's {role}")
    retrieval = config.evaluation.retrieval
    if _searches(config) and retrieval.engine == "http":
        found += search_lacks(retrieval.search)
    return found


def _matters(config: RunConfig) -> dict[str, Any]:
    """What changes a judgement: who judges, what they are told and shown, and where evidence is found."""
    settings = config.evaluation
    found: dict[str, Any] = {
        "seed": config.run.seed,
        "split": settings.split,
        "benchmarks": _judged(config),
        "judges": {role: chat_matters(annotator, config=config) for role, annotator in _judges(config).items()},
        "steps": [
            [step.kind, step.instruction, step.reply.model_json_schema(), step.bounds] for step in _steps(config)
        ],
    }
    if _searches(config):
        retrieval = settings.retrieval
        place: dict[str, Any] = {"fields": retrieval.fields}
        if retrieval.engine == "http":
            place = retrieval.search.model_dump(mode="json", include={"url", "request", "results", "fields"})
        found["search"] = {"engine": retrieval.engine, "evidence": settings.longfact.evidence, **place}
    return found


def _inputs(config: RunConfig) -> dict[str, str]:
    found = {}
    for role, annotator in _judges(config).items():
        if annotator.engine == "vllm":
            files = (annotator.model or config.model).inputs()
            found |= {f"{role} {name}": path for name, path in files.items()}
    retrieval = config.evaluation.retrieval
    if _searches(config) and retrieval.engine == "bm25" and retrieval.corpus:
        found["corpus"] = retrieval.corpus
    return found


def _run(context: Context, *, subject: Subject) -> Outcome:
    config, judged = context.config, _judged(context.config)
    questions = read_questions(context.upstream["questions"], split=config.evaluation.split, benchmarks=judged)
    tables = read_responses(context.upstream[subject.stage("responses")], datasets=sorted(judged))
    rows = (row for table in tables for row in table.select(_NEEDED).to_pylist())
    cases = cases_of(rows, benchmarks=judged, questions=questions)
    log.info("%s: %d responses to %s", context.out.stage, len(cases), ", ".join(sorted(judged)))
    tallies = asyncio.run(_judge_all(cases, context=context)) if cases else {}
    parts = context.out.parts()
    rows_out = sum(context.out.rows(part) for part in parts)
    rows_in = rows_out + sum(context.out.reject_rows(part) for part in parts)
    figures = _figures(context.out)
    _check_rejected(cases, context=context)
    return Outcome(rows_in, rows_out, {**figures, "last_session": _session(tallies, config=config)})


@dataclass(frozen=True)
class Asked:
    """What judges may know of a question: its text, and the fields that its benchmark needs."""

    question: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_questions(questions: StageDir, *, split: str, benchmarks: Mapping[str, str]) -> dict[str, Asked]:
    """By question_id, the questions of the data sets in `benchmarks`. Raises ValueError where a field is missing."""
    columns = ["question_id", "dataset", "question", "extra"]
    table = questions.read_parts(questions.parts(split), schema=QUESTIONS, columns=columns)
    found = {}
    for row in table.to_pylist():
        if row["dataset"] in benchmarks:
            needed, extra = find(benchmarks[row["dataset"]]).fields, json.loads(row["extra"])
            missing = [name for name in needed if name not in extra]
            if missing:
                raise ValueError(
                    f"question {row['question_id']} has no {', '.join(missing)}, which the judges of "
                    f"{benchmarks[row['dataset']]} are shown; give a source that has"
                )
            found[row["question_id"]] = Asked(row["question"], {name: extra[name] for name in needed})
    return found


def cases_of(
    rows: Iterable[Mapping[str, Any]], *, benchmarks: Mapping[str, str], questions: Mapping[str, Asked]
) -> list[Case]:
    """What the judges must see of each response, in order; one that several methods share (Self-Refine's first answer,
    where it stands) once. ValueError if different responses share a row_id: their verdicts could not be told apart."""
    found: dict[str, Case] = {}
    for row in rows:
        asked = questions[row["question_id"]]  # the row's own question may hold the snippets of a search
        case = Case(
            row_id=row["row_id"],
            question_id=row["question_id"],
            dataset=row["dataset"],
            benchmark=benchmarks[row["dataset"]],
            question=asked.question,
            answer=row["answer"] or None,  # nobody is asked about an invalid or an empty one
            gold=tuple(row["answers"]),
            fields=asked.fields,
        )
        if found.setdefault(case.row_id, case) != case:
            raise ValueError(f"two different responses are called {case.row_id}; each needs a row_id of its own")
    return list(found.values())


def _check_rejected(cases: Sequence[Case], *, context: Context) -> None:
    """Raise ValueError where more responses to a benchmark than `run.reject_limit` have no verdict: one judgement in
    many that cannot be used puts its whole response aside, and that of the longest answers first."""
    out = context.out
    found = verdicts(out.read(schema=JUDGEMENTS).to_pylist(), out.read_rejects().to_pylist())
    for dataset in dict.fromkeys(case.dataset for case in cases):
        own = [found[case.row_id].rejected for case in cases if case.dataset == dataset]
        check_limit(
            stage=f"{out.stage}, responses to {dataset}",
            reasons=dict(Counter(reason for reason in own if reason)),
            rows_in=len(own),
            limit=context.config.run.reject_limit,
            path=out.path("rejects"),
        )


async def _judge_all(cases: Sequence[Case], *, context: Context) -> Mapping[str, Counter[str]]:
    """Judge what is not judged yet; what that took, by role. Raises calls.Stopped, a ValueError, when money is spent:
    what was committed stays."""
    from tqdm import tqdm

    config = context.config
    judges = {str(role): annotator for role, annotator in _judges(config).items()}
    tallies: dict[str, Counter[str]] = {role: Counter() for role in judges}
    async with AsyncExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(cases), desc=context.out.stage, unit="row", mininterval=1.0))
        chats = await stack.enter_async_context(open_chats(judges, config=config))
        searcher = await stack.enter_async_context(open_search(config)) if _searches(config) else None
        asked = Judges(chats, searcher, config.evaluation.longfact.evidence, tallies)
        await judge_in_parts(
            cases, judges=asked, out=context.out, report=bar.update, at_once=_parts_at_once(judges.values(), config)
        )
        return tallies


async def judge_in_parts(
    cases: Sequence[Case], *, judges: Judges, out: StageDir, report: Callable[[int], object], at_once: int | None = None
) -> None:
    """Commit the judgements of all cases; `report` hears how many responses each new part holds."""

    async def work(members: Sequence[Case]) -> tuple[pa.Table, list[Reject]]:
        said = await together(judge(case, benchmark=find(case.benchmark), judges=judges) for case in members)
        rows = [one for judgements in said for one in judgements if not isinstance(one, Reject)]
        rejects = [one for judgements in said for one in judgements if isinstance(one, Reject)]
        return pa.Table.from_pylist(rows, schema=JUDGEMENTS), rejects

    await commit_in_parts(cases, rows=PART_ROWS, work=work, schema=JUDGEMENTS, out=out, report=report, at_once=at_once)


def _parts_at_once(judges: Collection[Annotator], config: RunConfig) -> int:
    """So many that the widest engine stays full while the slowest responses of some parts are still judged; evidence
    is held in memory for these only."""
    widths = [
        (a.http or config.http).concurrency if a.engine == "http" else (a.serving or config.engine).max_num_seqs
        for a in judges
    ]
    return 1 + 2 * -(-max(widths) // PART_ROWS)


def _figures(out: StageDir) -> dict[str, Any]:
    """Judgements by kind, and responses with a verdict and without, over all sessions."""
    rows = out.read(schema=JUDGEMENTS, columns=["row_id", "kind", "verdict"]).to_pylist()
    found = verdicts(rows, out.read_rejects().to_pylist())
    rejected = Counter(verdict.rejected for verdict in found.values() if verdict.rejected)
    return {
        "judgements": dict(Counter(row["kind"] for row in rows)),
        "responses": len(found),
        "responses_rejected": dict(rejected.most_common()),
    }


def _session(tallies: Mapping[str, Counter[str]], *, config: RunConfig) -> dict[str, Any]:
    """What this session took, by role; money that was spent now."""
    judges = {str(role): annotator for role, annotator in _judges(config).items()}
    found = {}
    for role, tally in tallies.items():
        if tally:
            annotator = judges[role]
            http = (annotator.http or config.http) if annotator.engine == "http" else None
            found[role] = {**tally, "money_now": price(tally, http=http, fresh=True)}
    return found
