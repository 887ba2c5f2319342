"""Stages `judgements_base` and `judgements`: judges read the responses to the benchmarks that need them.

Responses of one model enter, with the fields of the questions that a benchmark needs; one row of schema JUDGEMENTS for
each question to a judge leaves, and a reject for each that has no usable answer. Responses stream through the engines
(or endpoints) of extractor, verifier and judge, each engine once however many of the three it serves; evidence is
searched for beside the verifier, and the last engine commits. What a judge is asked and how its reply is read is said
by each benchmark (benchmarks/, judging.py).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.asking.annotator import ResolvedAnnotator, by_engine, check_annotator, check_budgets, resolve
from mralign.asking.chats import SharedEngine
from mralign.asking.interview import money_spent, price
from mralign.asking.json_reply import reply_schema
from mralign.config import Annotator, Engine, RunConfig, named
from mralign.evaluation.benchmarks import find, of_config
from mralign.evaluation.benchmarks.benchmark import ROLES, Case, Role, Step
from mralign.evaluation.judge_costs import judge_costs
from mralign.evaluation.judging import Judgements, Judges, Verdict, judge, response_of, verdicts
from mralign.evaluation.responses import methods_of, read_response_part, response_parts
from mralign.retrieval.search import check_search, prepare_search, start_search
from mralign.rows.schema import JUDGEMENTS, QUESTIONS
from mralign.rows.subjects import Subject
from mralign.run.events import MoneySpent
from mralign.run.forecast import Cost
from mralign.run.placement import DEALING, NodeFault, Workers
from mralign.run.rejects import check_limit
from mralign.run.stage import Context, Outcome, Stage, all_checks, log
from mralign.run.store import StageDir
from mralign.run.stream import Answer, Pool, Streamed, stream
from mralign.serving.calls import Stopped
from mralign.serving.lacks import annotator_lacks, search_lacks
from mralign.serving.streaming import engine_workers, pool_of
from mralign.serving.vllm import engine_faults

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
        words="judging the untrained model" if subject is Subject.BASE else "judging the trained model",
        run=partial(_run, subject=subject),
        reads=_reads,
        ignores=_NOT_JUDGED,
        code=_code,
        upstream=("questions", subject.stage("responses")),
        portions=lambda config: {"questions": config.evaluation.split},
        inputs=_inputs,
        check=_check,
        lacks=_lacks,
        expects=partial(_expects, subject=subject),
        workers=_workers,
        faults=_faults,
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
        if not annotator.is_chat:
            raise ValueError(
                f"the {role} {annotator.name!r} has engine={annotator.engine}, which cannot judge: {_ADVICE}"
            )
    visits = _visits(config)
    checks: list[Callable[[], None]] = [partial(_check_order, config)]
    resolved = [annotator for engine in visits for annotator in engine.values()]
    checks += [partial(check_annotator, annotator) for annotator in resolved]
    checks.append(partial(check_budgets, resolved))
    if _searches(config):
        checks.append(partial(check_search, config))
    all_checks(checks)


def _check_order(config: RunConfig) -> None:
    """Raise ValueError for a benchmark that would need an engine again after another one."""
    places = {role: number for number, engine in enumerate(_visits(config)) for role in engine}
    for name in dict.fromkeys(_judged(config).values()):
        roles = [step.role for step in find(name).steps]
        order = [places[role] for role in roles]
        if order != sorted(order):
            raise ValueError(
                f"{name} asks {', '.join(roles)} one after the other, and one engine would be asked again after "
                f"another; let all of them share one engine, or none"
            )


def _served(config: RunConfig) -> list[Engine]:
    """The section of every engine of ours that responses visit."""
    return [one.serving for one in map(_first, _visits(config)) if one.http is None]


def _workers(config: RunConfig) -> Sequence[Workers]:
    """The engines that responses visit: they stream through all of them at the same time."""
    setting = "the judge's `serving`, else engine"
    engines = [engine_workers(serving, what="engines of judges", setting=setting) for serving in _served(config)]
    return [*engines, DEALING] if engines else []


def _faults(config: RunConfig) -> Sequence[NodeFault]:
    return engine_faults(_served(config))


def _lacks(config: RunConfig) -> list[str]:
    found: list[str] = []
    for role, annotator in _judges(config).items():
        found += annotator_lacks(annotator, config=config, setting=f"evaluation's {role}")
    retrieval = config.evaluation.retrieval
    if _searches(config) and retrieval.engine == "http":
        found += search_lacks(retrieval.search)
    return found


def _expects(config: RunConfig, questions: Mapping[str, int], *, subject: Subject) -> list[Cost]:
    """Whom the responses of one model will cost how much."""
    each = len(methods_of(config, subject)) * config.evaluation.draws
    responses = {name: questions[name] * each if name in questions else None for name in _judged(config)}
    chats = {role: config.filled(annotator) for role, annotator in _judges(config).items()}
    return judge_costs(config, responses=responses, benchmarks=_judged(config), judges=chats)


# Of where evidence is found: what +Ret makes of snippets.
_NOT_JUDGED = tuple(f"evaluation.retrieval.{name}" for name in ("top_k", "prompt", "max_characters"))


def _reads(config: RunConfig) -> dict[str, Any]:
    """Who judges; where evidence is searched for, how and how much of it is shown."""
    judges = {f"evaluation.{role}": config.filled(annotator) for role, annotator in _judges(config).items()}
    found = judges | named(config, "evaluation.split", "run.seed")
    if _searches(config):
        found |= named(config, "evaluation.longfact.evidence")
        found["evaluation.retrieval"] = config.evaluation.retrieval.searched
    return found


def _code(config: RunConfig) -> dict[str, Any]:
    """What the judges are told, and how they reply."""
    found = {}
    for name in _judged(config).values():
        for step in find(name).steps:
            found[f"{step.kind} of {name}"] = [step.instruction, reply_schema(step.reply), step.bounds]
    return found


def _inputs(config: RunConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    for role, annotator in _judges(config).items():
        if annotator.engine == "vllm":
            files = (annotator.model or config.model).inputs()
            found |= {f"{role} {name}": path for name, path in files.items()}
    retrieval = config.evaluation.retrieval
    if _searches(config) and retrieval.engine == "bm25" and retrieval.corpus:
        found["corpus"] = retrieval.corpus
    return found


def _run(context: Context, *, subject: Subject) -> Outcome:
    config, out, judged = context.config, context.out, _judged(context.config)
    questions = read_questions(context.upstream["questions"], split=config.evaluation.split, benchmarks=judged)
    responses = context.upstream[subject.stage("responses")]
    read = partial(_cases, responses=responses, benchmarks=judged, questions=questions)
    parts = {part: read(part).num_rows for part in response_parts(responses)}
    log.info("%s: %d responses to %s", out.stage, sum(parts.values()), ", ".join(sorted(judged)))
    if _searches(config):
        prepare_search(config)
    done = stream(
        {part: rows for part, rows in parts.items() if rows},
        requests=read,
        pools=_pools(config),
        out=out,
        schema=JUDGEMENTS,
        batch=PART_ROWS,
        id_column="row_id",
        request_of=response_of,
        money=partial(_spent, config=config),
    )
    rows, rejects = out.read(schema=JUDGEMENTS).to_pylist(), out.read_rejects().to_pylist()
    found = verdicts(rows, rejects)
    _check_rejected(found, out=out, limit=config.run.reject_limit)
    figures = {
        "judgements": dict(Counter(row["kind"] for row in rows)),
        "responses": len(found),
        "responses_rejected": dict(_reasons(found.values()).most_common()),
        "last_session": _session(done.took, config=config),
    }
    return Outcome(len(rows) + len(rejects), len(rows), figures)


def _cases(
    part: str, *, responses: StageDir, benchmarks: Mapping[str, str], questions: Mapping[str, JudgedQuestion]
) -> pa.Table:
    """The responses of one part that are judged, as `Judging` takes them."""
    table = read_response_part(responses, part, datasets=sorted(benchmarks))
    rows = table.select(_NEEDED).to_pylist()
    cases = cases_of(rows, benchmarks=benchmarks, questions=questions)
    found = [{"row_id": case.row_id, "case": json.dumps(asdict(case))} for case in cases]
    return pa.Table.from_pylist(found, schema=pa.schema({"row_id": pa.string(), "case": pa.string()}))


def _visits(config: RunConfig) -> list[dict[Role, ResolvedAnnotator]]:
    """The judges of each engine by role; engines in the order in which a response visits them, each of them once."""
    return by_engine({role: resolve(judge, config=config) for role, judge in _judges(config).items()})


def _first(engine: Mapping[Role, ResolvedAnnotator]) -> ResolvedAnnotator:
    return next(iter(engine.values()))


def _pools(config: RunConfig) -> list[Pool]:
    visits = _visits(config)
    pools = []
    for engine in visits:
        given = {"config": config, "judges": engine, "last": engine is visits[-1]}
        arguments = pool_of(_first(engine).serving, endpoint=_first(engine).http)
        pools.append(Pool(Judging, given=given, arguments=arguments))
    return pools


class Judging:
    """An actor of a stream (run/stream.py): the judges that share one engine or endpoint, and the search of evidence.

    What is known of a response goes on to the next engine as state; at the `last` one it is committed.
    """

    def __init__(self, *, config: RunConfig, judges: Mapping[Role, ResolvedAnnotator], last: bool) -> None:
        engine = SharedEngine(_first(judges))
        searches = any(step.searched and step.role in judges for step in _steps(config))
        self.judges = Judges(
            {role: engine.chat(judge) for role, judge in judges.items()},
            start_search(config) if searches else None,
            config.evaluation.longfact.evidence,
        )
        self.last = last

    async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
        """The judgements of each response, or why nothing may be asked any more."""
        return await asyncio.gather(*map(self._judge, rows))

    async def _judge(self, row: Mapping[str, Any]) -> Answer:
        case = Case(**json.loads(row["case"]))
        known = Judgements.from_json(row["state"]) if "state" in row else Judgements()
        benchmark = find(case.benchmark)
        try:
            await judge(case, benchmark=benchmark, judges=self.judges, known=known)
        except Stopped as reason:  # what came before is in the cache of replies
            return Answer(stopped=str(reason))
        if not self.last:
            return Answer(state=known.to_json())
        assert known.rejects or known.steps == len(benchmark.steps), case.row_id
        return Answer(rows=known.rows, rejects=known.rejects, took=known.took)


@dataclass(frozen=True)
class JudgedQuestion:
    """What judges may know of a question: its text, and the fields that its benchmark needs."""

    question: str
    fields: Mapping[str, Any] = field(default_factory=dict)


def read_questions(questions: StageDir, *, split: str, benchmarks: Mapping[str, str]) -> dict[str, JudgedQuestion]:
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
            found[row["question_id"]] = JudgedQuestion(row["question"], {name: extra[name] for name in needed})
    return found


def cases_of(
    rows: Iterable[Mapping[str, Any]], *, benchmarks: Mapping[str, str], questions: Mapping[str, JudgedQuestion]
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


def _check_rejected(found: Mapping[str, Verdict], *, out: StageDir, limit: float) -> None:
    """Raise ValueError where more responses to a data set than `limit` have no verdict: one judgement in many that
    cannot be used puts its whole response aside, and that of the longest answers first."""
    by_dataset: dict[str, list[Verdict]] = {}
    for row_id, verdict in found.items():
        by_dataset.setdefault(row_id.partition("/")[0], []).append(verdict)
    for dataset, own in by_dataset.items():
        check_limit(
            stage=f"{out.stage}, responses to {dataset}",
            reasons=dict(_reasons(own)),
            rows_in=len(own),
            limit=limit,
            path=out.path("rejects"),
        )


def _reasons(found: Iterable[Verdict]) -> Counter[str]:
    """How many responses have no verdict, by reason."""
    return Counter(verdict.rejected for verdict in found if verdict.rejected)


def _spent(done: Streamed, *, config: RunConfig) -> list[MoneySpent]:
    """What the judgements of this call have cost."""
    paid = {role: judge for role, judge in _judges(config).items() if judge.engine == "http"}
    endpoints = {str(role): config.filled(judge).http for role, judge in paid.items()}
    return money_spent(done.took, endpoints=endpoints)


def _session(took: Mapping[str, Mapping[str, int]], *, config: RunConfig) -> dict[str, Any]:
    """What this session took, by role; money that was spent now."""
    found = {}
    for role, annotator in _judges(config).items():
        tally = took.get(role, {})
        if tally:
            http = (annotator.http or config.http) if annotator.engine == "http" else None
            found[str(role)] = {**tally, "money_now": price(tally, http=http, fresh=True)}
    return found
