"""An annotator's request, its repair round and what is counted. The chat is a script: it says what it is told to."""

import asyncio
import json
from collections import Counter

from mralign.annotation.ask import ChatAnnotator, CueAnnotator
from mralign.annotation.cues import load_rule_book
from mralign.annotation.instruction import AnnotatorInstruction, Trajectory
from mralign.annotation.replies import Opinion
from mralign.annotation.step_labels import StepLabels
from mralign.annotation.taxonomy import PAPER
from mralign.config import resolve_path
from mralign.run.rejects import Reject
from mralign.serving.calls import Failure
from mralign.serving.conversation import ChatReply

THOUGHT = Trajectory("q/on/0", "Who?", ("Ada",), ("First, what is asked?", "It was Ada.", "So: Ada."))


class Script:
    """A fake chat: it replies what the script says, in order, and keeps the requests."""

    def __init__(self, *replies):
        self.replies, self.requests = list(replies), []

    async def reply(self, request):
        self.requests.append(request)
        said = self.replies.pop(0)
        return said if isinstance(said, Failure) else ChatReply(*said)


def good(*spans, label="framing"):
    steps = [{"segments": list(span), "labels": [{"label": label, "confidence": 8}]} for span in spans]
    return json.dumps({"steps": steps, "confidence": 6})


def reply(text, *, finish="stop"):
    return text, finish, 100, 20, 64


def annotate(*replies, show_answers=True):
    chat, tally = Script(*replies), Counter()
    annotator = ChatAnnotator("Ann", chat=chat, instruction=AnnotatorInstruction(PAPER, show_answers))
    return asyncio.run(annotator.annotate(THOUGHT, tally=tally)), chat, tally


def test_a_good_reply_is_one_request():
    said, chat, tally = annotate(reply(good([0], [1, 2])))
    assert said == Opinion((StepLabels(0, 0, ("framing",), (8.0,)), StepLabels(1, 2, ("framing",), (8.0,))), 6.0)
    (request,) = chat.requests
    assert [m.role for m in request.messages] == ["system", "user"]
    assert request.schema["$defs"]["StepReply"]["properties"]["segments"]["items"]["maximum"] == 2
    assert dict(tally) == {
        "trajectories": 1,
        "requests": 1,
        "cached": 0,
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "prefix_tokens": 64,
        "written_tokens": 0,
        "fresh_prompt_tokens": 100,
        "fresh_prefix_tokens": 64,
        "fresh_written_tokens": 0,
        "fresh_completion_tokens": 20,
    }


def test_a_bad_reply_is_asked_again_with_the_error_quoted():
    bad = good([0], [2])
    said, chat, tally = annotate(reply(bad), reply(good([0, 1, 2])))
    assert isinstance(said, Opinion)
    first, second = chat.requests
    assert second.messages[:2] == first.messages
    assert [m.role for m in second.messages[2:]] == ["assistant", "user"]
    assert second.messages[2].content == bad
    assert "step 1 begins at segment 2, expected 1" in second.messages[3].content
    assert second.schema == first.schema
    assert (tally["requests"], tally["repaired"], tally["rejected"]) == (2, 1, 0)


def test_after_one_repair_the_row_is_put_aside_with_the_raw_reply():
    said, chat, tally = annotate(reply("no"), reply("never"))
    assert said.reason == "not_json"
    assert said.detail.startswith("annotator Ann: the reply holds no JSON object")
    assert (said.row_id, said.raw) == ("q/on/0", "never")
    assert len(chat.requests) == 2
    assert (tally["trajectories"], tally["repaired"], tally["rejected"]) == (1, 1, 1)


def test_a_reply_cut_off_says_so():
    said, chat, _ = annotate(reply('{"steps": [', finish="length"), reply('{"steps": [', finish="length"))
    assert said.reason == "truncated"
    assert "cut off after 20 tokens; be shorter" in chat.requests[1].messages[3].content


