"""A response is put to the judges, and what they said of it is put together again.

A `Case` (a response and what its judges may see) enters; rows of schema JUDGEMENTS leave, one for each question to a
judge, and a reject for each that has no usable answer. From both, `verdicts` makes one `Verdict` a response. A response
of which one judgement is missing is rejected as a whole: a share of its claims would be a biased F1, and a neutral
verdict would be a made-up one. What needs no judge has a row all the same, whose `prompt` and `reply` are null: an
invalid response, and a claim for which no evidence was found.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from mralign.asking.interview import interview, said_or_reject, together, uncut
from mralign.asking.json_reply import read_reply, readable, reply_schema
from mralign.evaluation.benchmarks import registry
from mralign.evaluation.benchmarks.benchmark import Benchmark, Case, Item, Role, Said, Step
from mralign.retrieval.search import Searcher
from mralign.rows.schema import Snippet
from mralign.run.rejects import Reject
from mralign.serving.calls import Failure
from mralign.serving.conversation import Chat, ChatRequest, Message

Judged = dict[str, Any] | Reject  # a row of schema JUDGEMENTS, or why there is none


@dataclass(frozen=True)
class Judges:
    """Who judges, by role; where evidence is found, and how many snippets a claim gets."""

    chats: Mapping[Role, Chat]
    searcher: Searcher | None = None
    evidence: int = 10


@dataclass
class Judgements:
    """What is known of one response so far: its rows of schema JUDGEMENTS and its rejects, how many steps of its
    benchmark were taken, and what they took by role."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    steps: int = 0
    took: dict[str, Counter[str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A JSON value that goes on to the next engine."""
        took = {role: dict(tally) for role, tally in self.took.items()}
        return {"rows": self.rows, "rejects": list(map(asdict, self.rejects)), "steps": self.steps, "took": took}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Judgements:
        """The inverse of `to_json`."""
        rejects = [Reject(**reject) for reject in value["rejects"]]
        took = {role: Counter(tally) for role, tally in value["took"].items()}
        return cls(list(value["rows"]), rejects, value["steps"], took)


@dataclass(frozen=True)
class Verdict:
    """What the judges said of one response, by kind of judgement; nothing where it was rejected for that reason."""

    said: Said = field(default_factory=dict)
    rejected: str = ""


async def judge(case: Case, *, benchmark: Benchmark, judges: Judges, known: Judgements) -> None:
    """Take the steps of a benchmark about one response, from those that are `known` on; the judgements are added there.

    A step whose judge is not at hand ends it, and so does a reject: the response has no score, and further steps are
    not worth the money. Raises what a chat or the searcher raises (calls.Stopped).
    """
    for step in benchmark.steps[known.steps :]:
        if known.rejects or step.role not in judges.chats:
            return
        tally = known.took.setdefault(step.role, Counter())
        items = enumerate(step.items(case, said_in(known.rows)))
        found = await together(_judge(step, case, n, item, judges=judges, tally=tally) for n, item in items)
        known.rows += [one for one in found if not isinstance(one, Reject)]
        known.rejects += [one for one in found if isinstance(one, Reject)]
        known.steps += 1


async def _judge(step: Step, case: Case, number: int, item: Item, *, judges: Judges, tally: Counter[str]) -> Judged:
    evidence: Sequence[Snippet] = ()
    if step.searched:
        assert judges.searcher is not None
        found = await judges.searcher.search(item.subject, top_k=judges.evidence)
        if isinstance(found, Failure):
            detail = f"the search of evidence failed: {found.detail}"
            return Reject(_judgement_id(case, step, number), found.reason, detail, item.subject, dataset=case.dataset)
        evidence = found
    row = _row(step, case, number, subject=item.subject, evidence=evidence)
    settled = item.verdict or (step.unfound if step.searched and not evidence else None)
    if settled is not None:
        return row | {"verdict": json.dumps(settled)}
    shown = dict(item.shown)
    if step.searched:
        shown["evidence"] = [_text_of(snippet) for snippet in evidence]
    request = request_of(step, row["judgement_id"], shown=shown)
    return await _ask(step, row, request, chat=judges.chats[step.role], tally=tally)


def _text_of(snippet: Snippet) -> dict[str, str]:
    return {"title": snippet.title, "text": snippet.text} if snippet.title else {"text": snippet.text}


def request_of(step: Step, key_id: str, *, shown: Mapping[str, Any]) -> ChatRequest:
    """The request that shows a judge its material below an instruction that is the same for all.

    As JSON text no answer can end the place where it stands.
    """
    text = readable(json.dumps(shown, ensure_ascii=False, indent=1))
    messages = (Message("system", step.instruction), Message("user", text))
    return ChatRequest(key_id, messages, reply_schema(step.reply))


async def _ask(step: Step, row: dict[str, Any], request: ChatRequest, *, chat: Chat, tally: Counter[str]) -> Judged:
    """`row` with what was asked, replied and read."""
    tally["judgements"] += 1
    read = uncut(partial(read_reply, model=step.reply, alone=True), advice=step.advice)
    found = await interview(chat, request, read=read, tally=tally)
    said = said_or_reject(found, row_id=row["judgement_id"], who=step.role, unanswered=row["subject"])
    if isinstance(said, Reject):
        tally["rejected"] += 1
        return replace(said, dataset=row["dataset"], role=step.role)
    assert found.reply is not None
    prompt = json.dumps([asdict(message) for message in found.messages], ensure_ascii=False)
    return row | {
        "prompt": readable(prompt),
        "reply": readable(found.reply.text),
        "verdict": json.dumps(said.model_dump()),
    }


def _judgement_id(case: Case, step: Step, number: int) -> str:
    return f"{case.row_id}/{step.kind}/{number}"


def _row(step: Step, case: Case, number: int, *, subject: str, evidence: Sequence[Snippet]) -> dict[str, Any]:
    return {
        "judgement_id": _judgement_id(case, step, number),
        "row_id": case.row_id,
        "question_id": case.question_id,
        "dataset": case.dataset,
        "kind": step.kind,
        "number": number,
        "subject": readable(subject),
        "evidence": [snippet.as_row() for snippet in evidence],
        "prompt": None,
        "reply": None,
        "verdict": None,
    }


def said_in(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The verdicts of rows of schema JUDGEMENTS by their kind, in the order of the rows."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(json.loads(row["verdict"]))
    return found


def response_of(name: str) -> str:
    """The row_id of the response that a judgement's id names; that of a response names itself."""
    kinds = [step.kind for benchmark in registry().values() for step in benchmark.steps]
    return re.sub(rf"/({'|'.join(kinds)})/[0-9]+$", "", name)


def verdicts(rows: Iterable[Mapping[str, Any]], rejects: Iterable[Mapping[str, Any]]) -> dict[str, Verdict]:
    """One verdict a response, by its row_id, from all judgements (schema JUDGEMENTS) and rejects (schema REJECTS).

    A response with a reject is rejected for the reason of the first.
    """
    found: dict[str, Verdict] = {}
    for reject in rejects:
        found.setdefault(response_of(reject["row_id"]), Verdict(rejected=reject["reason"]))
    by_response: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_response.setdefault(row["row_id"], []).append(row)
    for response, own in by_response.items():
        found.setdefault(response, Verdict(said_in(own)))
    return found
