"""Stage `annotation`: two annotators and an adjudicator label every candidate's thought.

Candidates enter (into a stage of `annotation_of`, other thoughts in their schema); one row of schema ANNOTATIONS a
candidate leaves, with `taxonomy.json` (the states of the chain, in order) beside the parts. Where chats are asked, the
candidates stream through the engines of the annotators (run/stream.py); the last engine's actor decides. Where none is
a chat, each upstream part is one remote task. In a cascade, `cascade.json` says whom the panel is asked about. Asking,
deciding and the figures are in files of their own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from mralign.annotation.annotators_ahead import annotators_ahead, overlap_lines
from mralign.annotation.ask import Opinions, annotators_at, ask
from mralign.annotation.cascade import Foreseen, choose, foresee
from mralign.annotation.costs import describe_expected, expect, expected_by_currency, figures
from mralign.annotation.cues import load_rule_book
from mralign.annotation.decide import annotate_here, annotate_row
from mralign.annotation.instruction import Trajectory, instructions, trajectory_of
from mralign.annotation.labeller import Labeller
from mralign.annotation.labeller_file import read_labeller
from mralign.annotation.resolved import ResolvedAnnotation, Roles, resolve_annotation, roles_of, taxonomy_of
from mralign.annotation.taxonomy import PAPER
from mralign.asking.annotator import ResolvedAnnotator, check_annotator, check_budgets
from mralign.asking.chats import SharedEngine
from mralign.asking.interview import money_spent
from mralign.chat.model_files import load_tokenizer, tokenizer_path
from mralign.config import Annotation, RunConfig, resolve_path
from mralign.rows.schema import ANNOTATIONS, CANDIDATES
from mralign.run.changes import newest_result
from mralign.run.events import MoneySpent, tell
from mralign.run.finished import read_tallies
from mralign.run.forecast import Cost, chat_cost
from mralign.run.placement import DEALING, NodeFault, Workers
from mralign.run.rejects import Reject
from mralign.run.stage import Context, Outcome, Stage, all_checks, log, map_parts
from mralign.run.store import Directory, StageDir, ahead
from mralign.run.stream import Answer, Pool, Streamed, stream
from mralign.serving.calls import Stopped
from mralign.serving.lacks import annotator_lacks
from mralign.serving.streaming import engine_workers, pool_of
from mralign.serving.vllm import engine_faults

_SAMPLE = 200  # candidates that the expected cost is measured on
_COLUMNS = ["row_id", "question_id", "dataset", "polarity", "question", "answers", "text"]
_COLUMNS += ["segment_start", "segment_end"]


def _run(context: Context) -> Outcome:
    resolved = resolve_annotation(context.config)
    source, out = _source(context), context.out
    rows_in = sum(source.counts().values())
    if not rows_in:
        raise ValueError(
            "no candidate is left: no question was right in every draw of one mode and wrong in every draw of the "
            "other, or its draws were invalid, or the length filter dropped it. The same command with --until "
            "candidates prints how many went where; see candidates.*, rollouts.prompt and model.family"
        )
    states = {"states": resolved.taxonomy.states, "macro": dict(resolved.taxonomy.macro)}
    out.write_text("taxonomy.json", json.dumps(states))
    if resolved.cascade is not None:
        resolved = replace(resolved, asked=_choose(context, labeller=resolved.cascade))
    times: dict[str, float] = {}
    if resolved.engines:
        times = _ask_chats(context, resolved=resolved)
    else:
        by_part = partial(_annotate_part, resolved=resolved)
        map_parts(context, by_part, source=source, schema=ANNOTATIONS, upstream_schema=CANDIDATES)
    parts = out.parts()
    tallies = chain.from_iterable(ahead(partial(read_tallies, out, schema=ANNOTATIONS), parts))
    steps = ahead(lambda part: out.read_parts([part], schema=ANNOTATIONS, columns=["steps"]), parts)
    rows_out = sum(out.counts(parts).values())
    found = figures(steps, tallies=tallies, resolved=resolved) | times
    if resolved.cascade is not None:
        found["cascade"] = {"asked": len(resolved.asked), "left": rows_in - len(resolved.asked)}
    if resolved.labellers_by_name:
        found["labellers"] = {name: labeller.report for name, labeller in resolved.labellers_by_name.items()}
    if context.asked_ahead:
        found["asked_ahead"] = _asked_ahead(context.asked_ahead, resolved=resolved)
    return Outcome(rows_in, rows_out, found)


def _choose(context: Context, *, labeller: Labeller) -> frozenset[str]:
    """The row_ids that the panel is asked about: they follow from the candidates, the labeller and the budget alone. A
    run that goes on keeps to its choice, also on a machine whose sums end otherwise in the last digit."""
    cascade = context.config.annotation.cascade
    assert cascade is not None
    chosen = context.out.find_text("cascade.json")
    if chosen is not None:
        return frozenset(json.loads(chosen)["asked"])
    source = _source(context)
    pool: list[Foreseen] = []
    for part in source.parts():
        for row in _read_candidates(part, source=source).to_pylist():
            found = labeller.predict(trajectory_of(row).segments)
            pool.append(foresee(row["row_id"], polarity=row["polarity"], prediction=found, L=len(labeller.labels)))
    asked = choose(pool, budget=cascade.budget)
    context.out.write_text("cascade.json", json.dumps({"of": len(pool), "asked": sorted(asked)}))
    log.info("cascade: the panel is asked about %d of %d trajectories", len(asked), len(pool))
    return asked


def _source(context: Context) -> StageDir:
    """The trajectories to be annotated: candidates, whatever the stage that gives them is called."""
    (source,) = context.upstream.values()
    return source


def _annotate_part(table: pa.Table, *, resolved: ResolvedAnnotation) -> tuple[pa.Table, list[Reject]]:
    rows, rejects = annotate_here(table, resolved=resolved)
    return pa.Table.from_pylist(rows, schema=ANNOTATIONS), rejects


class Annotating:
    """The actor of one engine (or endpoint): it asks the annotators that share it. The last one decides as well."""

    def __init__(self, *, resolved: ResolvedAnnotation, roles: Roles, last: bool) -> None:
        engine = SharedEngine(resolved.served(roles))
        self.annotators = annotators_at(resolved, roles, engine=engine)
        self.resolved, self.last = resolved, last

    async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
        """See run/stream.py."""
        return await asyncio.gather(*map(self._answer, rows))

    async def _answer(self, row: dict[str, Any]) -> Answer:
        opinions = Opinions.from_json(row["state"]) if "state" in row else Opinions()
        try:
            if not self.last and self.resolved.left(row["row_id"]) is not None:
                return Answer(state=opinions.to_json())
            if not self.last:
                await ask(trajectory_of(row), self.annotators, opinions=opinions)
                return Answer(state=opinions.to_json())
            decided = await annotate_row(row, resolved=self.resolved, opinions=opinions, annotators=self.annotators)
        except Stopped as reason:
            return Answer(stopped=str(reason))
        if isinstance(decided, Reject):
            return Answer(rejects=[decided], took=opinions.tallies)
        return Answer(rows=[decided], took=opinions.tallies)


def _ask_chats(context: Context, *, resolved: ResolvedAnnotation) -> dict[str, float]:
    """Annotate by chats what is not annotated yet. Returns how long the last engine took to start, and all the rest.
    Raises ValueError when a budget is spent; what came is kept."""
    source = _source(context)

    def announce(left: int) -> None:
        if resolved.twins:
            log.warning("annotation.annotators are one model at temperature 0: both will say the same, always")
        expected = _expected(context, resolved=resolved, rows=_asked(context.config, rows=left))
        log.info("annotation of %d trajectories will take\n%s", left, describe_expected(expected))
        for cost in expected_by_currency(expected):
            tell(cost)

    done = stream(
        source.counts(),
        requests=partial(_read_candidates, source=source),
        pools=_pools(resolved),
        out=context.out,
        schema=ANNOTATIONS,
        batch=resolved.served(resolved.engines[0]).serving.batch_size,
        announce=announce,
        money=partial(_spent, resolved=resolved, ahead=context.asked_ahead),
    )
    return {"engine_start_s": done.engine_start_s, "annotating_s": done.working_s}


def _read_candidates(part: str, *, source: StageDir) -> pa.Table:
    return source.read_parts([part], schema=CANDIDATES, columns=_COLUMNS)


def _pools(resolved: ResolvedAnnotation) -> list[Pool]:
    """One pool for each engine, in the order in which they are asked."""
    pools = []
    for roles in resolved.engines:
        annotator = resolved.served(roles)
        given = {"resolved": resolved, "roles": roles, "last": roles == resolved.engines[-1]}
        arguments = pool_of(annotator.serving, endpoint=annotator.http)
        pools.append(Pool(Annotating, given=given, arguments=arguments))
    return pools


def _spent(done: Streamed, *, resolved: ResolvedAnnotation, ahead: Mapping[str, Any]) -> list[MoneySpent]:
    """What the trajectories of this call have cost; `ahead`: what was taken for them before the stage began."""
    endpoints = {role: chat.http for role, chat in resolved.chats.items()}
    before = {one.currency: one.spent for one in money_spent(ahead, endpoints=endpoints)}
    now = money_spent(done.took, endpoints=endpoints)
    return [replace(one, spent=one.spent + before[one.currency], ahead=before[one.currency]) for one in now]


def _asked_ahead(took: Mapping[str, Any], *, resolved: ResolvedAnnotation) -> dict[str, Any]:
    """Replies that came before the stage began, and what they cost: among the stage's own they count as kept ones."""
    endpoints = {role: chat.http for role, chat in resolved.chats.items()}
    spent = {one.currency: one.spent for one in money_spent(took, endpoints=endpoints)}
    fresh = [tally.get("requests", 0) - tally.get("cached", 0) for tally in took.values()]
    return {"replies": sum(fresh), "spent": spent}