def test_a_repair_that_fails_keeps_the_raw_reply_and_quotes_no_thought():
    said, chat, tally = annotate(reply("<think>hm</think> no json"), Failure("http_400", "too long"))
    assert chat.requests[1].messages[2].content == "no json"
    assert (said.reason, said.raw) == ("http_400", "<think>hm</think> no json")
    assert (tally["requests"], tally["repaired"], tally["rejected"]) == (1, 1, 1)


def test_an_empty_reply_is_repaired():
    said, chat, _ = annotate(reply(""), reply(good([0, 1, 2])))
    assert isinstance(said, Opinion)
    assert chat.requests[1].messages[2].content == "(nothing)"


def test_a_failure_of_the_engine_is_not_repaired():
    said, chat, tally = annotate(Failure("prompt_too_long", "9000 tokens"))
    assert said == Reject("q/on/0", "prompt_too_long", "annotator Ann: 9000 tokens", "Who?")
    assert len(chat.requests) == 1
    assert (tally["requests"], tally["repaired"], tally["rejected"]) == (0, 0, 1)


def test_the_gold_answer_is_shown_or_not():
    for shown in (True, False):
        _, chat, _ = annotate(reply(good([0, 1, 2])), show_answers=shown)
        assert ("Right answer: Ada" in chat.requests[0].messages[1].content) == shown


def test_the_static_part_comes_first_and_is_the_same_for_all():
    chat = Script(reply(good([0, 1, 2])), reply(good([0])))
    annotator = ChatAnnotator("Ann", chat=chat, instruction=AnnotatorInstruction(PAPER, True))
    for thought in (THOUGHT, Trajectory("p/on/0", "When?", (), ("1850.",))):
        asyncio.run(annotator.annotate(thought, tally=Counter()))
    first, second = (request.messages for request in chat.requests)
    assert first[0] == second[0]
    assert all(f"- {label}: {PAPER.meaning[label]}" in first[0].content for label in PAPER.labels)
    assert "[2] So: Ada." in first[1].content
    assert second[1].content.endswith("There is one segment, number 0. Annotate it.")


def test_the_adjudicator_is_asked_once_for_all_disputed_steps():
    disputed = [
        (StepLabels(0, 0, ("framing",), (5.0,)), StepLabels(0, 0, (), ())),
        (StepLabels(1, 2, ("chaining",), (6.0,)), StepLabels(1, 2, ("retrieval", "analogy"), (6.0, 2.0))),
    ]
    verdict = {"dispute_1": [], "dispute_2": [{"label": "retrieval", "confidence": 9}]}
    chat, tally = Script(reply(json.dumps(verdict))), Counter()
    judge = ChatAnnotator("Jo", chat=chat, instruction=AnnotatorInstruction(PAPER, False))
    said = asyncio.run(judge.adjudicate(THOUGHT, disputed, tally=tally))
    assert said == (StepLabels(0, 0, (), ()), StepLabels(1, 2, ("retrieval",), (9.0,)))
    asked = chat.requests[0].messages[1].content
    assert "dispute_1: segment 0. One annotator said framing (5); the other said no label." in asked
    assert "dispute_2: segments 1 to 2. One annotator said chaining (6); the other said retrieval (6) and" in asked
    assert list(chat.requests[0].schema["properties"]) == ["dispute_1", "dispute_2"]
    assert tally["trajectories"] == tally["requests"] == 1


def test_cue_phrases_outside_the_taxonomy_are_a_reject():
    book = load_rule_book(resolve_path("pkg://mralign.annotation/rule_books/first.yaml"))
    inside = CueAnnotator("cues", book=book, taxonomy=PAPER)
    thought = Trajectory("q/on/0", "Who?", (), ("Wait, that is wrong.",))
    assert isinstance(asyncio.run(inside.annotate(thought, tally=Counter())), Opinion)
    other = type(PAPER)(labels=("zeta",), macro={"zeta": "all"})
    said = asyncio.run(CueAnnotator("cues", book=book, taxonomy=other).annotate(thought, tally=Counter()))
    assert isinstance(said, Reject)
    assert said.detail.startswith("annotator cues: step 0 has unknown labels")
