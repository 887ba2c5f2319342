"""Cached prompt tokens as servers tell them, what they cost, and the hints by which an endpoint finds them again."""

import asyncio
import json
from decimal import Decimal

import pytest
from loopback_server import LoopbackServer, Said, body_of

from mralign.asking.interview import price
from mralign.config import Http
from mralign.run.forecast import chat_cost, describe_costs
from mralign.run.store import Directory
from mralign.serving.cache_hints import told_to_cache
from mralign.serving.calls import Call
from mralign.serving.chat_completions import read_chat
from mralign.serving.endpoint import Endpoint
from mralign.serving.usage import Usage, usage_of

CHAT = {"model": "m", "messages": [{"role": "system", "content": "label"}, {"role": "user", "content": "thought"}]}


@pytest.mark.parametrize(
    "more",
    [
        {"prompt_tokens_details": {"cached_tokens": 64, "audio_tokens": 0}},
        {"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36},
        {"cache_read_input_tokens": 64, "cache_creation_input_tokens": 0, "prompt_tokens_details": None},
        {"cached_tokens": 64},
        {"prompt_tokens_details": {"cached_tokens": 0}, "prompt_cache_hit_tokens": 64},
    ],
)
def test_each_server_tells_its_cached_tokens_by_a_name_of_its_own(more):
    assert usage_of({"usage": {"prompt_tokens": 100, "completion_tokens": 5} | more}) == Usage(100, 5, 64)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (None, Usage(None, None, 0)),
        ({"prompt_tokens": "100", "completion_tokens": -1, "cached_tokens": True}, Usage(None, None, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 99}, Usage(10, 1, 10)),
    ],
)
def test_no_more_is_believed_than_a_prompt_has(usage, expected):
    assert usage_of({"usage": usage}) == expected