def _ours(config: RunConfig) -> list[ResolvedAnnotator]:
    """One annotator of every vLLM engine that the trajectories go through."""
    resolved = resolve_annotation(config)
    return [one for one in map(resolved.served, resolved.engines) if one.http is None]


def _workers(config: RunConfig) -> Sequence[Workers]:
    """The engines that trajectories go through: candidates stream through all of them at the same time. Annotators with
    the same model and `serving` share one."""
    setting = "annotation: `serving`, else engine"
    engines = [engine_workers(a.serving, what=f"engines of {a.name!r}", setting=setting) for a in _ours(config)]
    return [*engines, DEALING] if engines else []


def _faults(config: RunConfig) -> Sequence[NodeFault]:
    return engine_faults(annotator.serving for annotator in _ours(config))


def _expected(context: Context, *, resolved: ResolvedAnnotation, rows: int) -> list[Cost]:
    """The expected cost, measured on the first candidates with the tokenizer of the model that thought."""
    source, model = _source(context), context.config.model
    sample: list[Trajectory] = []
    for part in source.parts():
        if len(sample) < _SAMPLE:
            table = _read_candidates(part, source=source).slice(0, _SAMPLE - len(sample))
            sample += map(trajectory_of, table.to_pylist())
    tokenizer = load_tokenizer(tokenizer_path(model), model=model)

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    before = newest_result(context.out)
    return expect(sample, rows=rows, resolved=resolved, count=count, measured=before[1].figures if before else None)


