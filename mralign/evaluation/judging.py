"""A response is put to the judges, and what they said of it is put together again.

A `Case` (a response and what its judges must see) enters; rows of schema JUDGEMENTS leave, one for each question to a
judge, and a reject for each that has no usable answer. From both, `verdicts` makes one `Verdict` a response. A response
of which one judgement is missing is rejected as a whole: a share of its claims would be a biased F1, and a neutral
verdict would be a made-up one. What needs no judge has a row all the same, whose `prompt` and `reply` are null: an
invalid response (neither truthful nor informative, without claims), and a claim for which no evidence was found.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from mralign.asking.interview import interview, together, uncut
from mralign.asking.json_reply import Fault, readable
from mralign.evaluation.longfact import (
    distinct,
    extraction_request,
    figures_longfact,
    median_claims,
    passages,
    read_claims,
    read_support,
    verification_request,
)
from mralign.evaluation.truthfulqa import figures_truthfulqa, judge_request, read_truth
from mralign.retrieval.search import Searcher
from mralign.rows.schema import Snippet
from mralign.run.rejects import Reject
from mralign.serving.calls import Failure
from mralign.serving.conversation import Chat, ChatRequest

__all__ = ["Case", "Court", "Verdict", "figures_longfact", "figures_truthfulqa", "judge", "median_claims", "verdicts"]

T = TypeVar("T")
Judged = dict[str, Any] | Reject  # a row of schema JUDGEMENTS, or why there is none
JUDGE, EXTRACTOR, VERIFIER = "judge", "extractor", "verifier"


@dataclass(frozen=True)
class Case:
    """A response and what belongs to it. `answer` None: it is invalid, and nobody is asked."""

    row_id: str
    question_id: str
    dataset: str
    kind: Literal["truthfulqa", "longfact"]
    question: str
    answer: str | None
    correct: tuple[str, ...] = ()
    incorrect: tuple[str, ...] = ()


@dataclass(frozen=True)
class Court:
    """Who judges, by role; where evidence is found, and how many snippets a claim gets. `tallies`: what it took."""

    chats: Mapping[str, Chat]
    searcher: Searcher | None = None
    evidence: int = 10
    tallies: Mapping[str, Counter[str]] = field(
        default_factory=lambda: {role: Counter() for role in (JUDGE, EXTRACTOR, VERIFIER)}
    )


@dataclass(frozen=True)
class Verdict:
    """What came of one response; of the four, those are null that its benchmark does not measure.

    `rejected`: the reason why it has no score, and then all four are null; else empty.
    """

    truthful: bool | None = None
    informative: bool | None = None
    claims: int | None = None
    supported: int | None = None
    rejected: str = ""


async def judge(case: Case, *, court: Court) -> list[Judged]:
    """All judgements of one response. Raises what a chat or the searcher raises (calls.Stopped)."""
    if case.kind == "truthfulqa":
        return [await _judge_truth(case, court=court)]
    texts = passages(case.answer or "")
    if not texts:
        return [_row(case, "claims", 0, subject="", verdict={"claims": []})]
    contexts = ["", *texts[:-1]]
    found = await together(
        _extract(case, number, context=context, passage=passage, court=court)
        for number, (context, passage) in enumerate(zip(contexts, texts, strict=True))
    )
    rows = [one for one in found if isinstance(one, dict)]
    if len(rows) < len(found):
        return found  # it has no score: its claims are not worth the money
    claims = distinct(claim for row in rows for claim in json.loads(row["verdict"])["claims"])
    return found + await together(_verify(case, n, claim=c, court=court) for n, c in enumerate(claims))


async def _judge_truth(case: Case, *, court: Court) -> Judged:
    if case.answer is None:
        return _row(case, "truthful", 0, subject="", verdict={"truthful": False, "informative": False})
    request = judge_request(
        _id(case, "truthful", 0),
        question=case.question,
        correct=case.correct,
        incorrect=case.incorrect,
        answer=case.answer,
    )
    empty = _row(case, "truthful", 0, subject=case.answer)
    return await _ask(empty, request, role=JUDGE, read=read_truth, say=asdict, court=court)


async def _extract(case: Case, number: int, *, context: str, passage: str, court: Court) -> Judged:
    request = extraction_request(_id(case, "claims", number), question=case.question, context=context, passage=passage)
    empty = _row(case, "claims", number, subject=passage)
    say = lambda claims: {"claims": list(claims)}  # noqa: E731
    return await _ask(empty, request, role=EXTRACTOR, read=read_claims, say=say, court=court)


async def _verify(case: Case, number: int, *, claim: str, court: Court) -> Judged:
    assert court.searcher is not None
    name = _id(case, "support", number)
    found = await court.searcher.search(claim, top_k=court.evidence)
    if isinstance(found, Failure):
        return Reject(name, found.reason, f"the search of evidence failed: {found.detail}", claim)
    if not found:
        return _row(case, "support", number, subject=claim, verdict={"supported": False})
    request = verification_request(name, claim=claim, evidence=found)
    empty = _row(case, "support", number, subject=claim, evidence=found)
    say = lambda supported: {"supported": supported}  # noqa: E731
    return await _ask(empty, request, role=VERIFIER, read=read_support, say=say, court=court)


async def _ask(
    row: dict[str, Any],
    request: ChatRequest,
    *,
    role: str,
    read: Callable[[str], T | Fault],
    say: Callable[[T], Mapping[str, Any]],
    court: Court,
) -> Judged:
    """`row` with what was asked, replied and read; `say` makes the verdict's JSON value of what was read."""
    tally = court.tallies[role]
    tally["judgements"] += 1
    advice = "use fewer words for each claim, and leave out none" if role == EXTRACTOR else "be shorter"
    found = await interview(court.chats[role], request, read=uncut(read, advice=advice), tally=tally)
    said, raw = found.said, found.reply.text if found.reply else row["subject"]
    if isinstance(said, Fault | Failure):
        tally["rejected"] += 1
        cut = "; raise decoding.max_tokens" if said.reason == "truncated" else ""
        return Reject(row["judgement_id"], said.reason, f"{role}: {said.detail}{cut}", raw)
    prompt = json.dumps([asdict(message) for message in found.messages], ensure_ascii=False)
    return row | {"prompt": readable(prompt), "reply": readable(raw), "verdict": json.dumps(say(said))}