@pytest.mark.parametrize(
    "more",
    [
        {"cache_creation_input_tokens": 30, "cache_read_input_tokens": 60},
        {"prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}},
        {"prompt_tokens_details": {"cached_tokens": 60, "cache_creation_tokens": 30}, "cache_creation_input_tokens": 0},
        {"cache_creation_input_tokens": 30.5, "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30}},
    ],
)
def test_written_tokens_are_told_by_gateways(more):
    assert usage_of({"usage": {"prompt_tokens": 100, "completion_tokens": 5} | more}) == Usage(100, 5, 60, 30)
    assert usage_of({"usage": {"prompt_tokens": 70, "completion_tokens": 5} | more}) == Usage(70, 5, 60, 10)


def test_written_tokens_cost_what_they_cost(tmp_path):
    """Of 1000 tokens 200 are read at 0.2 and 300 written at 2.5, the others and all without such a price at 2."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 100, "cache_read_input_tokens": 200}
    usage |= {"cache_creation_input_tokens": 300}

    def written(prompt, attempt):
        return Said(200, body_of(prompt, "yes") | {"usage": usage})

    calls = [Call("row/1", "/completions", {"model": "m", "prompt": "p"})]
    with LoopbackServer(written) as server:
        told = ask(server, tmp_path / "one", calls=calls, price_cached=0.2, price_cache_write=2.5)
        assert told.written_tokens == told.figures()["written_tokens"] == 300
        assert told.spent == Decimal(500 * 2 + 40 + 750 + 800) / 1_000_000
        assert ask(server, tmp_path / "two", calls=calls).spent == Decimal(2000 + 800) / 1_000_000
    tokens = {"prompt_tokens": 1000, "prefix_tokens": 200, "written_tokens": 300, "completion_tokens": 100}
    http = Http(price_prompt=2.0, price_completion=8.0, price_cached=0.2, price_cache_write=2.5)
    assert price(tokens, http=http) == pytest.approx(0.00259)
    reply = read_chat(
        {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "usage": usage}, cached=False
    )
    assert reply.written_tokens == 300


def ask(server, tmp_path, *, calls, **settings):
    """The calls, one after the other; the endpoint's tally."""

    async def run():
        http = Http(base_url=server.base_url, key_env="", price_prompt=2.0, price_completion=8.0, **settings)
        async with Endpoint(http, cache=Directory(str(tmp_path / "cache"))) as endpoint:
            for call in calls:
                await endpoint.complete(call)
            return endpoint.tally

    return asyncio.run(run())


def half_cached(prompt, attempt):
    body = body_of(prompt, "yes")
    return Said(
        200, body | {"usage": {"prompt_tokens": 1000, "completion_tokens": 100, "prompt_cache_hit_tokens": 500}}
    )


def test_cached_tokens_cost_what_they_cost_in_the_tally_and_in_the_budget_of_the_next_start(tmp_path):
    """500 tokens at 2, 500 at 0.5 and 100 at 8 for a million; without a price of their own all 1000 at 2."""
    calls = [Call(f"row/{n}", "/completions", {"model": "m", "prompt": f"p{n}"}) for n in range(2)]
    with LoopbackServer(half_cached) as server:
        first = ask(server, tmp_path, calls=calls[:1], price_cached=0.5)
        assert (first.prompt_tokens, first.prefix_tokens) == (1000, 500)
        assert first.spent == Decimal(500 * 2 + 250 + 800) / 1_000_000
        second = ask(server, tmp_path, calls=calls)
        assert second.spent_before == first.spent
        assert second.spent == Decimal(2000 + 800) / 1_000_000
    tokens = {"fresh_prompt_tokens": 1000, "fresh_prefix_tokens": 500, "fresh_completion_tokens": 100}
    http = Http(price_prompt=2.0, price_completion=8.0, price_cached=0.5)
    assert price(tokens, http=http, fresh=True) == pytest.approx(0.00205)


def test_a_plan_prices_cached_tokens_only_where_they_were_measured_and_says_so():
    """A million tokens at 2, or 750,000 of them at 0.4."""
    asked = {"requests": 10, "prompt_tokens": 1_000_000, "completion_tokens": 0}
    cheap, plain = Http(price_prompt=2.0, price_cached=0.4), Http(price_prompt=2.0)
    assert chat_cost("Ann", http=cheap, **asked).money == 2.0
    assert chat_cost("Ann", http=plain, **asked, measured_share=0.75).money == 2.0
    cost = chat_cost("Ann", http=cheap, **asked, measured_share=0.75)
    assert cost.money == pytest.approx(0.5 + 0.3)
    (line,) = describe_costs([cost])
    assert line.endswith("money 0.80 USD (assumed: 75% of the prompts cached, as measured before)")


def sent(tmp_path, *, payload, **settings):
    """The payload as the server gets it."""
    got = []

    def note(payload):
        got.append(payload)
        return "prompt"

    with LoopbackServer(prompt=note) as server:
        ask(server, tmp_path, calls=[Call("row", "/chat/completions", payload)], **settings)
    return got


def test_a_hint_is_sent_and_changes_no_key_of_the_cache(tmp_path):
    assert sent(tmp_path, payload=CHAT, prompt_cache="key")[0].keys() == CHAT.keys() | {"prompt_cache_key"}
    asked_once = {**CHAT, "messages": [*CHAT["messages"][:1], {"role": "user", "content": "another"}]}
    (marked,) = sent(tmp_path, payload=asked_once, prompt_cache="mark")
    instruction = {"type": "text", "text": "label", "cache_control": {"type": "ephemeral"}}
    assert marked["messages"] == [{"role": "system", "content": [instruction]}, asked_once["messages"][1]]
    assert len(list((tmp_path / "cache").glob("*/*.json"))) == 2


def test_chats_that_begin_alike_have_one_key_and_others_another():
    def key(**changes):
        return told_to_cache(CHAT | changes, how="key")["prompt_cache_key"]

    same = [CHAT["messages"][0], {"role": "user", "content": "something else"}]
    other = [{"role": "system", "content": "judge"}, CHAT["messages"][1]]
    assert key() == key(messages=same)
    assert len({key(), key(messages=other), key(model="n")}) == 3


@pytest.mark.parametrize("how", ["plain", "key", "mark"])
def test_what_has_no_instruction_is_sent_as_it_is(how):
    for payload in ({"prompt": [1, 2]}, {"messages": [{"role": "user", "content": "?"}]}):
        assert told_to_cache(payload, how=how) is payload
    assert json.dumps(told_to_cache(CHAT, how="plain")) == json.dumps(CHAT)