def _expects(config: RunConfig, questions: Mapping[str, int]) -> list[Cost]:
    """Which models will be asked; how often is known when the rollouts have shown which thoughts are candidates."""
    chats = [annotator for annotator in roles_of(config.annotation).values() if annotator.is_chat]
    cascade = config.annotation.cascade
    costs = []
    for one in chats:
        http = config.filled(one).http if one.engine == "http" else None
        costs.append(chat_cost(one.name, http=http, requests=cascade.budget if cascade else None, most=bool(cascade)))
    return costs


def _asked(config: RunConfig, *, rows: int) -> int:
    """About how many of so many trajectories the panel is asked, at most."""
    cascade = config.annotation.cascade
    return min(rows, cascade.budget) if cascade else rows


def _forecast(context: Context) -> list[Cost]:
    resolved, source = resolve_annotation(context.config), _source(context)
    rows = sum(source.counts().values())
    if not rows or not resolved.engines:
        return []
    return _expected(context, resolved=resolved, rows=_asked(context.config, rows=rows))


def _reads(config: RunConfig) -> dict[str, Any]:
    settings = config.annotation
    annotators = tuple(config.filled(annotator) for annotator in settings.annotators)
    filled: dict[str, Any] = {"annotators": annotators, "adjudicator": config.filled(settings.adjudicator)}
    if not _asks(config):
        filled["show_answers"] = True  # cue phrases are shown no answers either way
    return {"annotation": settings.model_copy(update=filled), "run.seed": config.run.seed}


