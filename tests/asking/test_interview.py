"""A chat is asked twice at most; what runs at once ends as it should; chats of one endpoint share it."""

import asyncio
from collections import Counter

import pytest
from loopback_server import LoopbackServer

from mralign.asking.chats import open_chats
from mralign.asking.interview import interview, money_spent, price, together, uncut
from mralign.asking.json_reply import Fault, JsonReply, read_reply
from mralign.config import Http, parse
from mralign.serving.calls import Failure, Stopped
from mralign.serving.conversation import ChatReply, ChatRequest, Message

REQUEST = ChatRequest("row", (Message("system", "s"), Message("user", "u")), {"type": "object"})


class Script:
    """A fake chat: it replies what the script says, in order, and keeps the requests."""

    def __init__(self, *replies):
        self.replies, self.asked = list(replies), []

    async def reply(self, request):
        self.asked.append(request)
        return self.replies.pop(0)


def read(text):
    return text if text.startswith("good") else Fault("bad", f"no good: {text}")


def ask(*replies):
    chat, tally = Script(*replies), Counter()
    return asyncio.run(interview(chat, REQUEST, read=uncut(read), tally=tally)), chat, tally


def test_what_was_said_is_told_with_the_messages_that_it_answers():
    found, _, tally = ask(ChatReply("good", "stop", 10, 2, prefix_tokens=8, cached=True))
    assert (found.said, found.messages, found.reply.text, found.mended) == ("good", REQUEST.messages, "good", None)
    assert tally == Counter(requests=1, cached=1, prompt_tokens=10, completion_tokens=2, prefix_tokens=8)
    found, chat, tally = ask(ChatReply("<think>x</think> bad", "stop", 10, 2), ChatReply("good 2", "stop", 20, 3))
    assert (found.said, found.messages, found.mended.reason) == ("good 2", chat.asked[1].messages, "bad")
    assert [m.content for m in found.messages[:3]] == ["s", "u", "bad"] and "no good" in found.messages[3].content
    assert (tally["repaired"], tally["fresh_prompt_tokens"], tally["fresh_completion_tokens"]) == (1, 30, 5)


def test_what_could_not_be_used_is_a_fault_and_what_did_not_come_a_failure():
    found, _, _ = ask(ChatReply("a", "stop", 1, 1), ChatReply("b", "length", 1, 7))
    assert found.said == Fault("truncated", "the reply was cut off after 7 tokens; be shorter")
    assert (found.reply.text, found.mended.detail) == ("b", "no good: a")
    found, chat, _ = ask(ChatReply("a", "stop", 1, 1), Failure("timeout", "late"))
    assert (found.said, found.reply.text, found.messages) == (Failure("timeout", "late"), "a", REQUEST.messages)
    found, chat, _ = ask(Failure("http_400", "no"))
    assert (found.said, found.reply, found.mended, len(chat.asked)) == (Failure("http_400", "no"), None, None, 1)


def test_money_is_that_of_all_tokens_or_of_the_fresh_ones():
    tokens = {"prompt_tokens": 3_000_000, "completion_tokens": 500_000, "fresh_prompt_tokens": 1_000_000}
    http = Http(price_prompt=2.0, price_completion=8.0)
    assert (price(tokens, http=http), price(tokens, http=http, fresh=True), price(tokens, http=None)) == (10.0, 2.0, 0)


def test_what_was_spent_now_is_told_by_currency():
    """Fresh tokens alone: 2 + 8 * 0.5 euros, and twice 4 dollars; an engine of ours and a free endpoint have none."""
    took = {
        "a": {"prompt_tokens": 9_000_000, "fresh_prompt_tokens": 1_000_000, "fresh_completion_tokens": 500_000},
        "b": {"fresh_prompt_tokens": 1_000_000},
        "c": {"fresh_prompt_tokens": 1_000_000},
        "d": {"fresh_prompt_tokens": 1_000_000},
    }
    euros, dollars = Http(price_prompt=2.0, price_completion=8.0, currency="EUR"), Http(price_prompt=4.0)
    endpoints = {"a": euros, "b": dollars, "c": dollars, "d": None, "e": Http()}
    found = {told.currency: told.spent for told in money_spent(took, endpoints=endpoints)}
    assert found == {"EUR": 6.0, "USD": 8.0}
    assert {told.currency: told.spent for told in money_spent({}, endpoints=endpoints)} == {"EUR": 0.0, "USD": 0.0}


class Numbers(JsonReply):
    a: list[int]


@pytest.mark.parametrize(
    "wrap", ["{}", "```json\n{}\n```", "\n```\n{}```  ", "<think>a {b}</think>{}", "a</think>\n{}"]
)
def test_an_object_may_be_alone_in_a_fence_or_after_a_thought(wrap):
    assert read_reply(wrap.replace("{}", '{"a": [1]}'), Numbers, alone=True) == Numbers(a=[1])


@pytest.mark.parametrize("wrap", ["Yes: {}", "{} I think", "{}.", "x```{}```", "`{}`", "```{}``` or so", "<answer>{}"])
def test_words_around_an_object_that_must_be_alone_are_a_fault(wrap):
    text = wrap.replace("{}", '{"a": [1]}')
    assert read_reply(text, Numbers, alone=True).reason == "not_json"
    assert read_reply(text, Numbers) == Numbers(a=[1])


def test_the_detail_of_a_fault_can_be_stored_and_is_not_long():
    assert Fault("odd", "x\ud800" * 400).detail == ("x?" * 400)[:500]


def test_who_is_in_flight_when_another_is_stopped_comes_to_an_end():
    ended = []

    async def work(number):
        await asyncio.sleep(0.01 * number)
        if number == 1:
            raise Stopped("no more")
        ended.append(number)
        return number

    with pytest.raises(Stopped, match="no more"):
        asyncio.run(together(map(work, range(4))))
    assert ended == [0, 2, 3]
    assert asyncio.run(together(map(work, (3, 0, 2)))) == [3, 0, 2]


def test_any_other_exception_cancels_the_rest():
    ended = []

    async def work(number):
        if number == 1:
            raise KeyError("a bug")
        await asyncio.sleep(0.2)
        ended.append(number)

    with pytest.raises(KeyError, match="a bug"):
        asyncio.run(together(map(work, range(4))))
    assert ended == []


def test_chats_of_one_endpoint_share_it_and_ask_once(tmp_path):
    with LoopbackServer(latency_s=0.05) as server:
        http = {"base_url": server.base_url, "model": "m", "vllm_extras": False}
        names = {"a": http, "b": http, "c": http | {"model": "n"}}
        chats = {n: {"name": n, "engine": "http", "http": h, "decoding": {"temperature": 0}} for n, h in names.items()}
        config = parse(
            {
                "run": {"dir": str(tmp_path / "run")},
                "questions": {"test": [{"name": "q", "path": "x"}]},
                "annotation": {"annotators": [chats["a"], chats["b"]], "adjudicator": chats["c"]},
            }
        )
        roles = dict(zip("abc", (*config.annotation.annotators, config.annotation.adjudicator), strict=True))

        async def ask_all():
            async with open_chats(roles, config=config) as opened:
                assert opened["a"].endpoint is opened["b"].endpoint is not opened["c"].endpoint
                return await asyncio.gather(*(chat.reply(REQUEST) for chat in opened.values()))

        replies = asyncio.run(ask_all())
        assert len({reply.text for reply in replies}) == 1 and sum(server.received.values()) == 2
        assert sorted(reply.cached for reply in replies) == [False, False, True]
