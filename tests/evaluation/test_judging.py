"""One response before its judges: what they are asked, what comes of it, what stops them.

Chats and searches are fakes that follow from the request; test_judgements_stage.py has the real ones.
"""

import asyncio
import json
from dataclasses import replace

import pyarrow as pa
import pytest

from mralign.evaluation.judgements_stage import PART_ROWS, cases_of, judge_in_parts
from mralign.evaluation.judging import Case, Court, Verdict, judge, verdicts
from mralign.retrieval.search import Snippet
from mralign.rows.schema import JUDGEMENTS
from mralign.run.rejects import Reject
from mralign.run.store import StageDir
from mralign.serving.calls import Failure, Stopped
from mralign.serving.conversation import ChatReply


class Script:
    """A fake chat: a function of the request's material answers."""

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    async def reply(self, request):
        self.asked.append(request)
        said = self.answer(json.loads(request.messages[1].content))
        return said if isinstance(said, Failure | ChatReply) else ChatReply(said, "stop", 10, 5)


class Shelf:
    """A fake searcher."""

    def __init__(self, found):
        self.found = found

    async def search(self, query, *, top_k):
        return self.found


LONG = Case("q/on/0", "q", "long", "longfact", "Who?", "Ada wrote it. Ada was born.")


def judged(answer, *, found=(), case=LONG):
    chat = Script(answer)
    shelf = Shelf(list(found) if isinstance(found, tuple) else found)
    rows = asyncio.run(judge(case, court=Court(dict.fromkeys(("judge", "extractor", "verifier"), chat), shelf)))
    return rows, chat


def both(shown):
    return json.dumps({"claims": ["Ada wrote it.", "Ada was born."]} if "passage" in shown else {"supported": True})


def split(rows):
    rejects = [{"row_id": r.row_id, "reason": r.reason} for r in rows if isinstance(r, Reject)]
    return [r for r in rows if not isinstance(r, Reject)], rejects


def test_a_claim_without_evidence_is_not_supported_and_nobody_is_asked():
    rows, chat = judged(both)
    assert [row["kind"] for row in rows] == ["claims", "support", "support"] and len(chat.asked) == 1
    assert (rows[1]["prompt"], rows[1]["reply"], rows[1]["verdict"]) == (None, None, '{"supported": false}')
    assert verdicts(*split(rows)) == {"q/on/0": Verdict(claims=2, supported=0)}


def test_one_claim_without_a_verdict_rejects_the_response():
    def answer(shown):
        return "maybe" if shown.get("claim") == "Ada was born." else both(shown)

    rows, _ = judged(answer, found=(Snippet("1", "", "Ada wrote it.", None),))
    assert (rows[-1].row_id, rows[-1].reason, rows[-1].raw) == ("q/on/0/support/1", "not_json", "maybe")
    assert verdicts(*split(rows)) == {"q/on/0": Verdict(rejected="not_json")}


def test_a_search_that_fails_rejects_the_claim_with_its_reason():
    rows, _ = judged(both, found=Failure("timeout", "late"))
    assert {(r.reason, r.raw) for r in rows[1:]} == {("timeout", "Ada wrote it."), ("timeout", "Ada was born.")}
    assert verdicts(*split(rows)) == {"q/on/0": Verdict(rejected="timeout")}


def test_claims_and_replies_with_odd_characters_can_be_stored():
    def answer(shown):
        if "passage" in shown:
            return '<think>\ud800</think>{"claims": ["漢字 \\u200b é"]}'
        return '{"supported": true}\ud800' if "claim" in shown else "?"

    rows, _ = judged(answer, found=(Snippet("1", "t", "x", None),))
    kept, rejects = split(rows)
    table = pa.Table.from_pylist(kept, schema=JUDGEMENTS)
    assert table.column("reply").to_pylist() == ['<think>?</think>{"claims": ["漢字 \\u200b é"]}']
    assert rejects == [{"row_id": "q/on/0/support/0", "reason": "not_json"}]


def test_an_extraction_that_is_cut_off_is_told_to_leave_out_nothing():
    rows, chat = judged(lambda shown: ChatReply('{"claims": ["Ada', "length", 10, 99))
    assert "use fewer words for each claim, and leave out none" in chat.asked[1].messages[-1].content
    assert (rows[0].reason, "raise decoding.max_tokens" in rows[0].detail) == ("truncated", True)


def test_an_invalid_response_is_put_to_nobody_and_counts_as_nothing():
    for kind, verdict in (
        ("longfact", Verdict(claims=0, supported=0)),
        ("truthfulqa", Verdict(truthful=False, informative=False)),
    ):
        rows, chat = judged(both, case=replace(LONG, kind=kind, answer=None))
        assert not chat.asked and verdicts(rows, []) == {"q/on/0": verdict}


def test_one_response_of_several_methods_is_judged_once_and_two_of_one_name_are_refused():
    row = {name: LONG.__dict__.get(name) for name in ("row_id", "question_id", "dataset", "question", "answer")}
    row |= {"answers": [], "invalid": None}
    assert cases_of(
        [row, dict(row)], kinds={"long": "longfact"}, incorrect={}, questions={LONG.question_id: LONG.question}
    ) == [LONG]
    # Nobody is asked about an answer that is empty, as nobody is about one that is missing.
    for nothing in ({"answer": ""}, {"answer": None, "invalid": "truncated"}):
        (case,) = cases_of(
            [row | nothing], kinds={"long": "longfact"}, incorrect={}, questions={LONG.question_id: LONG.question}
        )
        assert case == replace(LONG, answer=None)
    with pytest.raises(ValueError, match="two different responses are called q/on/0"):
        cases_of(
            [row, row | {"answer": "Other."}],
            kinds={"long": "longfact"},
            incorrect={},
            questions={LONG.question_id: LONG.question},
        )


def test_whatever_stops_the_judges_ends_all_and_keeps_what_is_whole(tmp_path):
    cases = [replace(LONG, row_id=f"q/{n}", kind="truthfulqa") for n in range(3 * PART_ROWS)]

    class Broke(Script):
        async def reply(self, request):
            if len(self.asked) == PART_ROWS + 3:
                raise Stopped("no more")
            return await super().reply(request)

    chat, out, heard = Broke(lambda shown: '{"truthful": true, "informative": true}'), StageDir(str(tmp_path)), []
    with pytest.raises(Stopped, match="no more"):
        asyncio.run(judge_in_parts(cases, court=Court({"judge": chat}), out=out, report=heard.append, at_once=1))
    assert heard == [PART_ROWS] and [out.rows(part) for part in out.parts()] == [PART_ROWS]