def _asks(config: RunConfig) -> bool:
    """Whether one of the annotators is a model."""
    return any(annotator.is_chat for annotator in roles_of(config.annotation).values())


def _code(config: RunConfig) -> dict[str, Any]:
    """The paper's taxonomy where the user gives none (a file is an input), and the wording of what chats are told."""
    found: dict[str, Any] = {}
    if config.annotation.taxonomy is None:
        found["taxonomy"] = [PAPER.labels, dict(PAPER.macro)]
    if _asks(config):
        found["instructions"] = instructions(PAPER)
    return found


def _inputs(config: RunConfig) -> dict[str, str]:
    settings = config.annotation
    found = {"taxonomy": settings.taxonomy} if settings.taxonomy else {}
    if settings.instruction and _asks(config):
        found["instruction"] = settings.instruction
    for role, annotator in roles_of(settings).items():
        local = annotator.rule_book or annotator.labeller
        if local:
            found[role] = local
        elif annotator.engine == "vllm":
            model = annotator.model or config.model
            found |= {f"{role} {name}": path for name, path in model.inputs().items()}
    if settings.cascade:
        found["cascade"] = settings.cascade.labeller
    return found


def _check(config: RunConfig) -> None:
    settings = config.annotation
    if settings.instruction and not any(annotator.is_chat for annotator in settings.annotators):
        raise ValueError(
            f"annotation.instruction={settings.instruction}: neither annotator is a chat model, others are told "
            f"nothing; give chat models as annotation.annotators (engine http or vllm), or leave it out"
        )
    labels = set(taxonomy_of(settings).labels)
    _check_labellers(settings)
    for annotator in roles_of(settings).values():
        if annotator.rule_book:
            Directory(resolve_path(annotator.rule_book)).require("annotation file")
            unknown = set(load_rule_book(resolve_path(annotator.rule_book)).labels) - labels
            if unknown:
                raise ValueError(
                    f"rule book {annotator.rule_book} uses labels {sorted(unknown)} that the taxonomy does not have; "
                    f"allowed are {sorted(labels)}"
                )
    chats = resolve_annotation(config).chats.values()
    all_checks([*(partial(check_annotator, chat) for chat in chats), partial(check_budgets, chats)])


def _check_labellers(settings: Annotation) -> None:
    """Raise ValueError for a directory that holds no labeller, or one of another taxonomy."""
    named = {f"annotator {one.name!r}": one.labeller for one in roles_of(settings).values()}
    named["annotation.cascade"] = settings.cascade.labeller if settings.cascade else None
    labels = taxonomy_of(settings).labels
    for who, path in named.items():
        known = read_labeller(resolve_path(path)).labels if path else labels
        if known != labels:
            raise ValueError(
                f"{who}: the labeller {path} has learned the labels {list(known)}, the taxonomy has {list(labels)}; "
                f"give a labeller of this taxonomy: mralign distill makes one of an annotated run"
            )


def _lacks(config: RunConfig) -> list[str]:
    places = ("annotation.annotators[0]", "annotation.annotators[1]", "annotation.adjudicator")
    lacks: list[str] = []
    for place, annotator in zip(places, roles_of(config.annotation).values(), strict=True):
        lacks += annotator_lacks(annotator, config=config, setting=place)
    return lacks


ANNOTATION_STAGE = Stage(
    name="annotation",
    words="labelling thoughts",
    run=_run,
    reads=_reads,
    code=_code,
    upstream=("candidates",),
    inputs=_inputs,
    check=_check,
    lacks=_lacks,
    forecast=_forecast,
    expects=_expects,
    ahead=annotators_ahead,
    tell=overlap_lines,
    workers=_workers,
    faults=_faults,
    version=3,
)


def annotation_of(source: str, *, name: str) -> Stage:
    """The same annotators on the trajectories of another stage, whose parts are of schema CANDIDATES."""
    own = replace(ANNOTATION_STAGE, name=name, words="labelling its thoughts", upstream=(source,))
    return replace(own, ahead=None, tell=None)