def _id(case: Case, kind: str, number: int) -> str:
    return f"{case.row_id}/{kind}/{number}"


def _row(
    case: Case,
    kind: str,
    number: int,
    *,
    subject: str,
    evidence: Sequence[Snippet] = (),
    verdict: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "judgement_id": _id(case, kind, number),
        "row_id": case.row_id,
        "question_id": case.question_id,
        "dataset": case.dataset,
        "kind": kind,
        "number": number,
        "subject": readable(subject),
        "evidence": [snippet.as_row() for snippet in evidence],
        "prompt": None,
        "reply": None,
        "verdict": None if verdict is None else json.dumps(verdict),
    }


def verdicts(rows: Iterable[Mapping[str, Any]], rejects: Iterable[Mapping[str, Any]]) -> dict[str, Verdict]:
    """One verdict a response, by its row_id, from all judgements (schema JUDGEMENTS) and rejects (schema REJECTS).

    |C| is the number of its rows of kind support, S that of those supported. A response with a reject is rejected for
    the reason of the first.
    """
    found: dict[str, Verdict] = {}
    for reject in rejects:
        response = reject["row_id"].rsplit("/", 2)[0]
        found.setdefault(response, Verdict(rejected=reject["reason"]))
    rejected = set(found)
    for row in rows:
        if row["row_id"] not in rejected:
            found[row["row_id"]] = _with(found.get(row["row_id"]), row=row)
    return found


def _with(verdict: Verdict | None, *, row: Mapping[str, Any]) -> Verdict:
    said = json.loads(row["verdict"])
    if row["kind"] == "truthful":
        return Verdict(truthful=said["truthful"], informative=said["informative"])
    claims, supported = ((verdict.claims or 0), (verdict.supported or 0)) if verdict else (0, 0)
    if row["kind"] == "support":
        return Verdict(claims=claims + 1, supported=supported + said["supported"])
    return Verdict(claims=claims, supported=supported)
