"""Stages `rollouts` and `candidates`: questions become generations, generations become labelled candidates.

Questions enter; N think-on and N think-off generations each leave the first stage (import_stage.py has the one that
takes its place where they were made elsewhere), and the questions where thinking helped or hurt leave the second one,
cut into segments. `thoughts_stage` does so with some thoughts of an evaluated model, whatever came of them. No
arithmetic lives here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from mralign.config import Candidates, RunConfig, named
from mralign.rollouts.candidates import Limits, judge
from mralign.rollouts.funnel import Funnel, Kept, add_funnels, funnel_rows, funnels
from mralign.rollouts.needed import CUT, DrawsAsNeeded, Made, saved
from mralign.rollouts.so_far import CandidatesSoFar
from mralign.rollouts.thoughts import draw_questions, thoughts_of, unanswered
from mralign.rows import Candidate, Generation, Mode, Reject, from_table, to_table
from mralign.rows.schema import CANDIDATES, GENERATIONS, QUESTIONS
from mralign.rows.subjects import Subject, Way
from mralign.run import rejects as reject_tables
from mralign.run.ahead import Flow
from mralign.run.finished import read_tallies
from mralign.run.forecast import Cost, chat_cost
from mralign.run.part_names import part_name, parts_by_upstream
from mralign.run.pieces import reject_count, rejects_in_pieces, rows_in_pieces
from mralign.run.stage import Context, Outcome, Stage, log, map_groups, run_tasks
from mralign.run.store import StageDir, ahead
from mralign.serving.endpoint import check_settings
from mralign.serving.lacks import endpoint_lacks
from mralign.serving.probe import probe_beside
from mralign.serving.requests import Sampling, check_model, first_draw_id, sampling_of_rollouts
from mralign.serving.streaming import generate, start_engines, stream_faults, stream_workers

_PARTS = 50  # of questions, whose funnel one task counts


def _sample(context: Context) -> Outcome:
    questions = context.upstream["questions"]
    parts = questions.parts("train")
    sampling = _sampling(context.config)
    order = sampling.order
    figures = generate(questions, parts, sampling=sampling, out=context.out)
    rows = sum(context.out.counts().values())
    rejected = reject_count(context.out)
    if order is not None:
        asked_again = sum(took.get("tokens_asked_again", 0) for took in _tallies(context.out))
        asked = sum(questions.counts(parts).values())
        figures |= saved(_made(context.out), questions=asked, draws=sampling.draws, asked_again=asked_again)
        log.info(
            "rollouts: %d draws were not needed, %d thoughts were cut; sampled about %s of the tokens of all draws",
            figures["draws_not_needed"],
            figures["thoughts_cut"],
            figures["share_of_tokens_sampled_estimate"],
        )
    return Outcome(rows_in=rows + rejected, rows_out=rows, figures=figures)


def _sampling(config: RunConfig) -> Sampling:
    return sampling_of_rollouts(config, order=draw_order(config), probe=probe_beside(config.model))


def _start_engines(config: RunConfig) -> None:
    start_engines(_sampling(config))


def _tallies(out: StageDir) -> Iterator[Mapping[str, Any]]:
    """What each question took beside its generations, where it took anything."""
    read = partial(read_tallies, out, schema=GENERATIONS, request_of=first_draw_id)
    for took in chain.from_iterable(ahead(read, out.parts())):
        if took:
            yield took


def _made(out: StageDir) -> dict[Mode, Made]:
    """What the stage has drawn in each mode."""
    columns = ["mode", "invalid", "completion_tokens"]
    draws: Counter[tuple[str, bool]] = Counter()
    tokens: Counter[tuple[str, bool]] = Counter()
    for piece in rows_in_pieces(out, schema=GENERATIONS, columns=columns):
        for row in piece.to_pylist():
            sort = row["mode"], row["invalid"] in CUT
            draws[sort] += 1
            tokens[sort] += row["completion_tokens"]
    return {mode: Made(draws[mode, False], tokens[mode, False], draws[mode, True], tokens[mode, True]) for mode in Mode}


def draw_order(config: RunConfig) -> DrawsAsNeeded | None:
    """Which draws of a question are made; None: all of them."""
    if not config.draws_as_needed:
        return None
    settings = config.candidates
    return DrawsAsNeeded(settings.match, config.rollouts.n, limits_of(settings), settings.keep_all_draws)


def _check(config: RunConfig) -> None:
    check_model(config.model)
    if config.rollouts.engine == "http":
        check_settings(config.http)


def _lacks(config: RunConfig) -> list[str]:
    return endpoint_lacks(config.http, setting="http") if config.rollouts.engine == "http" else []


def _reads(config: RunConfig) -> Mapping[str, Any]:
    remote = ["http"] if config.rollouts.engine == "http" else []
    read = named(config, "model", "engine", "run.seed", *remote)
    order = draw_order(config)
    word = "all" if order is None else "needed"
    verdict = {} if order is None else {"draws as needed": asdict(order)}
    return {**read, "rollouts": config.rollouts.model_copy(update={"order": word}), **verdict}


def _ids(questions: StageDir, part: str) -> list[str]:
    return questions.read_parts([part], schema=QUESTIONS, columns=["question_id"]).column("question_id").to_pylist()


def limits_of(settings: Candidates) -> Limits:
    """The length filter of a configuration."""
    return Limits(
        min_segments=settings.min_segments,
        max_segments=settings.max_segments,
        min_thought_tokens=settings.min_thought_tokens,
        max_thought_tokens=settings.max_thought_tokens,
    )


def _judge_table(
    table: pa.Table, *, settings: Candidates, draws: int, as_needed: bool
) -> tuple[pa.Table, list[Reject]]:
    rows = from_table(table, Generation)
    kept, rejects = _judge_rows(rows, settings=settings, draws=draws, as_needed=as_needed)
    return to_table(kept, Candidate), rejects


def _judge_rows(
    rows: Sequence[Generation], *, settings: Candidates, draws: int, as_needed: bool
) -> tuple[list[Candidate], list[Reject]]:
    return judge(
        rows,
        match=settings.match,
        draws=draws,
        limits=limits_of(settings),
        keep_all_draws=settings.keep_all_draws,
        keep_neutral=settings.keep_neutral,
        as_needed=as_needed,
    )


def _candidates(context: Context) -> Outcome:
    config, source, questions = context.config, context.upstream["rollouts"], context.upstream["questions"]
    train = questions.parts("train")
    map_groups(
        context,
        partial(
            _judge_table,
            settings=config.candidates,
            draws=config.rollouts.n,
            as_needed=config.draws_as_needed,
        ),
        groups=parts_by_upstream(source.parts(), train),  # all draws of a question meet
        source=source,
        schema=CANDIDATES,
        upstream_schema=GENERATIONS,
    )
    rows = sum(source.counts().values())
    groups = [(context.out, questions, train[start : start + _PARTS]) for start in range(0, len(train), _PARTS)]
    counted = funnel_rows(add_funnels(run_tasks(_funnels, groups)))
    kept = sum(context.out.counts().values())
    return Outcome(rows, kept, {"funnel": [asdict(row) for row in counted]})


def _funnels(out: StageDir, questions: StageDir, parts: Sequence[str]) -> dict[str, Funnel]:
    """What became of the questions of some parts, by data set."""
    kept = from_table(out.read_parts(parts, schema=CANDIDATES, columns=["dataset", "polarity", "question_id"]), Kept)
    pieces = rejects_in_pieces(out, columns=["row_id", "reason", "dataset", "polarity"], parts=parts)
    refused = chain.from_iterable(from_table(piece, Reject) for piece in pieces)
    asked = questions.read_parts(parts, schema=QUESTIONS, columns=["dataset"]).column("dataset")
    return funnels(kept, refused, Counter(asked.to_pylist()))


def _flow(config: RunConfig) -> Flow:
    """Candidates of the questions that are whole, part by part of the rollouts."""
    as_needed, draws = config.draws_as_needed, config.rollouts.n
    judge_rows = partial(_judge_rows, settings=config.candidates, draws=draws, as_needed=as_needed)
    so_far = CandidatesSoFar(judge_rows, draws=0 if as_needed else 2 * draws)
    return Flow("rollouts", GENERATIONS, so_far.add)


def _think(context: Context, *, responses: str) -> Outcome:
    config, questions = context.config, context.upstream["questions"]
    ids: list[str] = []
    for part in questions.parts(config.evaluation.split):
        ids += _ids(questions, part)
    chosen = draw_questions(ids, count=config.evaluation.reannotate, seed=config.run.seed)
    shelf, groups = _plain_responses(context.upstream[responses])
    map_groups(
        context,
        partial(_thoughts_table, questions=frozenset(chosen), match=config.evaluation.match),
        groups=groups,
        source=shelf,
        schema=CANDIDATES,
        upstream_schema=GENERATIONS,
    )
    rows = context.out.read_parts(list(groups), schema=CANDIDATES, columns=["row_id"]).column("row_id").to_pylist()
    if not rows:
        raise ValueError(
            f"none of the {len(chosen)} thoughts to be labelled anew can be used; the rejects beside {context.out.uri} "
            f"say why. See evaluation.decoding.max_tokens and model.family, or give evaluation.reannotate=0"
        )
    refused = context.out.read_rejects(list(groups), columns=["row_id"]).column("row_id").to_pylist()
    rejects = reject_tables.to_table(unanswered(chosen, seen={*rows, *refused}))
    context.out.commit(part_name("unanswered"), CANDIDATES.empty_table(), schema=CANDIDATES, rejects=rejects)
    return Outcome(len(chosen), len(rows))


def _plain_responses(responses: StageDir) -> tuple[StageDir, dict[str, list[str]]]:
    """The shelf of a stage's responses that had no snippets, and by part of its questions the parts that answer it."""
    (plain,) = [entry for entry in json.loads(responses.read_text("parts.json")) if entry["group"] == "plain"]
    shelf = StageDir(f"{responses.uri.rsplit('/', 2)[0]}/{plain['shelf']}")
    return shelf, parts_by_upstream(shelf.parts(), plain["questions"])


