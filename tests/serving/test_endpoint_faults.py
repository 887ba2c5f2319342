"""An endpoint that fails as gateways do: what passes is asked again, a 429 slows all, a refusal is of one row or all.

The responses are those of OpenAI, Azure, OpenRouter, Google, vLLM, text-generation-inference, LiteLLM, Anthropic,
DeepSeek and others, served on loopback; the server's counts are the oracle.
"""

import asyncio
import itertools
import json
from email.utils import formatdate

import pytest
from loopback_server import Fault, LoopbackServer, Said, Window, answer_to, body_of

from mralign.config import Http
from mralign.run.rejects import is_passing
from mralign.run.store import Directory
from mralign.serving.backoff import asked_wait_s, duration_s, used_up_wait_s
from mralign.serving.calls import Call, EndpointRefused, Failure, Reply
from mralign.serving.endpoint import Endpoint
from mralign.serving.error_body import read_error
from mralign.serving.pacing import Pace, RateLimit, estimated_tokens

KEY = "sk-loopback/0123456789+abcdef=="


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("LOOPBACK_KEY", KEY)


class FakeClock:
    """A clock whose time passes only while somebody sleeps, and then at once."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    async def sleep(self, seconds):
        until = self.time + seconds
        await asyncio.sleep(0.02)  # let what is in flight arrive
        self.time = max(self.time, until)


def calls(count, start=0):
    return [Call(f"row/{n}", "/chat/completions", chat(f"prompt {n}")) for n in range(start, start + count)]


def chat(prompt):
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 10}


def settings(server, **values):
    base = {"base_url": server.base_url, "key_env": "LOOPBACK_KEY", "concurrency": 8, "timeout_s": 30}
    return Http(**base | {"max_retries": 2, "max_backoff_s": 0.02} | values)


def ask(http, wanted, *, tmp_path, clock=None):
    """Results by prompt, and the exception that ended the stream (None: it came to its end)."""

    async def all_of_them():
        results, end = {}, None
        async with Endpoint(http, cache=Directory(str(tmp_path / "cache")), clock=clock) as endpoint:
            try:
                async for call, result in endpoint.stream(wanted):
                    results[call.payload["messages"][-1]["content"]] = result
            except EndpointRefused as error:
                end = error
        return results, end

    return asyncio.run(asyncio.wait_for(all_of_them(), 60))


def entries(tmp_path):
    return list((tmp_path / "cache").glob("*/*.json"))


def replies(results):
    return {prompt: r.body["choices"][0]["text"] for prompt, r in results.items() if isinstance(r, Reply)}


def right(count):
    return {f"prompt {n}": answer_to(f"prompt {n}") for n in range(count)}


def choice(tokens=0, **fields):
    """A body of status 200 with this choice."""
    given = {"index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"} | fields
    return {"choices": [given], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}


def error(message, **fields):
    return {"error": {"message": message} | fields}


# --- What passes ---

HALF = {"role": "assistant", "content": "half a sen"}
LOST = {"code": 502, "message": "Network connection lost."}
PASSING = {
    "error in the choice": (Said(200, choice(3, error=LOST, finish_reason="error", message=HALF)), "server_error"),
    "error of a provider": (Said(200, error("Provider returned error", code=503)), "server_error"),
    "error without a code": (Said(200, error("oops", type="api_error")), "malformed_reply"),
    "error as a text": (Said(200, {"error": "upstream failed", "choices": None}), "malformed_reply"),
    "a list of errors": (Said(200, [error("The model is overloaded.", code=503)]), "server_error"),
    "finish error": (Said(200, choice(3, finish_reason="error", message=HALF)), "malformed_reply"),
    "finish abort": (Said(200, choice(3, finish_reason="abort", message=HALF)), "malformed_reply"),
    "no resources": (Said(200, choice(3, finish_reason="insufficient_system_resource")), "malformed_reply"),
    "empty content": (Said(200, choice()), "malformed_reply"),
    "null content": (Said(200, choice(message={"role": "assistant", "content": None})), "malformed_reply"),
    "null message": (Said(200, choice(message=None)), "malformed_reply"),
    "empty completion": (Said(200, choice(message=None, text="")), "malformed_reply"),
    "no finish": (Said(200, choice(finish_reason=None)), "malformed_reply"),
    "null choices": (Said(200, {"choices": None}), "malformed_reply"),
    "empty body": (Said(200, ""), "malformed_reply"),
    "empty object": (Said(200, {}), "malformed_reply"),
    "a page": (Said(200, "<html><body>Please sign in</body></html>", kind="text/html"), "malformed_reply"),
    "half of the JSON": (Said(200, '{"choices": [{"mess'), "malformed_reply"),
    "no content": (Said(204, ""), "malformed_reply"),
    "overloaded": (Said(529, {"type": "error", "error": {"type": "overloaded_error"}}), "server_error"),
    "bad gateway": (Said(502, "<html>502 Bad Gateway</html>", kind="text/html"), "server_error"),
    "too early": (Said(425, ""), "server_error"),
    "conflict": (Said(409, error("conflict")), "server_error"),
    "request timeout": (Said(408, ""), "timeout"),
    "gateway timeout": (Said(524, "error code: 524", kind="text/plain"), "server_error"),
    "reset": (Fault.RESET, "connection"),
}


@pytest.mark.parametrize(("said", "reason"), PASSING.values(), ids=PASSING)
def test_what_passes_is_asked_again_and_never_kept(tmp_path, said, reason):
    plan = {"prompt 0": lambda attempt: said, "prompt 1": lambda attempt: Fault.NONE if attempt else said}
    with LoopbackServer(lambda prompt, attempt: plan.get(prompt, lambda _: Fault.NONE)(attempt)) as server:
        results, end = ask(settings(server), calls(4), tmp_path=tmp_path)
        assert end is None and replies(results) == {p: a for p, a in right(4).items() if p != "prompt 0"}
        assert results["prompt 0"].reason == reason and is_passing(reason)
        assert server.received == {"prompt 0": 3, "prompt 1": 2, "prompt 2": 1, "prompt 3": 1}
        assert len(entries(tmp_path)) == 3
        plan.clear()  # the next run asks for nothing else
        results, end = ask(settings(server), calls(4), tmp_path=tmp_path)
        assert replies(results) == right(4) and server.received == {
            "prompt 0": 4,
            "prompt 1": 2,
            "prompt 2": 1,
            "prompt 3": 1,
        }


@pytest.mark.parametrize(
    "body",
    [
        choice(finish_reason="length", message={"role": "assistant", "content": None}),  # Google counts no thought
        choice(finish_reason="content_filter"),
        choice(1),
        choice(message={"role": "assistant", "content": None, "refusal": "I won't"}),
        {"choices": [{"text": "", "finish_reason": "stop"}]},  # no usage: nothing says that it is not an answer
    ],
)
def test_an_answer_that_may_be_empty_by_right_is_kept(tmp_path, body):
    with LoopbackServer(lambda *_: Said(200, body)) as server:
        results, _ = ask(settings(server), calls(1), tmp_path=tmp_path)
        assert results["prompt 0"].body == body and len(entries(tmp_path)) == 1


# --- 429 ---


def limited(headers=None, **fields):
    return Said(429, error("Rate limit reached", **fields), headers or {})


def retry_after(left):
    return limited({"Retry-After": f"{left:.3f}"})


@pytest.mark.parametrize("busy", [retry_after, lambda left: limited()], ids=["told when", "told nothing"])
def test_forty_rows_at_ten_requests_a_minute_end_with_forty_answers(tmp_path, busy):
    clock = FakeClock()
    plan = Window(10, 60, busy=busy, now=clock.now)
    with LoopbackServer(plan) as server:
        http = settings(server, max_retries=0, max_backoff_s=60)
        results, end = ask(http, calls(40), tmp_path=tmp_path, clock=clock)
        assert end is None and replies(results) == right(40)
        assert clock.time >= 180 and plan.refused <= 40  # it did slow down


def test_a_limit_in_real_time(tmp_path):
    plan = Window(10, 0.6, busy=retry_after)
    with LoopbackServer(plan) as server:
        results, end = ask(settings(server, max_retries=0, max_backoff_s=1), calls(40), tmp_path=tmp_path)
        assert end is None and replies(results) == right(40)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (limited({"Retry-After": "90"}), 90),
        (limited({"retry-after-ms": "1500", "Retry-After": "90"}), 1.5),
        (limited({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}), 360),
        (limited({"X-RateLimit-Reset-Tokens": "250ms"}), 0.25),
        (Said(429, [error("Quota exceeded", details=[{"@type": "RetryInfo", "retryDelay": "38s"}])]), 38),
        (Said(429, error("Limit 10000. Please try again in 41.724s. Visit https://x.org/9 to learn")), 41.724),
        (Said(429, error("exceeded token rate limit. Please retry after 26 seconds.", code="429")), 26),
        (Said(200, error("Provider is busy", code=429), {"Retry-After": "7"}), 7),
        (Said(503, error("loading"), {"Retry-After": "20"}), 20),
    ],
)
def test_the_whole_endpoint_waits_as_long_as_the_server_asks(tmp_path, said, seconds):
    clock, sent_at = FakeClock(), {}

    def plan(prompt, attempt):
        sent_at.setdefault(prompt, []).append(clock.time)
        return said if prompt == "prompt 0" and not attempt else Fault.NONE

    with LoopbackServer(plan) as server:
        results, _ = ask(settings(server, concurrency=1), calls(3), tmp_path=tmp_path, clock=clock)
        assert replies(results) == right(3)
    later = sorted(itertools.chain(*sent_at.values()))[1:]
    assert seconds <= later[0] and later[-1] <= seconds + 0.6


NOW = 1_750_000_000.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X-RateLimit-Reset": str(int((NOW + 12) * 1000))}, 12),  # OpenRouter: milliseconds since the epoch
        ({"x-ratelimit-reset": str(int(NOW + 12))}, 12),
        ({"ratelimit-reset": "12"}, 12),
        ({"x-rate-limit-reset": formatdate(NOW + 12, usegmt=True)}, 12),
        ({"anthropic-ratelimit-tokens-reset": "2025-06-15T15:06:52Z"}, 12),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "900",
            },
            1,
        ),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "7"}, None),
        ({"x-ratelimit-reset-tokens": "0", "x-ratelimit-remaining-tokens": "-1"}, None),  # Azure's nonsense
        ({"x-ratelimit-reset": str(int(NOW - 5))}, 0),
        ({"x-ratelimit-reset": "soon"}, None),
        ({}, None),
    ],
)
def test_waits_that_headers_ask_for(headers, seconds):
    assert asked_wait_s(headers, now=NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *[("120ms", 0.12), ("6m0s", 360), ("1h2m3.5s", 3723.5), ("1 minute 20 seconds", 80), ("12", 12)],
        *[("", None), ("s", None), ("-1s", None), ("5 apples", None), ("nan", None), ("1s!", None)],
    ],
)
def test_durations(text, seconds):
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


def test_what_a_whole_answer_says_is_used_up_is_waited_for(tmp_path):
    left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "30s"}
    assert used_up_wait_s(left, now=0) == 30 and used_up_wait_s(left | {next(iter(left)): "3"}, now=0) is None
    clock, sent_at = FakeClock(), []

    def plan(prompt, attempt):
        sent_at.append(clock.time)
        return Said(200, body_of(prompt, answer_to(prompt)), left)

    with LoopbackServer(plan) as server:
        http = settings(server, concurrency=1, max_backoff_s=60)
        results, _ = ask(http, calls(3), tmp_path=tmp_path, clock=clock)
        assert replies(results) == right(3)
    assert sent_at[1] >= 30 and sent_at[2] >= sent_at[1] + 30


def test_a_429_for_ever_ends_the_run_and_the_next_one_goes_on(tmp_path):
    clock = FakeClock()
    with LoopbackServer(lambda prompt, _: Fault.NONE if prompt < "prompt 5" else limited()) as server:
        http = settings(server, max_backoff_s=60, max_rate_limited_s=600)
        results, end = ask(http, calls(9), tmp_path=tmp_path, clock=clock)
        assert replies(results) == right(5) and len(results) == 5
        assert "http.max_rate_limited_s=600" in str(end) and "Rate limit reached" in str(end)
        assert server.base_url in str(end) and 300 <= clock.time <= 700
        assert server.received.total() < 5 + 8 + 30
        server.plan = lambda *_: Fault.NONE
        results, end = ask(http, calls(9), tmp_path=tmp_path)
        assert end is None and replies(results) == right(9) and set(server.accepted.values()) == {1}


def test_a_pause_longer_than_allowed_ends_the_run_at_once(tmp_path):
    clock = FakeClock()
    with LoopbackServer(lambda *_: limited({"Retry-After": "86400"})) as server:
        results, end = ask(settings(server, concurrency=2), calls(9), tmp_path=tmp_path, clock=clock)
        assert results == {} and "http.max_rate_limited_s" in str(end) and clock.time < 1


def test_a_429_of_one_request_that_is_too_large_is_that_rows(tmp_path):
    large = Said(429, error("Request too large for gpt-x on tokens per min (TPM): Limit 10000, Requested 15000"))
    with LoopbackServer(lambda prompt, _: large if prompt == "prompt 2" else Fault.NONE) as server:
        results, end = ask(settings(server), calls(6), tmp_path=tmp_path)
        assert end is None and results["prompt 2"].reason == "refused" and server.received["prompt 2"] == 1


GOOGLE = "You exceeded your current quota, please check your plan and billing details."


def google(quota):
    failure = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": quota}]}
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "2s"}
    return Said(429, [error(GOOGLE, code=429, status="RESOURCE_EXHAUSTED", details=[failure, retry])])


SPENT = {
    "OpenAI": Said(429, error(GOOGLE, type="insufficient_quota", code="insufficient_quota")),
    "OpenAI, hard limit": Said(429, error("Billing hard limit has been reached", code="billing_hard_limit_reached")),
    "OpenAI, a day": Said(429, error("Rate limit reached on requests per day (RPD): Limit 200. Try again in 7m12s.")),
    "Google, a day": google("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
    "OpenRouter, a day": Said(429, error("Rate limit exceeded: free-models-per-day. Add 10 credits", code=429)),
    "OpenRouter": Said(402, error("This request requires more credits, or fewer max_tokens.", code=402)),
    "OpenRouter, 200": Said(200, error("Insufficient credits", code=402)),
    "Moonshot": Said(429, error("Your account is suspended", type="exceeded_current_quota_error")),
    "DeepSeek": Said(402, error("Insufficient Balance", code="invalid_request_error")),
    "Anthropic": Said(400, error("Your credit balance is too low to access the API.")),
    "LiteLLM": Said(400, error("ExceededBudget: Budget has been exceeded! Current cost: 1.2", type="budget_exceeded")),
    "wrong key": Said(401, error("Incorrect API key provided: {credential}.", code="invalid_api_key")),
}


@pytest.mark.parametrize("said", SPENT.values(), ids=SPENT)
def test_a_spent_quota_stops_at_once_and_quotes_the_server(tmp_path, said):
    with LoopbackServer(lambda prompt, _: Fault.NONE if prompt < "prompt 3" else said) as server:
        results, end = ask(settings(server, concurrency=4), calls(1000), tmp_path=tmp_path)
        assert set(replies(results)) <= set(right(1000)) and all(isinstance(r, Reply) for r in results.values())
        words = said.body[0] if isinstance(said.body, list) else said.body
        assert words["error"]["message"].split("{")[0] in str(end) and "LOOPBACK_KEY" in str(end)
        assert server.received.total() <= server.accepted.total() + 4 and KEY not in str(end)


def test_a_quota_of_a_minute_is_waited_for(tmp_path):
    clock, busy = FakeClock(), google("GenerateRequestsPerMinutePerProjectPerModel-FreeTier")
    plan = Window(3, 60, busy=lambda left: busy, now=clock.now)
    with LoopbackServer(plan) as server:
        results, end = ask(settings(server, max_backoff_s=60), calls(7), tmp_path=tmp_path, clock=clock)
        assert end is None and replies(results) == right(7)


# --- Limits of the configuration ---


def test_requests_per_minute_are_spread_evenly():
    clock, sent_at = FakeClock(), []

    async def send(pace):
        async with pace.turn(tokens=1, may_send=lambda: None):
            sent_at.append(clock.time)
            await asyncio.sleep(0)

    async def all_of_them():
        pace = Pace(Http(requests_per_minute=30, concurrency=8), clock=clock)
        await asyncio.gather(*(send(pace) for _ in range(20)))

    asyncio.run(all_of_them())
    assert sent_at == pytest.approx([2 * n for n in range(20)])


def test_a_run_with_limits_comes_to_its_end(tmp_path):
    clock = FakeClock()
    with LoopbackServer() as server:
        http = settings(server, requests_per_minute=60, tokens_per_minute=600)
        results, end = ask(http, calls(20), tmp_path=tmp_path, clock=clock)
        assert end is None and replies(results) == right(20) and clock.time >= 19


def test_tokens_per_minute_are_estimated_and_corrected():
    limit = RateLimit(600)  # ten a second
    assert limit.wait_s(0) == 0
    limit.take(50, now=0)
    assert limit.wait_s(0) == 5 and limit.wait_s(4) == 1
    limit.correct(-40)  # it took ten
    assert limit.wait_s(0) == 1 and limit.wait_s(9) == 0
    limit.take(20, now=100)  # what was not taken before is not made up for
    assert limit.wait_s(100) == 2
    assert RateLimit(None).wait_s(0) == 0
    assert estimated_tokens({"prompt": [1, 2, 3], "max_tokens": 7}) == 10
    assert estimated_tokens({"messages": [{"role": "user", "content": "x" * 40}], "max_completion_tokens": 5}) == 15


def test_tokens_per_minute_slow_an_endpoint(tmp_path):
    clock = FakeClock()
    with LoopbackServer() as server:
        http = settings(server, concurrency=1, tokens_per_minute=60)
        results, _ = ask(http, calls(11), tmp_path=tmp_path, clock=clock)
        assert replies(results) == right(11)
    used = [r.prompt_tokens + r.completion_tokens for r in results.values()]
    assert sum(used[:-1]) - 1e-6 <= clock.time <= sum(max(tokens, 13) for tokens in used)  # a token a second


# --- Refusals ---

FILTERED = {
    "OpenRouter": Said(
        403,
        error(
            'openai/x requires moderation on OpenAI. Your input was flagged for "hate".',
            code=403,
            metadata={"reasons": ["hate"], "flagged_input": "..."},
        ),
    ),
    "Azure": Said(
        400,
        error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
            code="content_filter",
            innererror={"code": "ResponsibleAIPolicyViolation"},
        ),
    ),
    "OpenAI": Said(400, error("Invalid prompt: it was flagged as violating our usage policy", code="invalid_prompt")),
    "DeepSeek": Said(400, error("Content Exists Risk", type="invalid_request_error")),
    "vLLM": Said(
        400,
        {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "code": 400},
    ),
    "TGI": Said(
        422,
        {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000"},
    ),
    "in a 200": Said(200, error("Input blocked by content filter", code=400)),
    "unknown words": Said(400, error("no")),
    "a firewall": Said(403, "<html>Blocked by our firewall</html>", kind="text/html"),
}


@pytest.mark.parametrize("said", FILTERED.values(), ids=FILTERED)
def test_a_refusal_of_some_rows_is_theirs_and_the_run_goes_on(tmp_path, said):
    refused = {f"prompt {n}" for n in (0, 7, 8, 9, 31)}
    with LoopbackServer(lambda prompt, _: said if prompt in refused else Fault.NONE) as server:
        results, end = ask(settings(server), calls(40), tmp_path=tmp_path)
        assert end is None and len(replies(results)) == 35
        lost = {prompt: r.reason for prompt, r in results.items() if isinstance(r, Failure)}
        assert lost == dict.fromkeys(refused, "refused") and not is_passing("refused")
        assert set(server.received.values()) == {1}


def test_many_rows_in_a_row_may_be_refused_for_what_they_say(tmp_path):
    flagged = {f"prompt {n}" for n in range(5, 95)}
    with LoopbackServer(lambda prompt, _: FILTERED["Azure"] if prompt in flagged else Fault.NONE) as server:
        results, end = ask(settings(server, concurrency=2), calls(100), tmp_path=tmp_path)
        assert end is None and len(replies(results)) == 10
        assert {r.reason for p, r in results.items() if p in flagged} == {"refused"}


class Quoting:
    """Refuses all, and repeats what was asked, as FastAPI does."""

    def __call__(self, prompt, attempt):
        fault = {"type": "extra_forbidden", "loc": ["body", "foo"], "msg": "not permitted", "input": prompt}
        return Said(422, {"detail": [fault]})


def quoting_first(prompt, attempt):
    return Said(400, error(f"{prompt[::-1]} could not be processed: unknown field"))


ALL_REFUSED = {
    "no such model": Said(404, error("The model `x` does not exist", code="model_not_found")),
    "no such page": Said(404, "<html><title>404 Not Found</title></html>", kind="text/html"),
    "wrong method": Said(405, {"detail": "Method Not Allowed"}),
    "login": Said(302, "", {"Location": "https://login.example.org/"}),
    "unknown field": Said(400, error("Unrecognized request argument supplied: foo {credential}")),
    "wrong key": Said(403, error("You are not allowed to use this: {credential}")),
    "flagged": FILTERED["OpenRouter"],
    "too long": FILTERED["vLLM"],
    "quotes the row": Quoting(),
    "begins with the row": quoting_first,
}


@pytest.mark.parametrize("said", ALL_REFUSED.values(), ids=ALL_REFUSED)
@pytest.mark.parametrize("concurrency", [1, 32])
def test_a_server_that_refuses_all_is_soon_left_alone_and_nothing_is_lost(tmp_path, said, concurrency):
    with LoopbackServer(said if callable(said) else lambda *_: said) as server:
        results, end = ask(settings(server, concurrency=concurrency), calls(2000), tmp_path=tmp_path)
        assert results == {} and end is not None and server.base_url in str(end)
        assert server.received.total() < 20 + concurrency
        status = said.status if isinstance(said, Said) else said("p", 0).status
        assert f"HTTP {status}" in str(end) and KEY not in str(end) and "max_refusals" in str(end)


@pytest.mark.parametrize("name", ["no such model", "wrong key", "unknown field"])
def test_a_key_or_model_that_is_gone_in_the_middle_stops_the_run(tmp_path, name):
    with LoopbackServer() as server:
        server.plan = lambda *_: Fault.NONE if server.received.total() < 50 else ALL_REFUSED[name]
        results, end = ask(settings(server, concurrency=4), calls(2000), tmp_path=tmp_path)
        assert end is not None and server.received.total() < 50 + 20 + 4
        assert len(results) == len(replies(results)) == server.accepted.total() == len(entries(tmp_path))
        server.plan = lambda *_: Fault.NONE
        results, end = ask(settings(server), calls(60), tmp_path=tmp_path)
        assert end is None and replies(results) == right(60) and set(server.accepted.values()) == {1}


def test_one_refused_row_alone_proves_nothing_unless_its_words_do(tmp_path):
    """The last row of a run: nothing else is in flight that could tell whether the endpoint refuses all."""
    with LoopbackServer() as server:
        for said, reason in (("unknown words", "http_400"), ("Azure", "refused"), ("vLLM", "refused")):
            server.plan = lambda *_, said=said: FILTERED[said]
            results, end = ask(settings(server), calls(1), tmp_path=tmp_path)
            assert end is None and results["prompt 0"].reason == reason
        assert is_passing("http_400")
        server.plan = lambda *_: ALL_REFUSED["no such model"]
        results, end = ask(settings(server), calls(1), tmp_path=tmp_path)
        assert results == {} and "does not exist" in str(end)
        server.plan = lambda *_: FILTERED["unknown words"]  # three of three
        results, end = ask(settings(server), calls(3), tmp_path=tmp_path)
        assert results == {} and "HTTP 400" in str(end)


def test_without_a_limit_every_refusal_is_its_rows(tmp_path):
    with LoopbackServer(lambda *_: FILTERED["unknown words"]) as server:
        results, end = ask(settings(server, max_refusals=None), calls(50), tmp_path=tmp_path)
        assert end is None and {r.reason for r in results.values()} == {"refused"} and len(results) == 50


def test_an_endpoint_that_goes_down_in_the_middle_stops_the_run(tmp_path):
    with LoopbackServer() as server:
        server.plan = lambda *_: Fault.NONE if server.received.total() < 30 else Fault.ERROR_TEXT
        results, end = ask(settings(server, max_retries=1, concurrency=4), calls(2000), tmp_path=tmp_path)
        assert "overloaded" in str(end) and "max_retries=1" in str(end)
        assert server.received.total() < 30 + 2 * (15 + 4)
        assert {r.reason for r in results.values() if isinstance(r, Failure)} == {"server_error"}


def test_single_calls_share_the_verdict(tmp_path):
    """Chats ask call by call, many at once."""

    async def all_at_once():
        async with Endpoint(settings(server), cache=Directory(str(tmp_path / "cache"))) as endpoint:
            return await asyncio.gather(*map(endpoint.complete, calls(30)), return_exceptions=True)

    with LoopbackServer(lambda *_: ALL_REFUSED["unknown field"]) as server:
        found = asyncio.run(asyncio.wait_for(all_at_once(), 20))
        assert {type(one) for one in found} == {EndpointRefused} and server.received.total() < 20 + 8
        server.plan = lambda prompt, _: FILTERED["unknown words"] if prompt == "prompt 4" else Fault.NONE
        found = asyncio.run(asyncio.wait_for(all_at_once(), 20))
        assert found[4].reason == "refused" and sum(isinstance(one, Reply) for one in found) == 29


# --- Words ---


def test_words_are_looked_for_where_the_server_speaks_not_where_it_repeats_the_row():
    body = {"detail": [{"type": "missing", "msg": "Field required", "input": "safety moderation insufficient_quota"}]}
    found = read_error(body, status=422)
    assert not found.of_row and not found.of_account
    first, second = (read_error(error(f"bad field 'x{n}' in request req_{n}abc"), status=400) for n in range(2))
    assert first.signature == second.signature != read_error(error("worse"), status=400).signature
    deep = json.loads("[" * 500 + "]" * 500)
    assert not read_error(deep, status=400).of_row


@pytest.mark.parametrize(
    ("status", "words", "of"),
    [
        (400, "the request exceeds the available context size (4096 tokens)", "row"),  # llama.cpp
        (400, "The request was rejected because it was considered high risk", "row"),  # Moonshot
        (400, "Please reduce the length of the messages or completion.", "row"),  # Groq
        (400, "系统检测到输入或生成内容可能包含不安全或敏感内容", "row"),  # Zhipu
        (403, "Content violates usage guidelines.", "row"),  # xAI
        (413, "<html>413 Request Entity Too Large</html>", "row"),
        (403, "You have used all available credits or reached its monthly spending limit.", "account"),  # xAI
        (429, "You are using a Trial key, which is limited to 1000 API calls / month.", "account"),  # Cohere
        (400, "API key not valid. Please pass a valid API key.", ""),  # Google: that all are refused will show
        (429, "Requests rate limit exceeded", ""),  # Mistral
        (429, "Too Many Requests: 1 queries per minute (QPM). See https://host/pricing/monthly", ""),  # Together
        (404, "No endpoints found matching your data policy", "all"),  # OpenRouter
    ],
)
def test_what_an_error_is_of(status, words, of):
    found = read_error({"error": {"message": words}}, status=status)
    assert {"row": found.of_row, "account": found.of_account, "all": found.of_all} == {
        name: name == of for name in ("row", "account", "all")
    }


@pytest.mark.parametrize("name", ["echo", "escaped", "percent"])
def test_the_key_is_in_no_message(tmp_path, caplog, name):
    forms = {"echo": KEY, "escaped": KEY.replace("/", "\\/"), "percent": "sk-loopback%2F0123456789%2Babcdef%3D%3D"}
    body = f'{{"error": {{"message": "you sent {forms[name]}", "code": CODE}}}}'
    kinds = [(429, "429"), (404, "404"), (500, "500"), (403, "403"), (200, "402"), (400, '"content_filter"')]
    for number, (status, code) in enumerate(kinds):
        said = Said(status, body.replace("CODE", code), {"Retry-After": "99999"} if status == 429 else {})
        with LoopbackServer(lambda *_, said=said: said) as server:
            http = settings(server, max_retries=0, max_refusals=1)
            results, end = ask(http, calls(60), tmp_path=tmp_path / str(number), clock=FakeClock())
        text = f"{results} {end} {caplog.text}"
        assert end is not None and "you sent ***" in text and "0123456789" not in text
