"""Stages `judgements_base` and `judgements`: judges read the responses to TruthfulQA and to LongFact.

Responses of one model enter, with the questions' incorrect answers; parts of schema JUDGEMENTS leave, 16 responses a
part, a judgement that cannot be used as a reject. The driver asks: endpoints from here, a vLLM judge in one Ray actor
that judge, extractor and verifier share where they name the same model. What a judge said is kept in the run directory
before anybody sees it, so nothing is paid for twice, whatever ends a run. The questions to the judges, the reading of
their replies and the figures are pure functions (truthfulqa.py, longfact.py, judging.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.asking.chats import (
    asking_faults,
    asking_workers,
    check_purses,
    check_speaker,
    open_chats,
    speaker_of,
)
from mralign.asking.interview import commit_in_parts, price, together
from mralign.config import Annotator, RunConfig, named
from mralign.evaluation import longfact, truthfulqa
from mralign.evaluation.judging import EXTRACTOR, JUDGE, VERIFIER, Case, Court, judge, verdicts
from mralign.evaluation.responses import read_responses
from mralign.retrieval.search import check_search, open_search
from mralign.rows.schema import JUDGEMENTS, QUESTIONS
from mralign.run.rejects import Reject, check_limit
from mralign.run.stage import Context, Outcome, Stage, all_checks, log
from mralign.run.store import StageDir
from mralign.serving.lacks import annotator_lacks, search_lacks

PART_ROWS = 16  # responses that are committed together
_KINDS = ("truthfulqa", "longfact")
_ADVICE = (
    "name a chat model with engine vllm or http, e.g. "
    "'evaluation.judge={name: judge, engine: http, http: {base_url: ...}}'"
)
_NEEDED = ["row_id", "question_id", "dataset", "question", "answers", "answer", "invalid"]


def judgements_stage(*, name: str, responses: str) -> Stage:
    """The stage that judges what the stage `responses` holds; `name` is judgements_base or judgements."""
    return Stage(
        name=name,
        run=partial(_run, responses=responses),
        reads=_reads,
        ignores=_NOT_JUDGED,
        code=_code,
        upstream=("questions", responses),
        inputs=_inputs,
        check=_check,
        lacks=_lacks,
        workers=lambda config: asking_workers(_judges(config).values(), config=config),
        faults=lambda config: asking_faults(_judges(config).values(), config=config),
        version=2,
    )


def _judged_by(config: RunConfig) -> dict[str, str]:
    """Benchmark -> truthfulqa | longfact, of those whose answers are judged."""
    sources = getattr(config.questions, config.evaluation.split)
    return {source.name: source.format for source in sources if source.format in _KINDS}


def _judges(config: RunConfig) -> dict[str, Annotator]:
    """Who is asked, by role; a role that nobody has is missing, and `_check` says so."""
    settings, kinds = config.evaluation, set(_judged_by(config).values())
    roles: dict[str, Annotator | None] = {}
    if "truthfulqa" in kinds:
        roles[JUDGE] = settings.judge
    if "longfact" in kinds:
        roles |= {EXTRACTOR: settings.extractor or settings.judge, VERIFIER: settings.verifier or settings.judge}
    return {role: annotator for role, annotator in roles.items() if annotator is not None}


def _check(config: RunConfig) -> None:
    judges, kinds = _judges(config), _judged_by(config)
    wanted = {"truthfulqa": {JUDGE}, "longfact": {EXTRACTOR, VERIFIER}}
    missing = set().union(*(wanted[kind] for kind in kinds.values())) - set(judges)
    if missing:
        raise ValueError(
            f"{sorted(kinds)} of questions.{config.evaluation.split} are scored by judges, and there is no "
            f"{', '.join(sorted(missing))}: {_ADVICE}, or leave these sources out"
        )
    for role, annotator in judges.items():
        if annotator.engine == "cues":
            raise ValueError(f"the {role} {annotator.name!r} has engine=cues, which cannot judge: {_ADVICE}")
    speakers = [speaker_of(annotator, config=config) for annotator in judges.values()]
    checks = [*(partial(check_speaker, speaker) for speaker in speakers), partial(check_purses, speakers)]
    all_checks(checks + ([partial(check_search, config)] if EXTRACTOR in judges else []))


def _lacks(config: RunConfig) -> list[str]:
    judges = _judges(config)
    found = [
        said
        for role, who in judges.items()
        for said in annotator_lacks(who, config=config, setting=f"evaluation's {role}")
    ]
    retrieval = config.evaluation.retrieval
    searched = EXTRACTOR in judges and retrieval.engine == "http"
    return found + (search_lacks(retrieval.search) if searched else [])


# Of what LongFact reads: how responses are scored, and what +Ret makes of snippets.
_NOT_JUDGED = (
    *("evaluation.longfact.k", "evaluation.retrieval.top_k"),
    *("evaluation.retrieval.prompt", "evaluation.retrieval.max_characters"),
)


def _reads(config: RunConfig) -> dict[str, Any]:
    """Who judges; for LongFact, where evidence is found and how much of it is shown."""
    judges = {f"evaluation.{role}": config.filled(annotator) for role, annotator in _judges(config).items()}
    longfact = "longfact" in _judged_by(config).values()
    evidence = ["evaluation.longfact", "evaluation.retrieval"] if longfact else []
    return judges | named(config, "evaluation.split", "run.seed", *evidence)


def _code(config: RunConfig) -> dict[str, Any]:
    """What the judges are told."""
    bounds = [longfact.SHORT_PASSAGE, longfact.LONG_PASSAGE, longfact.MAX_CLAIMS, longfact.MAX_CLAIM]
    told = {
        "truthfulqa": truthfulqa.INSTRUCTION,
        "longfact": [longfact.EXTRACTION, longfact.VERIFICATION, bounds],
    }
    return {f"instruction of {kind}": told[kind] for kind in sorted(set(_judged_by(config).values()))}


def _inputs(config: RunConfig) -> dict[str, str]:
    found = {
        f"{role} {name}": path
        for role, annotator in _judges(config).items()
        if annotator.engine == "vllm"
        for name, path in (annotator.model or config.model).inputs().items()
    }
    corpus = config.evaluation.retrieval.corpus
    searched = "longfact" in _judged_by(config).values() and config.evaluation.retrieval.engine == "bm25"
    return found | ({"corpus": corpus} if searched and corpus else {})


def _run(context: Context, *, responses: str) -> Outcome:
    config = context.config
    kinds = _judged_by(config)
    source = context.upstream["questions"]
    incorrect, asked = _incorrect_answers(source, config=config), _plain_questions(source, config=config)
    tables = read_responses(context.upstream[responses], datasets=sorted(kinds))
    rows = (row for table in tables for row in table.select(_NEEDED).to_pylist())
    cases = cases_of(rows, kinds=kinds, incorrect=incorrect, questions=asked)
    log.info("%s: %d responses to %s", context.out.stage, len(cases), ", ".join(sorted(kinds)))
    tallies = asyncio.run(_judge_all(cases, context=context)) if cases else {}
    parts = context.out.parts()
    judged = sum(context.out.rows(part) for part in parts)
    everything = judged + sum(context.out.reject_rows(part) for part in parts)
    figures = _figures(context.out)
    _check_rejected(cases, context=context)
    return Outcome(everything, judged, {**figures, "last_session": _session(tallies, config=config)})


def cases_of(
    rows: Iterable[Mapping[str, Any]],
    *,
    kinds: Mapping[str, str],
    incorrect: Mapping[str, Sequence[str]],
    questions: Mapping[str, str],
) -> list[Case]:
    """What the judges must see of each response, in order; one that several methods share (Self-Refine's first answer,
    where it stands) once. ValueError if different responses share a row_id: their verdicts could not be told apart."""
    found: dict[str, Case] = {}
    for row in rows:
        case = Case(
            row_id=row["row_id"],
            question_id=row["question_id"],
            dataset=row["dataset"],
            kind="truthfulqa" if kinds[row["dataset"]] == "truthfulqa" else "longfact",
            question=questions[row["question_id"]],  # the row's own may hold the snippets of a search
            answer=row["answer"] or None,  # nobody is asked about an invalid or an empty one
            correct=tuple(row["answers"]),
            incorrect=tuple(incorrect.get(row["question_id"], ())),
        )
        if found.setdefault(case.row_id, case) != case:
            raise ValueError(f"two different responses are called {case.row_id}; each needs a row_id of its own")
    return list(found.values())


def _incorrect_answers(questions: StageDir, *, config: RunConfig) -> dict[str, list[str]]:
    """By question_id, of TruthfulQA."""
    wanted = {name for name, kind in _judged_by(config).items() if kind == "truthfulqa"}
    parts = questions.parts(config.evaluation.split)
    rows = questions.read_parts(parts, schema=QUESTIONS, columns=["question_id", "dataset", "extra"]).to_pylist()
    return {r["question_id"]: json.loads(r["extra"])["incorrect_answers"] for r in rows if r["dataset"] in wanted}


def _plain_questions(questions: StageDir, *, config: RunConfig) -> dict[str, str]:
    """Question by question_id, of the split."""
    parts = questions.parts(config.evaluation.split)
    table = questions.read_parts(parts, schema=QUESTIONS, columns=["question_id", "question"])
    return dict(zip(*(table.column(name).to_pylist() for name in table.column_names), strict=True))


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
    judges = _judges(config)
    async with AsyncExitStack() as stack:
        bar = stack.enter_context(tqdm(total=len(cases), desc=context.out.stage, unit="row", mininterval=1.0))
        chats = await stack.enter_async_context(open_chats(judges, config=config))
        searcher = await stack.enter_async_context(open_search(config)) if EXTRACTOR in judges else None
        court = Court(chats, searcher, config.evaluation.longfact.evidence)
        await judge_in_parts(
            cases, court=court, out=context.out, report=bar.update, at_once=_parts_at_once(judges.values(), config)
        )
        return court.tallies


async def judge_in_parts(
    cases: Sequence[Case], *, court: Court, out: StageDir, report: Callable[[int], object], at_once: int | None = None
) -> None:
    """Commit the judgements of all cases; `report` hears how many responses each new part holds."""

    async def work(members: Sequence[Case]) -> tuple[pa.Table, list[Reject]]:
        said = await together(judge(case, court=court) for case in members)
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
    judges = _judges(config)
    found = {}
    for role, tally in tallies.items():
        if tally:
            annotator = judges[role]
            http = (annotator.http or config.http) if annotator.engine == "http" else None
            found[role] = {**tally, "money_now": price(tally, http=http, fresh=True)}
    return found