def _thoughts_table(table: pa.Table, *, questions: Collection[str], match: str) -> tuple[pa.Table, list[Reject]]:
    kept, rejects = thoughts_of(from_table(table, Generation), questions=questions, match=match)
    return to_table(kept, Candidate), rejects


def _train_questions(config: RunConfig) -> Mapping[str, str]:
    return {"questions": "train"}


def thoughts_stage(subject: Subject) -> Stage:
    """Thoughts of one of the two evaluated models, as candidates of polarity 0."""
    responses = subject.stage("responses")
    field = "methods" if subject is Subject.BASE else "trained_methods"

    def check_think_on(config: RunConfig) -> None:
        if Way.THINK_ON not in getattr(config.evaluation, field):
            raise ValueError(
                f"evaluation.reannotate={config.evaluation.reannotate} needs thoughts of both models; put think_on "
                f"into evaluation.{field}, or give evaluation.reannotate=0"
            )

    return Stage(
        name=subject.stage("thoughts"),
        words="choosing its thoughts, untrained" if subject is Subject.BASE else "choosing its thoughts, trained",
        run=partial(_think, responses=responses),
        reads=("evaluation.reannotate", "evaluation.split", "evaluation.match", "run.seed"),
        upstream=("questions", responses),
        portions=lambda config: {"questions": config.evaluation.split},
        check=check_think_on,
        version=2,
    )


