"""One response before its judges: what they are asked, what comes of it, what stops them.

Chats and searches are fakes that follow from the request; test_judgements_stage.py has the real ones.
"""

import asyncio
import json
from dataclasses import asdict, replace

import pyarrow as pa
import pytest

from mralign.evaluation.benchmarks import find
from mralign.evaluation.benchmarks.benchmark import Case
from mralign.evaluation.judgements_stage import JudgedQuestion, cases_of, read_questions
from mralign.evaluation.judging import Judgements, Judges, judge, response_of, verdicts
from mralign.retrieval.search import Snippet
from mralign.rows.schema import JUDGEMENTS, QUESTIONS
from mralign.run.part_names import part_name
from mralign.run.store import StageDir
from mralign.serving.calls import Failure
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


ROLES = ("judge", "extractor", "verifier")


def judged(answer, *, found=(), case=LONG, visits=(ROLES,)):
    """The judgements of a case by the roles of each visit, one after the other, and the chat of all of them."""
    chat = Script(answer)
    shelf = Shelf(list(found) if isinstance(found, tuple) else found)
    known = Judgements()
    for roles in visits:
        judges = Judges(dict.fromkeys(roles, chat), shelf)
        asyncio.run(judge(case, benchmark=find(case.benchmark), judges=judges, known=known))
        known = Judgements.from_json(json.loads(json.dumps(known.to_json())))
    return known, chat


def both(shown):
    return json.dumps({"claims": ["Ada wrote it.", "Ada was born."]} if "passage" in shown else {"supported": True})


def verdict(known):
    """What stands in the scores of the one response."""
    (found,) = verdicts(known.rows, [asdict(reject) for reject in known.rejects]).values()
    if found.rejected:
        return found.rejected
    benchmark = find("truthfulqa" if "truthful" in found.said else "longfact")
    return benchmark.score({}, found.said, None)


def test_a_claim_without_evidence_is_not_supported_and_nobody_is_asked():
    known, chat = judged(both)
    rows = known.rows
    assert [row["kind"] for row in rows] == ["claims", "support", "support"] and len(chat.asked) == 1
    assert (rows[1]["prompt"], rows[1]["reply"], rows[1]["verdict"]) == (None, None, '{"supported": false}')
    assert verdict(known) == {"claims": 2, "supported": 0}


def test_engines_that_are_visited_one_after_the_other_say_the_same_as_one():
    found = (Snippet("1", "", "Ada wrote it.", None),)
    at_once, _ = judged(both, found=found)
    in_turn, _ = judged(both, found=found, visits=(("extractor", "judge"), ("verifier",)))
    assert (in_turn.rows, in_turn.took, in_turn.steps) == (at_once.rows, at_once.took, 2)
    first, _ = judged(both, found=found, visits=(("judge",), ("extractor",)))
    assert [row["kind"] for row in first.rows] == ["claims"] and first.steps == 1


def test_one_claim_without_a_verdict_rejects_the_response():
    def answer(shown):
        return "maybe" if shown.get("claim") == "Ada was born." else both(shown)

    known, _ = judged(answer, found=(Snippet("1", "", "Ada wrote it.", None),))
    (reject,) = known.rejects
    assert (reject.row_id, reject.reason, reject.raw) == ("q/on/0/support/1", "not_json", "maybe")
    assert (reject.role, reject.dataset) == ("verifier", "long")
    assert verdict(known) == "not_json"


def test_a_search_that_fails_rejects_the_claim_with_its_reason():
    known, _ = judged(both, found=Failure("timeout", "late"))
    assert {(r.reason, r.raw) for r in known.rejects} == {("timeout", "Ada wrote it."), ("timeout", "Ada was born.")}
    assert {(r.role, r.dataset) for r in known.rejects} == {("", "long")}  # no judge was asked
    assert verdict(known) == "timeout"


def test_claims_and_replies_with_odd_characters_can_be_stored():
    def answer(shown):
        if "passage" in shown:
            return '<think>\ud800</think>{"claims": ["漢字 \\u200b é"]}'
        return '{"supported": true}\ud800' if "claim" in shown else "?"

    known, _ = judged(answer, found=(Snippet("1", "t", "x", None),))
    table = pa.Table.from_pylist(known.rows, schema=JUDGEMENTS)
    assert table.column("reply").to_pylist() == ['<think>?</think>{"claims": ["漢字 \\u200b é"]}']
    assert [(reject.row_id, reject.reason) for reject in known.rejects] == [("q/on/0/support/0", "not_json")]


def test_an_extraction_that_is_cut_off_is_told_to_leave_out_nothing():
    known, chat = judged(lambda shown: ChatReply('{"claims": ["Ada', "length", 10, 99))
    assert "use fewer words for each claim, and leave out none" in chat.asked[1].messages[-1].content
    (reject,) = known.rejects
    assert (reject.reason, "raise decoding.max_tokens" in reject.detail) == ("truncated", True)


def test_an_invalid_response_is_put_to_nobody_and_counts_as_nothing():
    for name, scores in (
        ("longfact", {"claims": 0, "supported": 0}),
        ("truthfulqa", {"truthful": False, "informative": False}),
    ):
        known, chat = judged(both, case=replace(LONG, benchmark=name, answer=None))
        assert not chat.asked and verdict(known) == scores


def test_one_response_of_several_methods_is_judged_once_and_two_of_one_name_are_refused():
    row = {name: LONG.__dict__.get(name) for name in ("row_id", "question_id", "dataset", "question", "answer")}
    row |= {"answers": []}
    given = {"benchmarks": {"long": "longfact"}, "questions": {LONG.question_id: JudgedQuestion(LONG.question)}}
    assert cases_of([row, dict(row)], **given) == [LONG]
    # Nobody is asked about an answer that is empty, as nobody is about one that is missing.
    for nothing in ("", None):
        (case,) = cases_of([row | {"answer": nothing}], **given)
        assert case == replace(LONG, answer=None)
    with pytest.raises(ValueError, match="two different responses are called q/on/0"):
        cases_of([row, row | {"answer": "Other."}], **given)


def test_a_question_without_a_field_that_its_judges_are_shown_is_refused(tmp_path):
    out = StageDir(str(tmp_path))
    row = {"question_id": "t/0", "dataset": "t", "split": "test", "question": "?", "answers": ["a"]}
    for number, extra in enumerate(({"incorrect_answers": ["b"]}, {})):
        table = pa.Table.from_pylist([row | {"extra": json.dumps(extra)}], schema=QUESTIONS)
        out.commit(part_name(f"test-{number}"), table, schema=QUESTIONS)
    with pytest.raises(ValueError, match="question t/0 has no incorrect_answers, which the judges of truthfulqa"):
        read_questions(out, split="test", benchmarks={"t": "truthfulqa"})
    assert read_questions(out, split="test", benchmarks={"t": "frames"}) == {"t/0": JudgedQuestion("?")}


def test_the_name_of_a_judgement_tells_its_response():
    for response in ("nq/on/0", "d/claims/3/on/0", "a/0/on/0/revise-1", "q/off/12/ret"):
        assert response_of(response) == response
        for kind in ("truthful", "claims", "support", "correct"):
            assert response_of(f"{response}/{kind}/17") == response
