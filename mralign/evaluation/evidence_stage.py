"""Stage `evidence`: what a search finds for every question of the evaluation split (METHOD 6, +Ret).

Committed parts of questions enter; a part of schema EVIDENCE leaves for each, a query that failed as a reject of its
question. The search runs in the driver, on asyncio: it bounds itself what is in flight, and keeps what it was told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig
from mralign.retrieval.search import Searcher, check_search, open_search
from mralign.rows.schema import EVIDENCE, QUESTIONS
from mralign.run.rejects import Reject, is_passing, to_table
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir
from mralign.serving.calls import Failure
from mralign.serving.lacks import search_lacks

_COLUMNS = ["question_id", "dataset", "question"]


async def find_evidence(
    questions: StageDir,
    parts: Sequence[str],
    *,
    searcher: Searcher,
    top_k: int,
    out: StageDir,
    report: Callable[[int], object],
) -> None:
    """Commit what is found for the questions in `parts`, under the same names.

    A committed part is kept, unless a query of it met a failure that another try may mend: then it is searched for
    again, and what an endpoint has answered before is found in the run directory. `report` hears the number of rows of
    every part that is new. Whatever the searcher raises ends all and is raised here.
    """
    done = {part for part in out.parts() if not _may_mend(out, part)}
    try:
        async with asyncio.TaskGroup() as group:
            for part in parts:
                if part not in done:
                    group.create_task(_find(questions, part, searcher=searcher, top_k=top_k, out=out, report=report))
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None


async def _find(
    questions: StageDir, part: str, *, searcher: Searcher, top_k: int, out: StageDir, report: Callable[[int], object]
) -> None:
    table = await asyncio.to_thread(questions.read_parts, [part], schema=QUESTIONS, columns=_COLUMNS)
    rows = table.to_pylist()
    answers = await asyncio.gather(*(searcher.search(row["question"], top_k=top_k) for row in rows))
    pairs = list(zip(rows, answers, strict=True))
    found = [
        {
            "question_id": row["question_id"],
            "dataset": row["dataset"],
            "query": row["question"],
            "snippets": [snippet.as_row() for snippet in answer],
        }
        for row, answer in pairs
        if not isinstance(answer, Failure)
    ]
    rejects = [
        Reject(row["question_id"], answer.reason, answer.detail, row["question"])
        for row, answer in pairs
        if isinstance(answer, Failure)
    ]
    evidence = pa.Table.from_pylist(found, schema=EVIDENCE)
    await asyncio.to_thread(out.commit, part, evidence, schema=EVIDENCE, rejects=to_table(rejects))
    report(len(rows))


def _may_mend(out: StageDir, part: str) -> bool:
    """Whether a query of a committed part should be made again: the endpoint was down, or refused it (http_400, by a
    fault of its own that may be mended since)."""
    reasons = out.read_rejects([part], columns=["reason"]).column("reason").to_pylist()
    return any(map(is_passing, reasons))


def _run(context: Context) -> Outcome:
    questions, out = context.upstream["questions"], context.out
    parts = questions.parts(context.config.evaluation.split)
    asyncio.run(_find_all(context, parts))
    rows = sum(questions.rows(part) for part in parts)
    return Outcome(rows, sum(out.rows(part) for part in parts), _figures(out, parts))


async def _find_all(context: Context, parts: Sequence[str]) -> None:
    from tqdm import tqdm

    config, questions = context.config, context.upstream["questions"]
    rows = sum(questions.rows(part) for part in parts)
    with tqdm(total=rows, desc="evidence", unit="row", mininterval=1.0) as bar:
        async with open_search(config) as searcher:
            top_k = config.evaluation.retrieval.top_k
            await find_evidence(questions, parts, searcher=searcher, top_k=top_k, out=context.out, report=bar.update)


def _figures(out: StageDir, parts: Sequence[str]) -> dict[str, Any]:
    """Snippets a question, and questions for which nothing was found."""
    lists = out.read_parts(parts, schema=EVIDENCE, columns=["snippets"]).column("snippets")
    counts = [len(snippets) for snippets in lists.to_pylist()]
    return {"snippets_mean": sum(counts) / max(len(counts), 1), "without_snippets": counts.count(0)}


def _matters(config: RunConfig) -> dict[str, Any]:
    retrieval = config.evaluation.retrieval
    matters = {"split": config.evaluation.split, "engine": retrieval.engine, "top_k": retrieval.top_k}
    if retrieval.engine == "http":
        asked = {"url", "request", "results", "fields"}
        return matters | {"search": retrieval.search.model_dump(mode="json", include=asked)}
    return matters | {"fields": dict(retrieval.fields)}


def _inputs(config: RunConfig) -> Mapping[str, str]:
    retrieval = config.evaluation.retrieval
    return {"corpus": str(retrieval.corpus)} if retrieval.engine == "bm25" else {}


def _lacks(config: RunConfig) -> list[str]:
    retrieval = config.evaluation.retrieval
    return search_lacks(retrieval.search) if retrieval.engine == "http" else []


EVIDENCE_STAGE = Stage(
    name="evidence",
    run=_run,
    matters=_matters,
    upstream=("questions",),
    inputs=_inputs,
    check=check_search,
    lacks=_lacks,
    version=2,
)