def _expects(config: RunConfig, questions: Mapping[str, int]) -> list[Cost]:
    """What the endpoint will be asked, its completions as long as they may be; prompts stand beside that."""
    if config.rollouts.engine != "http":
        return []
    requests = sum(questions.values()) * 2 * config.rollouts.n
    completions = requests * config.rollouts.decoding.max_tokens
    http = config.http
    return [
        chat_cost(
            f"{http.model or config.model.path} (prompts beside it)",
            http=http.live,
            requests=requests,
            prompt_tokens=0,
            completion_tokens=completions,
            most=True,
        )
    ]


ROLLOUTS_STAGE = Stage(
    name="rollouts",
    words="sampling answers",
    run=_sample,
    reads=_reads,
    ignores=("rollouts.import_name", "rollouts.import_fields"),
    upstream=("questions",),
    portions=_train_questions,
    inputs=lambda config: config.model.inputs(),
    check=_check,
    lacks=_lacks,
    expects=_expects,
    workers=lambda config: () if config.rollouts.engine == "http" else stream_workers(config),
    faults=lambda config: () if config.rollouts.engine == "http" else stream_faults(config),
    begin_early=_start_engines,
    version=2,
)

CANDIDATES_STAGE = Stage(
    name="candidates",
    words="choosing thoughts",
    run=_candidates,
    reads=("candidates", "rollouts.n"),
    upstream=("questions", "rollouts"),
    portions=_train_questions,
    flow=_flow,
    version=2,
)
