"""Stage `evidence`: what a search finds for every question of the evaluation split (method.md §6, +Ret).

Committed parts of questions enter; rows of schema EVIDENCE leave, a query that failed as a reject of its question. The
questions stream through one actor (run/stream.py) that searches for many at the same time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from mralign.config import RunConfig, named
from mralign.evaluation.judge_costs import search_cost
from mralign.retrieval.search import Searcher, check_search, prepare_search, start_search
from mralign.rows.schema import EVIDENCE, QUESTIONS
from mralign.run.forecast import Cost
from mralign.run.rejects import Reject
from mralign.run.stage import Context, Outcome, Stage
from mralign.run.store import StageDir
from mralign.run.stream import Answer, Pool, stream
from mralign.serving.calls import Failure, Stopped
from mralign.serving.lacks import search_lacks
from mralign.serving.streaming import endpoint_pool

_BATCH = 64  # questions that are searched for and committed together


class Searching:
    """An actor of the stream: one searcher, which bounds itself how much is in flight."""

    def __init__(self, *, config: RunConfig) -> None:
        self.searcher: Searcher = start_search(config)
        self.top_k = config.evaluation.retrieval.top_k

    async def answer(self, rows: list[dict[str, Any]]) -> list[Answer]:
        """What is found for each question."""
        return await asyncio.gather(*map(self._search, rows))

    async def _search(self, row: dict[str, Any]) -> Answer:
        try:
            found = await self.searcher.search(row["question"], top_k=self.top_k)
        except Stopped as reason:
            return Answer(stopped=str(reason))
        if isinstance(found, Failure):
            reject = Reject(row["row_id"], found.reason, found.detail, row["question"], dataset=row["dataset"])
            return Answer(rejects=[reject])
        evidence = {
            "question_id": row["row_id"],
            "dataset": row["dataset"],
            "query": row["question"],
            "snippets": [snippet.as_row() for snippet in found],
        }
        return Answer(rows=[evidence])


def _queries(part: str, *, questions: StageDir) -> pa.Table:
    """One request a question."""
    table = questions.read_parts([part], schema=QUESTIONS, columns=["question_id", "dataset", "question"])
    return table.rename_columns(["row_id", "dataset", "question"])


def _run(context: Context) -> Outcome:
    config, questions, out = context.config, context.upstream["questions"], context.out
    parts = {part: questions.rows(part) for part in questions.parts(config.evaluation.split)}
    prepare_search(config)
    search = config.evaluation.retrieval.search
    stream(
        parts,
        requests=partial(_queries, questions=questions),
        pools=[Pool(Searching, given={"config": config}, arguments=endpoint_pool(search, batch_size=_BATCH))],
        out=out,
        schema=EVIDENCE,
        batch=_BATCH,
        id_column="question_id",
    )
    committed = out.parts()
    rows_out = sum(out.rows(part) for part in committed)
    return Outcome(sum(parts.values()), rows_out, _figures(out, committed))


def _figures(out: StageDir, parts: Sequence[str]) -> dict[str, Any]:
    """Snippets a question, and questions for which nothing was found."""
    lists = out.read_parts(parts, schema=EVIDENCE, columns=["snippets"]).column("snippets")
    counts = [len(snippets) for snippets in lists.to_pylist()]
    return {"snippets_mean": sum(counts) / max(len(counts), 1), "without_snippets": counts.count(0)}


def _reads(config: RunConfig) -> dict[str, Any]:
    return {**named(config, "evaluation.split"), "evaluation.retrieval": config.evaluation.retrieval.searched}


def _inputs(config: RunConfig) -> Mapping[str, str]:
    retrieval = config.evaluation.retrieval
    return {"corpus": str(retrieval.corpus)} if retrieval.engine == "bm25" else {}


def _lacks(config: RunConfig) -> list[str]:
    retrieval = config.evaluation.retrieval
    return search_lacks(retrieval.search) if retrieval.engine == "http" else []


def _expects(config: RunConfig, questions: Mapping[str, int]) -> list[Cost]:
    """One search a question."""
    return [search_cost(config, queries=sum(questions.values()))]


EVIDENCE_STAGE = Stage(
    name="evidence",
    words="searching for evidence",
    run=_run,
    reads=_reads,
    ignores=("evaluation.retrieval.prompt", "evaluation.retrieval.max_characters"),  # of what is made of snippets
    upstream=("questions",),
    portions=lambda config: {"questions": config.evaluation.split},
    inputs=_inputs,
    check=check_search,
    lacks=_lacks,
    expects=_expects,
    version=3,
)
